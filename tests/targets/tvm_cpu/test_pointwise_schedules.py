"""Functions without reductions, scheduled: every layout, border, size and dtype gives what numpy and PyTorch give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tvm import te, tirx, topi

from edgecc.targets.tvm_cpu.schedules.core import CORES
from edgecc.targets.tvm_cpu.schedules.pointwise import pointwise
from edgecc.targets.tvm_cpu.schedules.stage import read
from tests.targets.tvm_cpu import rule_host
from tests.targets.tvm_cpu.rule_host import CPUS, plan_of, symbol, tensor

SHAPES = [(), (1,), (3,), (7, 1, 5), (2, 3, 10), (1, 9, 11, 3), (4, 1, 33), (5, 130, 30)]


def random(shape, dtype="float32"):
    generator = np.random.default_rng(sum(shape))
    if dtype == "bool":
        return generator.random(shape) < 0.5
    if "float" in dtype:
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 100, shape).astype(dtype)


def agrees(inputs, outputs, arrays, wanted, cpu="x86-64-v3", tolerance=0.0):
    return rule_host.agrees(inputs, outputs, pointwise, arrays, [np.asarray(w) for w in wanted], cpu, tolerance=tolerance)


def copies(compute, expected, *arrays, cpu="x86-64-v3", dynamic=None):
    """A function of te tensors moves elements as one of arrays does. `dynamic`: for each array, names of symbolic sizes."""
    names: dict[str, object] = {}
    inputs = []
    for number, array in enumerate(arrays):
        symbols = dynamic[number] if dynamic else [None] * array.ndim
        shape = [s if n is None else names.setdefault(n, symbol(n)) for s, n in zip(array.shape, symbols, strict=True)]
        inputs.append(tensor(shape, str(array.dtype), f"x{number}"))
    return agrees(inputs, [compute(*inputs)], list(arrays), [expected(*arrays)], cpu)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("shape", SHAPES)
def test_arithmetic(cpu, shape):
    x, y = random(shape), random(shape) + 3
    inputs = [tensor(shape), tensor(shape, name="y")]
    plan = agrees(inputs, [topi.multiply(topi.nn.relu(topi.add(*inputs)), inputs[1])], [x, y], [np.maximum(x + y, 0) * y], cpu)
    assert list(plan.steps[0].in_place) == [0, 1]


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "float16", "float64"])
def test_dtypes(cpu, dtype):
    x, y = random((3, 5, 37), dtype), random((37,), dtype)
    inputs = [tensor(x.shape, dtype), tensor(y.shape, dtype, "y")]
    agrees(inputs, [topi.add(*inputs)], [x, y], [x + y], cpu)


@pytest.mark.parametrize(
    "source, result", [("uint8", "float32"), ("float32", "int64"), ("int64", "bool"), ("bool", "float32"), ("bool", "int64")]
)
def test_casts(source, result):
    x = random((5, 41), source)
    given = tensor(x.shape, source)
    agrees([given], [topi.cast(given, result)], [x], [x.astype(result)])


@pytest.mark.parametrize("cpu", CPUS)
def test_logic_and_selection(cpu):
    x, y = random((3, 19)), random((3, 19))
    inputs = [tensor(x.shape), tensor(y.shape, name="y")]
    both = topi.logical_and(topi.greater(*inputs), topi.logical_not(topi.less(inputs[0], tirx.const(0.5, "float32"))))
    wanted = (x > y) & ~(x < 0.5)
    agrees(inputs, [both], [x, y], [wanted], cpu)
    agrees(inputs, [topi.where(both, *inputs)], [x, y], [np.where(wanted, x, y)], cpu)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(
    "shapes", [((5, 7, 3), (3,)), ((5, 7, 10), (7, 1)), ((4, 1, 9), (1, 6, 1)), ((2, 3, 8), ()), ((2, 5, 17), (2, 1, 1))]
)
def test_broadcasts(cpu, shapes):
    arrays = [random(s) for s in shapes]
    inputs = [tensor(s, name=n) for s, n in zip(shapes, "xy", strict=True)]
    agrees(inputs, [topi.add(*inputs)], arrays, [arrays[0] + arrays[1]], cpu)


def test_a_chain_that_reads_each_value_twice_does_not_grow():
    x = random((7, 50))
    given = value = tensor(x.shape)
    wanted = x
    for _ in range(40):
        value, wanted = topi.multiply(topi.add(value, value), tirx.const(0.5, "float32")), (wanted + wanted) * np.float32(0.5)
    agrees([given], [value], [x], [wanted])


@pytest.mark.parametrize("cpu", CPUS)
def test_functions_of_shared_values(cpu):
    x = torch.from_numpy(random((6, 45)))
    given = tensor(x.shape)
    value = given
    for _ in range(3):
        value = topi.multiply(value, topi.sigmoid(value))
        x = torch.nn.functional.silu(x)
    agrees([given], [value], [random((6, 45))], [x.numpy()], cpu, tolerance=1e-5)  # libm's exp against PyTorch's


def test_a_costly_value_that_is_broadcast_is_stored():
    x, gate = random((2, 6, 6, 20)), random((2, 1, 1, 20))
    inputs = [tensor(x.shape), tensor(gate.shape, name="gate")]
    wanted = x * torch.sigmoid(torch.from_numpy(gate)).numpy()
    plan = agrees(inputs, [topi.multiply(inputs[0], topi.sigmoid(inputs[1]))], [x, gate], [wanted], tolerance=1e-6)  # libm's exp
    assert len(plan.steps) == 2


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(
    "shape, order",
    [
        ((37, 53), (1, 0)),
        ((3, 5), (1, 0)),
        ((1, 7, 9, 30), (0, 3, 1, 2)),
        ((2, 30, 7, 9), (0, 2, 3, 1)),
        ((1, 64, 64, 3), (0, 3, 1, 2)),
        ((2, 3, 17, 5), (0, 2, 3, 1)),
        ((16, 12, 8), (1, 0, 2)),
        ((5, 6, 7, 8), (3, 2, 1, 0)),
        ((2, 1, 4, 1, 9), (4, 3, 2, 1, 0)),
        ((260, 70), (1, 0)),  # enough to share among threads
    ],
)
def test_transposes(cpu, shape, order):
    copies(lambda x: topi.transpose(x, order), lambda x: x.transpose(order), random(shape), cpu=cpu)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float16", "int64"])
def test_transposes_of_other_dtypes(dtype):
    copies(lambda x: topi.transpose(x, (1, 0)), lambda x: x.T, random((37, 42), dtype))


@pytest.mark.parametrize("cpu", CPUS)
def test_a_transpose_with_an_epilogue_and_a_residual(cpu):
    x, y = random((2, 13, 30)), random((2, 30, 13))
    inputs = [tensor(x.shape), tensor(y.shape, name="y")]
    plan = agrees(
        inputs,
        [topi.add(topi.nn.relu(topi.transpose(inputs[0], (0, 2, 1))), inputs[1])],
        [x, y],
        [np.maximum(x.transpose(0, 2, 1), 0) + y],
        cpu,
    )
    assert list(plan.steps[0].in_place) == [1]


@pytest.mark.parametrize("cpu", CPUS)
def test_attention_heads_are_split_and_merged(cpu):
    x, heads = random((2, 19, 12)), random((2, 3, 19, 4))
    copies(
        lambda t: topi.transpose(topi.reshape(t, (2, 19, 3, 4)), (0, 2, 1, 3)),
        lambda a: a.reshape(2, 19, 3, 4).transpose(0, 2, 1, 3),
        x,
        cpu=cpu,
    )
    copies(
        lambda t: topi.transpose(topi.reshape(t, (2, 19, 3, 4)), (0, 2, 3, 1)),
        lambda a: a.reshape(2, 19, 3, 4).transpose(0, 2, 3, 1),
        x,
        cpu=cpu,
    )
    copies(
        lambda t: topi.reshape(topi.transpose(t, (0, 2, 1, 3)), (2, 19, 12)),
        lambda a: a.transpose(0, 2, 1, 3).reshape(2, 19, 12),
        heads,
        cpu=cpu,
    )


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenation_is_a_copy_of_each_input(cpu, axis):
    shapes = [[2, 5, 6] for _ in range(3)]
    for number, shape in enumerate(shapes):
        shape[axis] += 3 * number
    arrays = [random(tuple(s)) for s in shapes]
    plan = copies(lambda *t: topi.concatenate(t, axis), lambda *a: np.concatenate(a, axis), *arrays, cpu=cpu)
    assert "if" not in plan.steps[0].function.script().replace("if_then_else", "if").split("def ")[1]


@pytest.mark.parametrize("sizes", [(1, 1), (5, 2), (16, 9)])
def test_concatenation_of_dynamic_sizes(sizes):
    arrays = [random((2, s, 6)) for s in sizes]
    copies(lambda *t: topi.concatenate(t, 1), lambda *a: np.concatenate(a, 1), *arrays, dynamic=[[None, "m", None], [None, "n", None]])


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("before, after", [((0, 1, 1, 0), (0, 1, 1, 0)), ((0, 0, 2, 0), (0, 1, 1, 3)), ((1, 0, 0, 4), (0, 0, 9, 0))])
def test_padding_is_a_border_and_a_copy(cpu, before, after):
    plan = copies(
        lambda x: topi.nn.pad(x, before, after, 1.5),
        lambda x: np.pad(x, list(zip(before, after, strict=True)), constant_values=1.5),
        random((1, 5, 6, 7)),
        cpu=cpu,
    )
    assert "if_then_else" not in plan.steps[0].function.script()


@pytest.mark.parametrize("sizes", [(1, 1), (3, 8), (2, 20)])
def test_padding_of_dynamic_sizes(sizes):
    plan = copies(
        lambda x: topi.nn.pad(x, (0, 2, 0), (0, 3, 1)),
        lambda x: np.pad(x, ((0, 0), (2, 3), (0, 1))),
        random((*sizes, 5)),
        dynamic=[["batch", "length", None]],
    )
    assert "if_then_else" not in plan.steps[0].function.script()


def test_slices_flips_and_repeats():
    x = random((4, 9, 10))
    copies(lambda t: topi.strided_slice(t, [1, 2, 3], [4, 9, 9]), lambda a: a[1:4, 2:9, 3:9], x)
    copies(lambda t: topi.strided_slice(t, [0, 0, 1], [4, 9, 10], [1, 2, 3]), lambda a: a[:, ::2, 1::3], x)
    copies(lambda t: topi.flip(t, 2), lambda a: a[:, :, ::-1], x)
    copies(lambda t: topi.repeat(t, 3, 1), lambda a: a.repeat(3, 1), x)
    copies(lambda t: topi.tile(t, (1, 2, 1)), lambda a: np.tile(a, (1, 2, 1)), x)


@pytest.mark.parametrize("layout, axes", [("NHWC", (1, 2)), ("NCHW", (2, 3))])
def test_nearest_upsampling(layout, axes):
    x = random((1, 5, 6, 7))
    size = [2 * x.shape[a] for a in axes]
    copies(
        lambda t: topi.image.resize2d(t, [0.0] * 4, size, layout, "nearest_neighbor", "asymmetric", "floor"),
        lambda a: a.repeat(2, axes[0]).repeat(2, axes[1]),
        x,
    )


@pytest.mark.parametrize("cpu", CPUS)
def test_bilinear_resizing(cpu):
    x = random((1, 5, 6, 9))
    given = tensor(x.shape)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(x).permute(0, 3, 1, 2), (11, 7), mode="bilinear").permute(0, 2, 3, 1)
    resized = topi.image.resize2d(given, [0.0] * 4, [11, 7], "NHWC", "linear", "half_pixel", "")
    agrees([given], [resized], [x], [wanted.numpy()], cpu, tolerance=1e-5)  # the weights are rounded differently


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("width", [1, 7, 64])
def test_embedding(cpu, width):
    table, ids = random((11, width)), np.random.default_rng(0).integers(0, 11, (3, 5))
    copies(lambda t, i: topi.take(t, i, 0, mode="clip"), lambda a, i: a[i], table, ids, cpu=cpu)


def test_positions_are_values():
    x = random((3, 21))
    given = tensor(x.shape)
    plus = te.compute(x.shape, lambda i, j: given(i, j) + (i * 100 + j).astype("float32"))
    agrees([given], [plus], [x], [x + (np.arange(3)[:, None] * 100 + np.arange(21)).astype("float32")])
    lower = te.compute((9, 9), lambda i, j: tirx.Select(j <= i, tirx.const(1.0, "float32"), tirx.const(0.0, "float32")))
    agrees([], [lower], [], [np.tril(np.ones((9, 9), "float32"))])


def test_a_guarded_load_is_not_done():
    """`x[i - 100]` is far outside where the condition does not hold, and the condition depends on data."""
    x, flags = random((3, 40)), random((3, 40), "bool")
    inputs = [tensor(x.shape), tensor(flags.shape, "bool", "flags")]
    far = te.compute(x.shape, lambda i, j: tirx.if_then_else(inputs[1](i, j), inputs[0](i, j), inputs[0](i - (1 << 40), j)))
    agrees(inputs, [far], [x, np.ones_like(flags)], [x])


@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (3, 40)])
@pytest.mark.parametrize("cpu", CPUS)
def test_dynamic_sizes(cpu, sizes):
    x, y = random((*sizes, 10)), random((10,))
    m, n = symbol("m"), symbol("n")
    inputs = [tensor((m, n, 10)), tensor((10,), name="y")]
    agrees(inputs, [topi.add(*inputs)], [x, y], [x + y], cpu)
    agrees(inputs[:1], [topi.transpose(inputs[0], (2, 0, 1))], [x], [x.transpose(2, 0, 1)], cpu)
    agrees(inputs[:1], [topi.nn.relu(inputs[0])], [x], [np.maximum(x, 0)], cpu)


def test_outputs_of_one_shape_share_a_loop_and_others_have_their_own():
    x = random((6, 22))
    given = tensor(x.shape)
    doubled = topi.add(given, given)
    outputs = [doubled, topi.nn.relu(doubled), topi.transpose(doubled, (1, 0))]
    plan = agrees([given], outputs, [x], [x + x, np.maximum(x + x, 0), (x + x).T])
    assert [list(s.outputs) for s in plan.steps] == [[0, 1], [2]]


def test_a_nan_passes_a_clamp():
    x = random((4, 30))
    x[1, 3] = np.nan
    given = tensor(x.shape)
    clamped = te.compute(x.shape, lambda i, j: tirx.Select(given(i, j) < 0, tirx.const(0, "float32"), given(i, j)))
    agrees([given], [clamped], [x], [torch.relu(torch.from_numpy(x)).numpy()])


def test_a_function_with_a_reduction_is_left_to_other_rules():
    x, k = tensor((8, 8)), te.reduce_axis((0, tirx.const(8, "int64")), "k")
    function = te.create_prim_func([x, te.compute((8,), lambda i: te.sum(x(i, k), axis=k))])
    assert pointwise(read("f", function), CORES["x86-64-v3"], frozenset()) is None


def test_a_large_function_is_shared_among_threads_and_a_small_one_is_not():
    for size, parallel in ((100, False), (100_000, True)):
        given = tensor((size,))
        _, plan = plan_of([given], [topi.nn.relu(given)], pointwise, "x86-64-v3")
        assert ("T.parallel" in plan.steps[0].function.script()) == parallel
