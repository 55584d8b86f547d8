"""Depthwise convolutions, scheduled: every kind of window, border and size gives what PyTorch gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tvm import te, tirx

from edgecc.targets.tvm_cpu.schedules.core import CORES
from edgecc.targets.tvm_cpu.schedules.depthwise import depthwise
from edgecc.targets.tvm_cpu.schedules.stage import read
from tests.targets.tvm_cpu import rule_host
from tests.targets.tvm_cpu.rule_host import CPUS, plan_of, run, symbol, tensor


def constant(value):
    return tirx.const(value, "float32")


def padded(x, widths):
    """x [n, .., c] with zeros before and after along each axis between."""
    shape = [x.shape[0], *[s + a + b for s, (a, b) in zip(x.shape[1:-1], widths, strict=True)], x.shape[-1]]

    def element(*at):
        inside = [c for i, s, (a, _) in zip(at[1:-1], x.shape[1:-1], widths, strict=True) for c in (i >= a, i < s + a)]
        moved = [i - a for i, (a, _) in zip(at[1:-1], widths, strict=True)]
        return tirx.if_then_else(tirx.all(*inside), x(at[0], *moved, at[-1]), constant(0))

    return te.compute(shape, element, name="padded")


def convolve(x, weight, bias, stride, dilation, pads, multiplier=1):
    """x [n, .., c], weight [.., 1, c * multiplier] -> [n, .., c * multiplier]."""
    source = padded(x, pads) if any(any(p) for p in pads) else x
    kernel, axes = [int(k) for k in weight.shape[:-2]], len(stride)
    taps = [te.reduce_axis((0, tirx.const(k, "int64")), "k") for k in kernel]
    one = te.reduce_axis((0, tirx.const(1, "int64")), "one")
    sizes = [(source.shape[i + 1] - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1 for i in range(axes)]

    def element(*at):
        where = [at[i + 1] * stride[i] + taps[i] * dilation[i] for i in range(axes)]
        return te.sum(source(at[0], *where, at[-1] // multiplier + one) * weight(*taps, one, at[-1]), axis=[one, *taps])

    result = te.compute([x.shape[0], *sizes, weight.shape[-1]], element, name="convolution")
    return te.compute(result.shape, lambda *i: result(*i) + bias(i[-1]), name="biased")


def operands(shape, kernel, multiplier=1):
    generator = torch.Generator().manual_seed(sum(shape) + sum(kernel))
    channels = shape[-1] * multiplier
    return [torch.randn(s, generator=generator) for s in (shape, (*kernel, 1, channels), (channels,))]


def reference(x, weight, bias, stride, dilation, pads):
    x = F.pad(x.movedim(-1, 1), [p for pair in reversed(pads) for p in pair])
    convolution = [F.conv1d, F.conv2d, F.conv3d][len(stride) - 1]
    return convolution(x, weight.movedim(-1, 0).movedim(-1, 1), bias, stride, 0, dilation, x.shape[1]).movedim(1, -1).contiguous()


def agrees(shape, kernel, stride, dilation, pads, multiplier=1, cpu="x86-64-v3", constants=(1, 2), dynamic=None):
    """`dynamic`: the names of symbolic sizes, None for those that are not."""
    arrays = operands(shape, kernel, multiplier)
    symbolic = [symbol(n) if n else s for n, s in zip(dynamic or [None] * len(shape), shape, strict=True)]
    inputs = [tensor(symbolic), tensor(arrays[1].shape, name="w"), tensor(arrays[2].shape, name="b")]
    plan = rule_host.agrees(
        inputs,
        [convolve(*inputs, stride, dilation, pads, multiplier)],
        depthwise,
        [t.numpy() for t in arrays],
        [reference(*arrays, stride, dilation, pads).numpy()],
        cpu,
        constants,
        tolerance=1e-5,  # float32 sums of up to 49 products in another order
    )
    assert plan.rule.startswith("depthwise")


SAME = ((1, 1), (1, 1))


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 2), (1, 2, 1, 8), (2, 3, 5, 3), (1, 7, 7, 16), (1, 8, 17, 24), (3, 13, 14, 37), (1, 5, 97, 5)],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_three_by_three(cpu, shape, stride):
    agrees(shape, (3, 3), (stride, stride), (1, 1), SAME, cpu=cpu)


@pytest.mark.parametrize(
    "kernel, stride, dilation, pads",
    [
        ((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0))),
        ((3, 3), (2, 2), (1, 1), ((0, 1), (0, 1))),
        ((3, 3), (1, 1), (2, 2), ((2, 2), (2, 2))),
        ((3, 3), (2, 3), (4, 1), ((5, 4), (0, 2))),
        ((3, 3), (1, 1), (9, 9), ((9, 9), (9, 9))),
        ((5, 5), (1, 1), (1, 1), ((2, 2), (2, 2))),
        ((5, 5), (2, 2), (1, 1), ((2, 1), (1, 2))),
        ((7, 7), (1, 1), (1, 1), ((3, 3), (3, 3))),
        ((1, 9), (1, 1), (1, 1), ((0, 0), (4, 4))),
        ((9, 1), (1, 1), (1, 1), ((4, 4), (0, 0))),
        ((3, 1), (3, 1), (1, 1), ((1, 0), (0, 2))),
        ((2, 2), (2, 2), (1, 1), ((0, 0), (0, 0))),
        ((1, 1), (1, 2), (1, 1), ((1, 0), (0, 1))),
        ((4, 6), (1, 1), (1, 1), ((7, 8), (9, 6))),  # windows that see padding alone
    ],
)
@pytest.mark.parametrize("cpu", CPUS)
def test_windows(cpu, kernel, stride, dilation, pads):
    agrees((2, 11, 19, 12), kernel, stride, dilation, pads, cpu=cpu)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(
    "kernel, stride, dilation, pad, length",
    [
        (3, 1, 1, (2, 0), 40),
        (31, 1, 1, (15, 15), 50),
        (31, 1, 1, (15, 15), 9),
        (3, 1, 16, (32, 0), 33),
        (5, 2, 1, (2, 2), 21),
        (40, 1, 1, (3, 9), 64),
    ],
)
def test_one_axis(cpu, kernel, stride, dilation, pad, length):
    agrees((2, length, 20), (kernel,), (stride,), (dilation,), (pad,), cpu=cpu)


@pytest.mark.parametrize("cpu", CPUS)
def test_three_axes(cpu):
    agrees((2, 4, 5, 7, 6), (3, 3, 3), (1, 2, 1), (1, 1, 2), ((1, 1), (1, 0), (2, 2)), cpu=cpu)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("channels, multiplier", [(4, 2), (5, 3), (3, 8), (2, 16), (7, 4)])
def test_channel_multipliers(cpu, channels, multiplier):
    agrees((1, 6, 9, channels), (3, 3), (1, 1), (1, 1), SAME, multiplier, cpu=cpu)


@pytest.mark.parametrize("channels", [8, 11])
def test_a_weight_that_is_no_constant_is_read_where_it_is(channels):
    agrees((1, 9, 9, channels), (3, 3), (1, 1), (1, 1), SAME, constants=())


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 4, 7), (3, 9, 2), (2, 20, 31)])
@pytest.mark.parametrize("kernel, stride, pad", [((3, 3), 1, 1), ((3, 3), 2, 1), ((5, 5), 1, 2)])
@pytest.mark.parametrize("cpu", ["x86-64-v3", "cortex-a72"])
def test_dynamic_batch_and_image(cpu, sizes, kernel, stride, pad):
    pads = ((pad, pad), (pad, pad))
    agrees((*sizes, 10), kernel, (stride, stride), (1, 1), pads, cpu=cpu, dynamic=["batch", "height", "width", None])


def test_a_dynamic_sequence():
    for length in (1, 2, 15, 40):
        agrees((2, length, 16), (31,), (1,), (1,), ((15, 15),), dynamic=["batch", "length", None])


def test_a_long_row_is_divided_into_strips():
    agrees((1, 4, 300, 33), (3, 3), (1, 1), (1, 1), SAME)


def finished(x, weight, bias, residual):
    """hard_swish(convolution) + residual."""
    y = convolve(x, weight, bias, (1, 1), (1, 1), SAME)
    gate = te.compute(y.shape, lambda *i: tirx.min(tirx.max(y(*i) + constant(3), constant(0)), constant(6)), name="gate")
    swish = te.compute(y.shape, lambda *i: y(*i) * gate(*i) / constant(6), name="swish")
    return te.compute(y.shape, lambda *i: swish(*i) + residual(*i), name="added")


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("channels, overlap", [(16, [3]), (21, [])])
def test_an_epilogue_may_overwrite_its_residual_where_channels_are_whole_vectors(cpu, channels, overlap):
    x, weight, bias = operands((2, 6, 10, channels), (3, 3))
    residual = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    want = F.hardswish(reference(x, weight, bias, (1, 1), (1, 1), SAME)) + residual
    inputs = [tensor(t.shape, name=n) for t, n in zip((x, weight, bias, residual), "xwbr", strict=True)]
    arrays = [t.numpy() for t in (x, weight, bias, residual)]
    plan = rule_host.agrees(inputs, [finished(*inputs)], depthwise, arrays, [want.numpy()], cpu, [1, 2], tolerance=1e-5)
    assert list(plan.steps[0].in_place) == overlap


def test_a_window_that_covers_the_whole_image():
    agrees((2, 7, 7, 20), (7, 7), (1, 1), (1, 1), ((0, 0), (0, 0)))


def test_other_functions_are_left_to_other_rules():
    x, y = tensor((8, 8)), tensor((8, 8), name="y")
    k = te.reduce_axis((0, tirx.const(8, "int64")), "k")
    product = te.compute((8, 8), lambda i, j: te.sum(x(i, k) * y(k, j), axis=k))
    sums = te.compute((8,), lambda i: te.sum(x(i, k), axis=k))
    for function in (te.create_prim_func([x, y, product]), te.create_prim_func([x, sums])):
        assert depthwise(read("f", function), CORES["x86-64-v3"], frozenset()) is None


def test_padding_is_not_multiplied():
    arrays = operands((1, 5, 9, 8), (3, 3))
    arrays[1][0] = float("inf")  # inf * 0 would be NaN, as in a kernel that reads zeros there
    inputs = [tensor(t.shape, name=n) for t, n in zip(arrays, "xwb", strict=True)]
    kernel, plan = plan_of(inputs, [convolve(*inputs, (1, 1), (1, 1), SAME)], depthwise, "x86-64-v3", [1, 2])
    assert np.isfinite(run(kernel, plan, [t.numpy() for t in arrays])[0][0, 0]).all()
