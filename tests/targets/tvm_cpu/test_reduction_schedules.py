"""Reductions, scheduled: every size, dtype and special value gives what PyTorch gives, on vectors of 4 and 8 lanes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from tvm import relax, te, tirx, topi

from edgecc.targets.tvm_cpu.schedules.core import CORES
from edgecc.targets.tvm_cpu.schedules.reduction import nest_loops, reduce
from edgecc.targets.tvm_cpu.schedules.stage import read
from tests.targets.plan_host import check, operator, size, tensor

INF, NAN = float("inf"), float("nan")
S, T = size("s"), size("t")


def random(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def primitive(*tensors):
    """Inputs first, outputs last."""
    return te.create_prim_func(list(tensors))


def agrees(function, inputs, *want, **options):
    return check(function, inputs, *want, planner=nest_loops, **options)


# -- rows


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (2, 240, 4), (2, 4, 17, 17), (7, 31), (3, 200), (64, 128)])
def test_softmax_over_the_last_axis_is_one_kernel(shape):
    x, given = tensor(*shape), random(*shape)
    rules = agrees(primitive(x, topi.nn.softmax(x)), [given], given.softmax(-1))
    assert all(";" not in rule and rule.startswith("reduction of rows") for rule in rules)


@pytest.mark.parametrize("shape, axis", [((2, 8, 4, 64), 1), ((2, 5, 37), 1), ((3, 7, 3), 0)])
def test_softmax_over_another_axis_has_its_vector_along_the_last(shape, axis):
    x, given = tensor(*shape), random(*shape)
    rules = agrees(primitive(x, topi.nn.softmax(x, axis=axis)), [given], given.softmax(axis))
    assert all(rule.startswith("reduction of columns") for rule in rules)


@pytest.mark.parametrize("s, t", [(1, 1), (2, 7), (3, 32), (2, 53)])
def test_softmax_of_dynamic_sizes(s, t):
    x, given = tensor(S, 4, T, T), random(s, 4, t, t)
    agrees(primitive(x, topi.nn.softmax(x)), [given], given.softmax(-1))


def test_softmax_of_special_values():
    x = tensor(5, 6)
    given = torch.tensor([[1, NAN, 2, 3, 4, 5], [1, INF, 2, 3, 4, 5], [-INF] * 6, [1e38, -1e38, 0, 1, 2, 3], [-INF, 0, 1, -INF, 2, -INF]])
    agrees(primitive(x, topi.nn.softmax(x)), [given], given.softmax(-1))


def test_softmax_of_a_row_that_no_stack_holds():
    x, given = tensor(2, 50000), random(2, 50000)
    agrees(primitive(x, topi.nn.softmax(x)), [given], given.softmax(-1))


@pytest.mark.parametrize("after, want", [
    (lambda y: topi.multiply(y, tirx.const(2.0, "float32")), lambda y: 2 * y),
    (lambda y: topi.strided_slice(y, [0, 3], [4, 9]), lambda y: y[:, 3:9]),
    (topi.transpose, lambda y: y.T.contiguous()),
    (lambda y: topi.reshape(y, [tirx.const(n, "int64") for n in (2, 2, 24)]), lambda y: y.reshape(2, 2, 24)),
    (lambda y: topi.sum(y, 0), lambda y: y.sum(0)),
])  # fmt: skip
def test_what_comes_after_a_softmax(after, want):
    x, given = tensor(4, 24), random(4, 24)
    agrees(primitive(x, after(topi.nn.softmax(x))), [given], want(given.softmax(1)))


@pytest.mark.parametrize("shape", [(2, 10), (3, 33)])
def test_log_softmax(shape):
    x, given = tensor(*shape), random(*shape)
    agrees(primitive(x, topi.nn.log_softmax(x)), [given], given.log_softmax(-1))


def masked_softmax(x):
    """Zeros for a row of nothing but -inf."""
    largest = topi.max(x, 2, keepdims=True)
    zero, one, low = (tirx.const(v, "float32") for v in (0.0, 1.0, -INF))
    powers = te.compute(x.shape, lambda *i: tirx.exp(x(*i) - tirx.Select(largest(i[0], i[1], 0) == low, zero, largest(i[0], i[1], 0))))
    total = topi.sum(powers, 2, keepdims=True)
    return te.compute(x.shape, lambda *i: powers(*i) / tirx.Select(total(i[0], i[1], 0) == 0, one, total(i[0], i[1], 0)))


@pytest.mark.parametrize("shape", [(2, 3, 16), (2, 3, 21)])
def test_a_masked_row_is_zero(shape):
    x, given = tensor(*shape), random(*shape)
    given[0, 1], given[1, 0, :2] = -INF, -INF
    agrees(primitive(x, masked_softmax(x)), [given], given.softmax(-1).nan_to_num(0))


def standardized(x, scale, shift, over, affine):
    """`(x - mean) rsqrt(var + 1e-5) scale + shift` over the axes `over`; scale and shift have the axes `affine`."""
    count = tirx.const(1, "int64")
    for axis in over:
        count = count * x.shape[axis]
    count = count.astype("float32")
    total = topi.sum(x, over, keepdims=True)
    row = lambda i: [0 if k in over else v for k, v in enumerate(i)]  # noqa: E731
    mean = te.compute(total.shape, lambda *i: total(*i) / count)
    squares = te.compute(x.shape, lambda *i: (x(*i) - mean(*row(i))) * (x(*i) - mean(*row(i))))
    spread = topi.sum(squares, over, keepdims=True)
    factor = te.compute(spread.shape, lambda *i: tirx.rsqrt(spread(*i) / count + tirx.const(1e-5, "float32")))
    own = lambda i: [i[k] for k in affine]  # noqa: E731
    return te.compute(x.shape, lambda *i: (x(*i) - mean(*row(i))) * factor(*row(i)) * scale(*own(i)) + shift(*own(i)))


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (4, 24), (2, 17, 32), (3, 384), (2, 3, 1025)])
def test_layer_norm_is_one_kernel(shape):
    n, last = shape[-1], len(shape) - 1
    x, scale, shift = tensor(*shape), tensor(n), tensor(n)
    given, weight, bias = random(*shape) + 5, random(n, seed=1), random(n, seed=2)
    rules = agrees(
        primitive(x, scale, shift, standardized(x, scale, shift, [last], [last])),
        [given, weight, bias],
        functional.layer_norm(given, (n,), weight, bias),
        tolerance=5e-6,  # the scale of the weights enters, besides sums in another order
    )
    assert all(";" not in rule for rule in rules)


@pytest.mark.parametrize("s, t", [(1, 1), (2, 5), (3, 40)])
def test_layer_norm_of_dynamic_sizes(s, t):
    x, scale, shift = tensor(2, S, T), tensor(T), tensor(T)
    given, weight, bias = random(2, s, t), random(t, seed=1), random(t, seed=2)
    want = functional.layer_norm(given, (t,), weight, bias)
    agrees(primitive(x, scale, shift, standardized(x, scale, shift, [2], [2])), [given, weight, bias], want, tolerance=5e-6)


@pytest.mark.parametrize("shape, over, affine", [
    ((2, 4, 4, 8, 8), [2, 3, 4], [1, 2]), ((1, 3, 5, 7, 3), [2, 3, 4], [1, 2]),
    ((2, 5, 5, 4, 8), [1, 2, 4], [3, 4]), ((1, 4, 4, 8, 3), [1, 2, 4], [3, 4]), ((2, 3, 3, 37, 1), [1, 2, 4], [3, 4]),
])  # fmt: skip
def test_group_norm_in_both_layouts(shape, over, affine):
    own = [shape[k] for k in affine]
    x, scale, shift = tensor(*shape), tensor(*own), tensor(*own)
    given, weight, bias = random(*shape) + 1, random(*own, seed=1), random(*own, seed=2)
    var, mean = torch.var_mean(given.double(), over, correction=0, keepdim=True)
    spread = [n if k in affine else 1 for k, n in enumerate(shape)]
    want = (given - mean) / (var + 1e-5).sqrt() * weight.reshape(spread) + bias.reshape(spread)
    function = primitive(x, scale, shift, standardized(x, scale, shift, over, affine))
    agrees(function, [given, weight, bias], want.float(), tolerance=5e-6)


# -- sums and extremes

AXES = [((2, 8, 8, 8), (2, 3)), ((2, 7, 7, 160), (1, 2)), ((2, 5, 5, 37), (1, 2)), ((2, 3, 5, 3), (1, 2)), ((4, 6), (0,)), ((4, 6), (1,)),
        ((4, 6), (0, 1)), ((2, 3, 5, 7), (1, 3)), ((2, 3, 5, 8), (0, 2)), ((33,), (0,)), ((3, 1, 1), (1, 2))]  # fmt: skip


@pytest.mark.parametrize("shape, axes", AXES)
def test_sum(shape, axes):
    x, given = tensor(*shape), random(*shape)
    agrees(primitive(x, topi.sum(x, axes)), [given], given.sum(axes), tolerance=4e-6)


@pytest.mark.parametrize("shape, axes", AXES)
@pytest.mark.parametrize("name", ["max", "min"])
def test_an_extreme_is_nan_where_an_element_is(shape, axes, name):
    x, given = tensor(*shape), random(*shape)
    given.view(-1)[given.numel() // 2] = NAN
    given.view(-1)[0] = -INF
    agrees(primitive(x, getattr(topi, name)(x, axes)), [given], getattr(torch, f"a{name}")(given, axes))


@pytest.mark.parametrize("s, t", [(1, 1), (3, 5), (9, 33), (4, 300)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sum_of_dynamic_sizes(s, t, axis):
    x, given = tensor(2, S, T), random(2, s, t)
    agrees(primitive(x, topi.sum(x, axis)), [given], given.sum(axis), tolerance=4e-6)


def test_a_sum_of_no_rows_is_zero():
    x = tensor(S, T)
    agrees(primitive(x, topi.sum(x, 0)), [torch.empty(0, 3)], torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.int32, torch.int8])
@pytest.mark.parametrize("axis", [1, 2])
def test_other_dtypes(dtype, axis):
    x, given = tensor(3, 5, 19, dtype=str(dtype).removeprefix("torch.")), (random(3, 5, 19) * 2).to(dtype)
    agrees(primitive(x, topi.sum(x, axis)), [given], given.sum(axis, dtype=dtype))
    agrees(primitive(x, topi.min(x, axis)), [given], given.amin(axis))


def test_bools_are_counted_and_tested():
    x, given = tensor(3, 5, 19, dtype="bool"), random(3, 5, 19) > 2
    agrees(primitive(x, topi.sum(topi.cast(x, "int64"), 1)), [given], given.sum(1))
    agrees(primitive(x, topi.cast(topi.max(topi.cast(x, "int8"), 2), "bool")), [given], given.any(2))


def test_a_combination_that_is_no_sum_keeps_its_order():
    x, given = tensor(3, 4, 9, dtype="int32"), torch.arange(108, dtype=torch.int32).reshape(3, 4, 9)
    digits = te.comm_reducer(lambda a, b: a * 3 + b, lambda t: tirx.const(0, t), name="digits")
    first, last = (te.reduce_axis((tirx.const(0, "int64"), tirx.const(n, "int64")), "k") for n in (3, 9))
    columns = te.compute(x.shape[1:], lambda i, j: digits(x(first, i, j), axis=first))
    rows = te.compute(x.shape[:2], lambda i, j: digits(x(i, j, last), axis=last))
    for axis, y in ((0, columns), (2, rows)):
        want = torch.zeros_like(given.select(axis, 0))
        for part in given.unbind(axis):
            want = want * 3 + part
        agrees(primitive(x, y), [given], want)


def test_the_maximum_of_a_costly_term():
    x, given = tensor(2, 3, 15, 15), random(2, 3, 15, 15)
    agrees(primitive(x, topi.max(topi.tanh(x), (2, 3))), [given], given.tanh().amax((2, 3)))


# -- positions


@pytest.mark.parametrize("shape, axis", [((2, 5, 7), 1), ((2, 5, 7), 2), ((3, 33), 1), ((4, 1), 1), ((5, 100), 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_the_position_of_the_first_extreme(shape, axis, dtype):
    given = random(*shape).round().to(dtype)
    for name in ("argmax", "argmin"):
        function = operator(lambda x, name=name: getattr(relax.op, name)(x, axis), (shape, str(dtype).removeprefix("torch.")))
        want = getattr(given.numpy(), name)(axis)
        agrees(function, [given], torch.from_numpy(np.ascontiguousarray(want)))


def test_the_position_of_nan_and_of_infinity():
    function = operator(lambda x: relax.op.argmax(x, 1), ((4, 9), "float32"))
    given = random(4, 9)
    given[0, 5], given[1, 7], given[1, 3], given[2, 2], given[2, 4] = NAN, NAN, NAN, INF, NAN
    given[3] = -INF
    agrees(function, [given], given.argmax(1))


# -- windows

POOLS = [((1, 16, 16, 8), (3, 3), (2, 2), (1, 1), (1, 1)), ((2, 15, 13, 5), (3, 3), (2, 2), (1, 1), (1, 1)),
         ((1, 8, 8, 64), (2, 2), (2, 2), (0, 0), (1, 1)), ((1, 9, 11, 37), (3, 2), (1, 2), (1, 0), (2, 1)),
         ((1, 5, 5, 3), (5, 5), (1, 1), (2, 2), (1, 1)), ((2, 13, 5, 16), (13, 5), (13, 5), (0, 0), (1, 1)),
         ((1, 1, 1, 4), (1, 1), (1, 1), (0, 0), (1, 1))]  # fmt: skip


def layouts(shape, given):
    """Both layouts: the shape, the array, and how to lay out a result of PyTorch's."""
    n, h, w, c = shape
    yield "NHWC", shape, given.movedim(1, -1).contiguous(), lambda y: y.movedim(1, -1).contiguous()
    yield "NCHW", (n, c, h, w), given, lambda y: y


