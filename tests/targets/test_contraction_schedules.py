"""Contractions, scheduled: matrix products and convolutions of every kind of size give what PyTorch gives."""

from __future__ import annotations

import pytest
import torch
from tvm import te, tirx, topi

from edgecc.targets.tvm_cpu.schedules.contract import contract
from edgecc.targets.tvm_cpu.schedules.contraction import recognise
from edgecc.targets.tvm_cpu.schedules.core import CORES
from edgecc.targets.tvm_cpu.schedules.epilogue import epilogue_of
from edgecc.targets.tvm_cpu.schedules.plan import Param
from edgecc.targets.tvm_cpu.schedules.stage import read
from edgecc.targets.tvm_cpu.standalone.ranges import outermost_parallel
from tests.targets.schedule_host import check

CPUS = ["x86-64-v3", "cortex-a72"]  # tiles of either kind: broadcast, and by lane or in panels; the code runs on this machine


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def linear(x, w, b):
    """gelu-free `relu(x @ w + b)` over the last axis of x [.., k] and w [k, n]."""
    k = te.reduce_axis((0, w.shape[0]), "k")
    product = te.compute((*x.shape[:-1], w.shape[1]), lambda *i: te.sum(x(*i[:-1], k) * w(k, i[-1]), axis=k), name="product")
    added = te.compute(product.shape, lambda *i: product(*i) + b(i[-1]), name="added")
    return te.compute(product.shape, lambda *i: tirx.Select(added(*i) < 0, tirx.const(0, "float32"), added(*i)), name="clipped")


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(
    "rows, depth, columns",
    [
        (1, 1, 1),
        (1, 7, 5),
        (1, 64, 10),
        (2, 3, 17),
        (3, 16, 8),
        (5, 9, 33),
        (7, 31, 12),
        (16, 64, 48),
        (97, 33, 29),
        (128, 96, 100),
        (23, 4, 3),
    ],
)
def test_linear(cpu, rows, depth, columns):
    x, w, b = random(rows, depth), random(depth, columns), random(columns)
    want = torch.relu(x @ w + b)
    rule = check(linear, [t.numpy() for t in (x, w, b)], want.numpy(), constants={1, 2}, cpu=cpu)
    assert rule.startswith("contraction") or columns == 1


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 64, 127])
def test_linear_of_a_dynamic_number_of_rows(cpu, rows):
    x, w, b = random(2, rows, 24), random(24, 52), random(52)
    dynamic = {0: [None, "rows", None]}
    check(linear, [t.numpy() for t in (x, w, b)], torch.relu(x @ w + b).numpy(), constants={1, 2}, dynamic=dynamic, cpu=cpu)


def product(x, y):
    k = te.reduce_axis((0, x.shape[-1]), "k")
    return te.compute((*x.shape[:-1], y.shape[-1]), lambda *i: te.sum(x(*i[:-1], k) * y(*i[:-2], k, i[-1]), axis=k), name="product")


def scores(x, y):
    """x [.., m, k], y [.., n, k] -> x y' / 4."""
    k = te.reduce_axis((0, x.shape[-1]), "k")
    raw = te.compute((*x.shape[:-1], y.shape[-2]), lambda *i: te.sum(x(*i[:-1], k) * y(*i[:-2], i[-1], k), axis=k), name="raw")
    return te.compute(raw.shape, lambda *i: raw(*i) * tirx.const(0.25, "float32"), name="scaled")


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("rows, depth, columns", [(4, 8, 16), (8, 5, 7), (13, 32, 13), (65, 16, 65), (128, 32, 128)])
def test_products_of_two_activations(cpu, rows, depth, columns):
    x, y = random(2, 3, rows, depth), random(2, 3, depth, columns)
    check(product, [x.numpy(), y.numpy()], (x @ y).numpy(), cpu=cpu)
    z = random(2, 3, columns, depth)
    check(scores, [x.numpy(), z.numpy()], (x @ z.mT / 4).numpy(), cpu=cpu)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("length", [4, 5, 12, 33, 64])
def test_attention_of_a_dynamic_length(cpu, length):
    q, k = random(2, length, 16), random(2, length, 16)
    check(scores, [q.numpy(), k.numpy()], (q @ k.mT / 4).numpy(), dynamic={0: [None, "n", None], 1: [None, "n", None]}, cpu=cpu)
    p, v = random(2, length, length), random(2, length, 20)
    check(product, [p.numpy(), v.numpy()], (p @ v).numpy(), dynamic={0: [None, "n", "n"], 1: [None, "n", None]}, cpu=cpu)


