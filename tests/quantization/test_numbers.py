"""Affine numbers, weights and codes against closed forms and published tables."""

from __future__ import annotations

import pytest
import torch

from edgecc.quantization import codes, weights
from edgecc.quantization.affine import affine, dequantize, quantize
from edgecc.quantization.scheme import WeightFormat, scheme
from tests.quantization.nets import normal


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_error_is_at_most_half_a_step_inside_the_range(symmetric):
    x = torch.linspace(-3, 5, 10001)
    scale, zero_point = affine(torch.tensor(-3.0), torch.tensor(5.0), (-128, 127), symmetric=symmetric)
    q = quantize(x, scale, zero_point, (-128, 127))
    assert float(scale) == pytest.approx(5 / 127 if symmetric else 8 / 255)
    # a zero point is rounded too: the ends may be half a step outside, and 1e-6 is float32's own rounding
    inside = (q > -128) & (q < 127)
    assert float((dequantize(q, scale, zero_point) - x).abs()[inside].max()) <= float(scale) / 2 * (1 + 1e-5)


@pytest.mark.parametrize("ends", [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)])
def test_zero_is_always_an_integer(ends):
    scale, zero_point = affine(*map(torch.tensor, ends), (-128, 127), symmetric=False)
    q = quantize(torch.zeros(1), scale, zero_point, (-128, 127))
    assert float(dequantize(q, scale, zero_point)) == 0.0 and -128 <= int(zero_point) <= 127


def test_a_channel_of_zeros_and_one_of_one_number_are_kept():
    w = torch.tensor([[0.0, 0.0], [3.0, -3.0], [1e-20, 0.0]])
    found = weights.choose(w, 0, WeightFormat())
    assert bool(torch.isfinite(1 / found.scale).all())
    back = dequantize(quantize(w, found.scale[:, None], found.zero_point[:, None], (-127, 127)), found.scale[:, None], 0)
    assert torch.equal(back[:2], w[:2])


def test_scales_lie_along_the_axis_of_the_output_channels():
    w = normal(6, 4, 3)
    assert torch.allclose(weights.choose(w, 1, WeightFormat()).scale, w.abs().amax((0, 2)) / 127)


def test_groups_have_scales_of_their_own():
    w = normal(3, 64)
    found = weights.choose(w, 0, scheme("int8-weight-g32").weight)
    assert torch.allclose(found.scale, w.view(6, 32).abs().amax(1) / 127)


def test_clipping_four_bits_has_less_error_than_the_extremes():
    w = normal(8, 256)
    kind = WeightFormat(4)
    found = weights.choose(w, 0, kind)
    peak = w.abs().amax(1) / 7

    def error(scale):
        return (dequantize(quantize(w, scale[:, None], torch.zeros(1), kind.limits), scale[:, None], 0) - w).square().sum(1)

    assert bool((error(found.scale) <= error(peak)).all()) and float(error(found.scale).sum()) < 0.95 * float(error(peak).sum())


def test_normal_quantiles_are_those_of_the_paper():
    """Dettmers et al. 2023, appendix E."""
    paper = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334]
    paper += [-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224]
    paper += [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
    assert torch.allclose(codes.normal_quantiles(), torch.tensor(paper), atol=2e-4)  # the paper's were computed in float32


@pytest.mark.parametrize("name", ["nf4", "nvfp4"])
def test_every_code_is_the_nearest_number_of_its_block(name):
    kind = scheme(name).weight
    w = normal(4, 128)
    coded = codes.encode(w, kind)
    back = codes.decode(coded, kind).double()
    grid = codes.table(name).double() * (coded.scale.double() * coded.tensor_scale.double())[..., None]
    nearest = (w.view(-1, kind.group).double()[..., None] - grid).abs().amin(-1)
    assert torch.allclose((back - w.view_as(back)).abs(), nearest, atol=1e-6)


def test_scales_of_nvfp4_are_fp8_numbers():
    coded = codes.encode(normal(4, 64), scheme("nvfp4").weight)
    assert torch.equal(coded.scale, coded.scale.to(torch.float8_e4m3fn).float())
    assert float(coded.scale.max()) == 448.0  # the largest block has the largest FP8 number


def test_numbers_that_nvfp4_holds_come_back_equal():
    w = torch.tensor(codes._E2M1 + [-v for v in codes._E2M1])[None].repeat(2, 1)
    kind = scheme("nvfp4").weight
    # the tensor's scale is 1 / 448, which float32 rounds by up to 6e-8
    assert torch.allclose(codes.decode(codes.encode(w, kind), kind).view_as(w), w, rtol=2e-7)