@pytest.mark.parametrize("shape, kernel, stride, pad, dilation", POOLS)
def test_max_pooling(shape, kernel, stride, pad, dilation):
    n, h, w, c = shape
    given = random(n, c, h, w)
    given[0, 0] = -INF  # TVM starts from the smallest number, which is more
    given.view(-1)[-1] = NAN
    want = functional.max_pool2d(given, kernel, stride, pad, dilation)
    for layout, sizes, array, lay in layouts(shape, given):
        function = operator(
            lambda x, own=layout: relax.op.nn.max_pool2d(x, kernel, stride, pad + pad, dilation, layout=own), (sizes, "float32")
        )
        agrees(function, [array], lay(want))


@pytest.mark.parametrize("shape, kernel, stride, pad, dilation", [p for p in POOLS if p[-1] == (1, 1)])
@pytest.mark.parametrize("whole", [True, False])
def test_average_pooling(shape, kernel, stride, pad, dilation, whole):
    n, h, w, c = shape
    given = random(n, c, h, w)
    want = functional.avg_pool2d(given, kernel, stride, pad, count_include_pad=whole)
    for layout, sizes, array, lay in layouts(shape, given):
        options = {"count_include_pad": whole, "layout": layout}
        function = operator(lambda x, o=options: relax.op.nn.avg_pool2d(x, kernel, stride, pad + pad, 1, False, **o), (sizes, "float32"))
        agrees(function, [array], lay(want))


