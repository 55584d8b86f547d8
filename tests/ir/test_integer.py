"""The integer operators against exact arithmetic of Python, and against sums in float64, which hold every int32 product."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import pytest
import torch
import torch.nn.functional as F

from edgecc.ir.integer import CODES, fixed_point, integer, is_integer
from edgecc.testing import trace_function


def codes(*shape: int, seed: int = 0, dtype: torch.dtype = torch.int8) -> torch.Tensor:
    low, high = CODES[dtype]
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("shift", [-7, -1, 0, 1, 2, 9, 22, 30])
def test_requantize_rounds_once_half_upwards(shift: int) -> None:
    generator = torch.Generator().manual_seed(shift)
    sums = torch.randint(-(2**31), 2**31, (40, 8), generator=generator) >> torch.randint(0, 31, (40, 1), generator=generator)
    sums[0], sums[1] = -(2**31), 2**31 - 1
    multiplier = torch.randint(2**30, 2**31, (8,), generator=generator)
    multiplier[:3] = torch.tensor([0, 2**30, 2**31 - 1])  # 2^30 makes ties
    got = integer.requantize(sums.to(torch.int32), multiplier.to(torch.int32), shift, 1, -3, -100, 90, torch.int8)

    def want(x: int, m: int) -> int:
        return min(max(floor(Fraction(x * m, 1) / Fraction(2) ** (31 + shift) + Fraction(1, 2)) - 3, -100), 90)

    expected = [[want(int(x), int(m)) for x, m in zip(row, multiplier, strict=True)] for row in sums]
    assert got.dtype == torch.int8 and got.tolist() == expected


@pytest.mark.parametrize("scale", [1.7, 0.5, 1 / 3, 0.0123, 3e-5, 2.0**-29, 0.49999999999999994])
def test_a_multiplier_has_31_bits(scale: float) -> None:
    multiplier, shift = fixed_point(torch.tensor(scale, dtype=torch.float64))
    assert 0 <= int(multiplier) < 2**31
    assert abs(int(multiplier) / 2.0 ** (31 + shift) / scale - 1) <= 2.0**-29  # of at least 2^30 steps, half a step


def test_channels_share_the_shift_of_the_largest() -> None:
    multiplier, shift = fixed_point(torch.tensor([0.01, 0.2, 0.0007], dtype=torch.float64))
    assert shift == 2 and (multiplier.double() / 2.0 ** (31 + shift)).tolist() == pytest.approx([0.01, 0.2, 0.0007], rel=1e-6)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e9, 1e-12, float("nan")])
def test_a_scale_out_of_range_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        fixed_point(torch.tensor(scale, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_a_linear_sums_centered_codes(dtype: torch.dtype) -> None:
    x, weight, bias = codes(3, 5, 64, dtype=dtype), codes(7, 64, seed=1), torch.arange(7, dtype=torch.int32) * 1000 - 3000
    got = integer.linear_int32(x, weight, bias, 11)
    want = F.linear(x.double() - 11, weight.double(), bias.double())
    assert got.dtype == torch.int32 and torch.equal(got.double(), want)


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 1, 1, 1), (2, 0, 2, 2), (1, 3, 1, 6)])
def test_a_convolution_pads_with_zero_and_not_with_code_zero(stride: int, padding: int, dilation: int, groups: int) -> None:
    x, weight = codes(2, 6, 9, 8), codes(12, 6 // groups, 3, 3, seed=1)
    got = integer.conv_int32(x, weight, None, -20, [stride] * 2, [padding] * 2, [dilation] * 2, groups)
    want = F.conv2d(x.double() + 20, weight.double(), None, stride, padding, dilation, groups)
    assert torch.equal(got.double(), want)


def test_convolutions_have_one_to_three_axes() -> None:
    for axes, convolve in ((1, F.conv1d), (3, F.conv3d)):
        x, weight = codes(1, 2, *[5] * axes), codes(3, 2, *[2] * axes, seed=1)
        got = integer.conv_int32(x, weight, None, 4, [1] * axes, [1] * axes, [1] * axes, 1)
        assert torch.equal(got.double(), convolve(x.double() - 4, weight.double(), padding=1))


def test_products_sums_and_windows_are_exact() -> None:
    x, other = codes(2, 4, 6), codes(2, 6, 5, seed=1)
    assert torch.equal(integer.matmul_int32(x, other, 3, -7).double(), (x.double() - 3) @ (other.double() + 7))
    assert torch.equal(integer.sum_int32(x, 3, [1, 2], True).double(), (x.double() - 3).sum((1, 2), True))
    image = codes(1, 3, 7, 6)
    got = integer.window_sum_int32(image, 5, [3, 2], [2, 2], [1, 0])
    assert torch.equal(got.double(), F.avg_pool2d(image.double() - 5, (3, 2), 2, (1, 0), divisor_override=1))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_interpolation_is_exact_in_steps_of_its_weights(factor: int) -> None:
    x = codes(2, 3, 5, 4)
    got = integer.upsample_int32(x, 5, factor)
    want = F.interpolate(x.double() - 5, scale_factor=factor, mode="bilinear") * (2 * factor) ** 2
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-9)  # thirds are rounded in float64


def test_additions_and_products_broadcast() -> None:
    x, other = codes(2, 3, 4), codes(3, 1, seed=1)
    assert torch.equal(integer.add_int32(x, other, 2, -9, 30000, -17).double(), (x.double() - 2) * 30000 + (other.double() + 9) * -17)
    assert torch.equal(integer.mul_int32(x, other, 2, -9).double(), (x.double() - 2) * (other.double() + 9))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_a_table_begins_with_the_smallest_code(dtype: torch.dtype) -> None:
    low, high = CODES[dtype]
    every = torch.arange(low, high + 1).to(dtype)
    table = codes(256, seed=3)
    assert torch.equal(integer.lookup(every, table), table)


def test_rebased_codes_are_128_apart() -> None:
    every = torch.arange(-128, 128).to(torch.int8)
    other = integer.rebase(every)
    assert other.dtype == torch.uint8 and other.tolist() == list(range(256))
    assert torch.equal(integer.rebase(other), every)


def test_a_program_of_them_is_traced_at_any_size() -> None:
    from edgecc.ir.signature import Dim

    class Quarter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("multiplier", torch.tensor(2**30, dtype=torch.int32))  # 2^30 / 2^32

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return integer.requantize(integer.rescale_int32(x, 3), self.multiplier, 1, -1, 0, -128, 127, torch.int8)

    program = trace_function(Quarter(), codes(4, 6), dims={"x": {0: Dim("batch", 1, 9)}})
    assert all(map(is_integer, program.calls()))
    (got,) = program(codes(9, 6))
    assert torch.equal(got, ((codes(9, 6).int() - 3 + 2) >> 2).to(torch.int8))
