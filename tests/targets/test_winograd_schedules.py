"""Convolutions of three taps by Winograd's algorithm give what PyTorch gives, at every size and with what is fused around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
import tvm_ffi
from tvm import te, tirx, topi

from edgecc.targets.tvm_cpu.vector_math.intrinsics import call
from tests.targets.schedule_host import call_te, check, run, scheduled

CPUS = ["x86-64-v3", "cortex-a72"]
TOLERANCE = 4e-6  # of the largest output: PyTorch and we round sums of up to 720 products in different orders


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def convolution(padding, after=lambda x: x, stride=(1, 1), dilation=(1, 1)):
    """`after(x * w + b)`, channels last; a third operand is added first. padding: top, left, bottom, right."""
    top, left, bottom, right = padding

    def compute(x, w, b, *rest):
        padded = topi.nn.pad(x, [0, top, left, 0], [0, bottom, right, 0]) if any(padding) else x
        kh, kw, channels, out = w.shape
        i, j, c = te.reduce_axis((0, kh), "i"), te.reduce_axis((0, kw), "j"), te.reduce_axis((0, channels), "c")
        sizes = [(padded.shape[1 + d] - dilation[d] * (w.shape[d] - 1) - 1) // stride[d] + 1 for d in range(2)]

        def element(n, y, z, f):
            return te.sum(padded[n, y * stride[0] + i * dilation[0], z * stride[1] + j * dilation[1], c] * w[i, j, c, f], axis=[i, j, c])

        sums = te.compute((x.shape[0], *sizes, out), element, name="conv")
        biased = te.compute(sums.shape, lambda *at: sums(*at) + b(at[-1]), name="biased")
        added = topi.add(biased, rest[0]) if rest else biased
        return te.compute(sums.shape, lambda *at: after(added(*at)), name="after")

    return compute


def last(*tensors):
    return [t.permute(0, 2, 3, 1).contiguous().numpy() for t in tensors]


def weights(w):
    return w.permute(2, 3, 1, 0).contiguous().numpy()


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("width", [4, 5, 6, 7, 8, 13, 33])
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 0, 0, 0), (0, 2, 1, 0), (3, 3, 2, 3)])
def test_every_width_and_padding(cpu, width, padding):
    x, w, b = random(1, 16, 12, width), random(24, 16, 3, 3), random(24)
    top, left, bottom, right = padding
    want = F.conv2d(F.pad(x, (left, right, top, bottom)), w, b)
    rule = check(convolution(padding), [*last(x), weights(w), b.numpy()], *last(want), constants={1, 2}, cpu=cpu, tolerance=TOLERANCE)
    assert rule.startswith("winograd") or want.shape[3] < 4


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("channels, out", [(8, 24), (17, 30), (24, 58), (33, 16), (64, 9)])
def test_channels_that_do_not_fill_vectors(cpu, channels, out):
    x, w, b = random(1, channels, 6, 11), random(out, channels, 3, 3), random(out)
    want = F.conv2d(x, w, b, padding=1)
    rule = check(convolution((1, 1, 1, 1)), [*last(x), weights(w), b.numpy()], *last(want), constants={1, 2}, cpu=cpu, tolerance=TOLERANCE)
    assert rule.startswith("winograd")


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("kernel", [(1, 3), (2, 3), (5, 3)])
def test_kernels_of_other_heights(cpu, kernel):
    x, w, b = random(2, 48, 7, 12), random(40, 48, *kernel), random(40)
    want = F.conv2d(x, w, b, padding=(0, 1))
    rule = check(convolution((0, 1, 0, 1)), [*last(x), weights(w), b.numpy()], *last(want), constants={1, 2}, cpu=cpu, tolerance=TOLERANCE)
    assert rule.startswith("winograd")


@pytest.mark.parametrize("cpu", CPUS)
def test_a_batch_a_residual_and_relu_are_fused(cpu):
    x, w, b, r = random(3, 16, 8, 10), random(16, 16, 3, 3), random(16), random(3, 16, 8, 10)
    want = torch.relu(F.conv2d(x, w, b, padding=1) + r)
    compute = convolution((1, 1, 1, 1), lambda v: tirx.max(v, tirx.const(0, "float32")))
    arrays = [*last(x), weights(w), b.numpy(), *last(r)]
    module, (choice,) = scheduled(call_te(compute, arrays, {1, 2}), cpu)
    assert choice.rule.startswith("winograd")
    got = run(module, [arrays[0], arrays[3]])
    np.testing.assert_allclose(got, last(want)[0], atol=TOLERANCE * float(want.max()), rtol=0)


@pytest.mark.parametrize("cpu", CPUS)
def test_a_costly_function_is_fused(cpu):
    x, w, b = random(1, 16, 5, 9), random(16, 16, 3, 3), random(16)
    want = F.gelu(F.conv2d(x, w, b, padding=1))
    compute = convolution((1, 1, 1, 1), lambda v: call("gelu", v))
    rule = check(compute, [*last(x), weights(w), b.numpy()], *last(want), constants={1, 2}, cpu=cpu, tolerance=TOLERANCE)
    assert rule.startswith("winograd")


@pytest.mark.parametrize(
    "kernel, stride, dilation, channels, constants",
    [
        ((3, 3), (1, 2), (1, 1), 16, {1, 2}),
        ((3, 3), (2, 1), (1, 1), 16, {1, 2}),
        ((3, 3), (1, 1), (1, 2), 16, {1, 2}),
        ((3, 3), (1, 1), (2, 1), 16, {1, 2}),
        ((3, 2), (1, 1), (1, 1), 16, {1, 2}),
        ((3, 3), (1, 1), (1, 1), 3, {1, 2}),
        ((3, 3), (1, 1), (1, 1), 16, set()),
    ],
    ids=["stride", "stride of rows", "dilation", "dilation of rows", "two taps", "three channels", "weights that are computed"],
)
def test_other_convolutions_are_left_to_the_direct_rule(kernel, stride, dilation, channels, constants):
    x, w, b = random(1, channels, 12, 13), random(16, channels, *kernel), random(16)
    want = F.conv2d(x, w, b, stride, 0, dilation)
    compute = convolution((0, 0, 0, 0), stride=stride, dilation=dilation)
    rule = check(compute, [*last(x), weights(w), b.numpy()], *last(want), constants=constants)
    assert rule.startswith("contraction")


def test_where_size_is_preferred_weights_stay_as_large_as_they_are():
    arrays = [*last(random(1, 16, 8, 8)), weights(random(16, 16, 3, 3)), random(16).numpy()]
    module = call_te(convolution((1, 1, 1, 1)), arrays, {1, 2})
    stored = {}
    for prefer in ("speed", "size"):
        made, (choice,) = scheduled(module, "cortex-a72", prefer)
        stored[prefer] = sum(c.nbytes for c in constants_of(made))
        assert choice.rule.startswith("winograd") == (prefer == "speed")
    assert stored == {"speed": 4 * (16 + 2 * 9 * 16 * 16), "size": 4 * (16 + 9 * 16 * 16)}


def constants_of(module):
    found = []
    tvm_ffi.structural_walk(module["main"], (tvm.ir.GenericConst, lambda constant: found.append(constant.value.numpy())))
    return found


def test_the_error_is_that_of_the_direct_sum():
    """Against float64, on data and weights of one sign, where nothing cancels in the truth but the transforms do."""
    x, w, b = random(1, 64, 16, 16).abs(), random(64, 64, 3, 3).abs(), torch.zeros(64)
    truth = F.conv2d(x.double(), w.double(), padding=1).permute(0, 2, 3, 1).numpy()
    arrays = [*last(x), weights(w), b.numpy()]
    worst = {}
    for prefer in ("speed", "size"):
        module, _ = scheduled(call_te(convolution((1, 1, 1, 1)), arrays, {1, 2}), None, prefer)
        worst[prefer] = float(np.abs(run(module, arrays[:1]) / truth - 1).max())
    assert max(worst.values()) < 2e-6  # measured 1.3e-6 and 1.5e-6: the direct sum of 576 products rounds more often