@pytest.mark.slow
@pytest.mark.parametrize("s, t", [(1, 1), (2, 2), (2, 16)])
def test_pooling_of_dynamic_sizes(s, t):
    given = random(s, 5, t, t)
    last = operator(lambda x: relax.op.nn.max_pool2d(x, (3, 3), (2, 2), (1, 1, 1, 1), layout="NHWC"), ((S, T, T, 5), "float32"))
    agrees(last, [given.movedim(1, -1).contiguous()], functional.max_pool2d(given, 3, 2, 1).movedim(1, -1).contiguous())
    first = operator(lambda x: relax.op.nn.max_pool2d(x, (3, 3), (1, 1), (1, 1, 1, 1)), ((S, 5, T, T), "float32"))
    agrees(first, [given], functional.max_pool2d(given, 3, 1, 1))


def test_pooling_in_one_and_three_dimensions():
    line = random(2, 12, 17)
    function = operator(lambda x: relax.op.nn.max_pool1d(x, (3,), (2,), (1, 1), layout="NWC"), ((2, 17, 12), "float32"))
    agrees(function, [line.mT.contiguous()], functional.max_pool1d(line, 3, 2, 1).mT.contiguous())
    body = random(1, 9, 4, 5, 6)
    call = lambda x: relax.op.nn.max_pool3d(x, (2, 3, 2), (2, 1, 2), (0, 1, 0, 0, 1, 0), layout="NDHWC")  # noqa: E731
    want = functional.max_pool3d(body, (2, 3, 2), (2, 1, 2), (0, 1, 0)).movedim(1, -1).contiguous()
    agrees(operator(call, ((1, 4, 5, 6, 9), "float32")), [body.movedim(1, -1).contiguous()], want)