def convolution(stride, padding, dilation, groups=1):
    def compute(x, w, b):
        padded = topi.nn.pad(x, [0, padding, padding, 0], [0, padding, padding, 0]) if padding else x
        kh, kw, per_group, out = w.shape
        i, j, c = te.reduce_axis((0, kh), "i"), te.reduce_axis((0, kw), "j"), te.reduce_axis((0, per_group), "c")
        sizes = [(padded.shape[1 + d] - dilation * (w.shape[d] - 1) - 1) // stride + 1 for d in range(2)]
        member = out // groups

        def element(n, y, z, f):
            channel = c if groups == 1 else tirx.floordiv(f, member) * per_group + c
            return te.sum(padded[n, y * stride + i * dilation, z * stride + j * dilation, channel] * w[i, j, c, f], axis=[i, j, c])

        sums = te.compute((x.shape[0], *sizes, out), element, name="conv")
        return te.compute(
            sums.shape, lambda n, y, z, f: tirx.Select(sums[n, y, z, f] + b[f] < 0, tirx.const(0, "float32"), sums[n, y, z, f] + b[f])
        )

    return compute


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(
    "size, channels, out, kernel, stride, padding, dilation, groups",
    [
        (8, 16, 16, 3, 1, 1, 1, 1),
        (9, 3, 8, 3, 2, 1, 1, 1),
        (7, 5, 11, 3, 1, 0, 1, 1),
        (14, 8, 24, 1, 1, 0, 1, 1),
        (13, 4, 20, 5, 2, 2, 1, 1),
        (11, 8, 12, 3, 1, 2, 2, 1),
        (10, 8, 16, 3, 1, 1, 1, 2),
        (9, 12, 24, 1, 1, 0, 1, 3),
        (1, 8, 8, 1, 1, 0, 1, 1),
        (33, 4, 36, 3, 1, 1, 1, 1),
    ],
)
def test_convolution(cpu, size, channels, out, kernel, stride, padding, dilation, groups):
    x, w, b = random(2, channels, size, size + 1), random(out, channels // groups, kernel, kernel), random(out)
    want = torch.relu(torch.conv2d(x, w, b, stride, padding, dilation, groups)).permute(0, 2, 3, 1)
    arrays = [x.permute(0, 2, 3, 1).contiguous().numpy(), w.permute(2, 3, 1, 0).contiguous().numpy(), b.numpy()]
    rule = check(convolution(stride, padding, dilation, groups), arrays, want.numpy(), constants={1, 2}, cpu=cpu)
    assert rule.split("; ")[-1].startswith("contraction")


@pytest.mark.parametrize("batch", [1, 3])
def test_convolution_of_a_dynamic_batch(batch):
    x, w, b = random(batch, 6, 9, 9), random(10, 6, 3, 3), random(10)
    want = torch.relu(torch.conv2d(x, w, b, 1, 1)).permute(0, 2, 3, 1)
    arrays = [x.permute(0, 2, 3, 1).contiguous().numpy(), w.permute(2, 3, 1, 0).contiguous().numpy(), b.numpy()]
    check(convolution(1, 1, 1), arrays, want.numpy(), constants={1, 2}, dynamic={0: ["batch", None, None, None]})


def sums_and(*outputs):
    """The function of `x @ w + r` and of what each of `outputs` makes of an element of it."""
    shapes = {"x": (9, 8), "w": (8, 16), "r": (9, 16)}
    x, w, r = (te.placeholder(tuple(tirx.const(n, "int64") for n in shape), name=name) for name, shape in shapes.items())
    added = topi.add(product(x, w), r)
    made = [te.compute(added.shape, lambda i, j: output(added(i, j), r(i, j)), name=f"made{n}") for n, output in enumerate(outputs)]  # noqa: B023
    return read("function", te.create_prim_func([x, w, r, *made]))


def test_the_result_may_take_the_place_of_a_residual_that_nothing_else_reads():
    plan = contract(sums_and(lambda a, r: a * 2.0), CORES["cortex-a72"], frozenset({1}))
    (residual,) = plan.steps[-1].in_place
    assert plan.steps[-1].reads[residual] == Param(2)
    assert contract(sums_and(lambda a, r: a * 2.0, lambda a, r: a + r), CORES["cortex-a72"], frozenset({1})).steps[-1].in_place == []


@pytest.mark.parametrize("rows, starts_from_bias", [(1, True), (2, False)])
def test_the_sums_start_from_a_bias_along_the_columns_alone(rows, starts_from_bias):
    """A bias [rows, columns] is one where there is one row."""
    x, w, b = (
        te.placeholder(tuple(tirx.const(n, "int64") for n in shape), name=n)
        for n, shape in (("x", (rows, 8)), ("w", (8, 16)), ("b", (rows, 16)))
    )
    kernel = read("function", te.create_prim_func([x, w, b, topi.nn.relu(topi.add(product(x, w), b))]))
    stage = kernel.stages[0]
    epilogue = epilogue_of(kernel, stage, recognise(kernel, stage).column.var)
    assert (epilogue.seed is not None) == starts_from_bias


@pytest.mark.parametrize("rows, columns", [(128, 384), (128, 1000), (3, 100)])
def test_rows_are_shared_among_threads_where_panels_are_few(rows, columns):
    x, w = (
        te.placeholder(tuple(tirx.const(n, "int64") for n in shape), name=n) for n, shape in (("x", (rows, 256)), ("w", (256, columns)))
    )
    kernel = read("function", te.create_prim_func([x, w, product(x, w)]))
    plan = contract(kernel, CORES["skylake-avx512"], frozenset({1}))
    assert "columns outside" in plan.rule
    _, parts = outermost_parallel(plan.steps[-1].function)
    assert parts >= min(32, rows // 4)