def adaptive_average(x, axes, sizes):
    """Means of the windows from floor(i n / m) to ceil((i + 1) n / m) along two axes."""
    extents = [tirx.floordiv(x.shape[a] + m - 1, m) + 1 for a, m in zip(axes, sizes, strict=True)]
    ks = [te.reduce_axis((tirx.const(0, "int64"), n), "k") for n in extents]
    start = lambda i, a, m: tirx.floordiv(i * x.shape[a], m)  # noqa: E731
    end = lambda i, a, m: tirx.floordiv((i + 1) * x.shape[a] + m - 1, m)  # noqa: E731

    def total(*i):
        at, inside = list(i), []
        for a, m, k in zip(axes, sizes, ks, strict=True):
            at[a] = start(i[a], a, m) + k
            inside.append(at[a] < end(i[a], a, m))
        return te.sum(tirx.if_then_else(tirx.all(*inside), x(*at), tirx.const(0, "float32")), axis=ks)

    def mean(*i):
        (a, m), (b, n) = zip(axes, sizes, strict=True)
        return sums(*i) / ((end(i[a], a, m) - start(i[a], a, m)) * (end(i[b], b, n) - start(i[b], b, n))).astype("float32")

    shape = [tirx.const(dict(zip(axes, sizes, strict=True)).get(k, int(n)), "int64") for k, n in enumerate(x.shape)]
    sums = te.compute(shape, total)
    return te.compute(shape, mean)


@pytest.mark.parametrize(
    "shape, sizes", [((2, 7, 9, 8), (3, 4)), ((1, 5, 5, 37), (2, 3)), ((1, 3, 3, 4), (5, 5)), ((1, 10, 10, 16), (7, 7))]
)
def test_adaptive_pooling(shape, sizes):
    n, h, w, c = shape
    given = random(n, c, h, w)
    want = functional.adaptive_avg_pool2d(given, sizes)
    for layout, own, array, lay in layouts(shape, given):
        x = tensor(*own)
        agrees(primitive(x, adaptive_average(x, (1, 2) if layout == "NHWC" else (2, 3), sizes)), [array], lay(want))


def test_windows_that_no_bounds_describe():
    x, given = tensor(1, 27, 9), random(1, 27, 9)
    i, j = (te.reduce_axis((tirx.const(0, "int64"), tirx.const(3, "int64")), n) for n in "ij")

    def pixel(n, c, y, z):
        top, left = y + 1 - i, z + 1 - j
        row, column = tirx.floordiv(top, 2), tirx.floordiv(left, 2)
        even = [tirx.floormod(top, 2) == 0, tirx.floormod(left, 2) == 0]
        hit = tirx.all(top >= 0, left >= 0, row < 3, column < 3, *even)
        return te.sum(tirx.if_then_else(hit, x(n, (c * 3 + i) * 3 + j, row * 3 + column), tirx.const(0, "float32")), axis=[i, j])

    image = te.compute([tirx.const(s, "int64") for s in (1, 3, 6, 6)], pixel)
    agrees(primitive(x, image), [given], functional.fold(given, (6, 6), 3, padding=1, stride=2))


# -- several outputs and kernels


def test_outputs_of_rows_and_of_elements_are_one_kernel():
    x, given = tensor(6, 24), random(6, 24).abs()
    total = topi.sum(x, 1)
    function = primitive(x, total, topi.divide(x, topi.expand_dims(total, 1)), topi.multiply(x, x))
    rules = agrees(function, [given], given.sum(1), given / given.sum(1, keepdim=True), given * given, tolerance=4e-6)
    assert all(";" not in rule for rule in rules)


def test_outputs_of_different_rows_are_several_kernels():
    x, given = tensor(6, 24), random(6, 24)
    rules = agrees(primitive(x, topi.sum(x, 0), topi.sum(x, 1)), [given], given.sum(0), given.sum(1), tolerance=4e-6)
    assert all(rule.count(";") == 1 for rule in rules)


def test_a_reduction_of_reductions_is_several_kernels():
    x, y, given, right = tensor(6, 24), tensor(24, 10), random(6, 24), random(24, 10, seed=1)
    agrees(primitive(x, topi.sum(topi.sum(x, 1), 0)), [given], given.sum(1).sum(0), tolerance=4e-6)
    agrees(primitive(x, y, topi.nn.softmax(topi.matmul(x, y))), [given, right], (given @ right).softmax(1), tolerance=2e-5)


def test_a_function_without_reductions_is_left_to_other_rules():
    x = tensor(4, 4)
    assert reduce(read("function", primitive(x, topi.exp(x))), CORES["cortex-a72"]) is None


def in_place(function):
    (step,) = nest_loops(read("function", function), CORES["cortex-a72"]).steps
    return list(step.in_place)


def test_a_row_may_overwrite_what_it_alone_reads():
    x, y = tensor(4, 24), tensor(4, 4)
    assert in_place(primitive(x, topi.nn.softmax(x))) == [0]
    assert in_place(primitive(x, topi.nn.log_softmax(x))) == [0]
    assert in_place(primitive(y, te.compute(y.shape, lambda i, j: y(j, i) / topi.sum(y, 1)(i)))) == []


def test_columns_that_are_computed_twice_overwrite_nothing():
    x, whole = tensor(2, 8, 37), tensor(2, 8, 32)
    assert in_place(primitive(x, topi.nn.softmax(x, axis=1))) == []
    assert in_place(primitive(whole, topi.nn.softmax(whole, axis=1))) == [0]
