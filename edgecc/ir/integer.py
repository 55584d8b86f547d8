"""The `edgecc` operators: integer arithmetic on quantized tensors, known to torch once this file is imported.

A quantized tensor holds 8-bit codes; `zero` is the code of the number 0. Sums of products are int32, `requantize` turns
them into codes again. Each operator is written in integer arithmetic of PyTorch, so a program of them runs as it is, and
what it computes is what an artifact must compute bit for bit. Jacob et al., "Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, sections 2.1 to 2.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

CODES = {torch.int8: (-128, 127), torch.uint8: (0, 255)}

_LIBRARY = torch.library.Library("edgecc", "DEF")  # type: ignore[no-untyped-call]


def _operator(schema: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Define an operator whose function also runs on fake tensors."""

    def define(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = schema.partition("(")[0]
        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
        return function

    return define


def _centered(x: Tensor, zero: int) -> Tensor:
    return x.to(torch.int32) - zero


@_operator("linear_int32(Tensor x, Tensor weight, Tensor? bias, int x_zero) -> Tensor")
def linear_int32(x: Tensor, weight: Tensor, bias: Tensor | None, x_zero: int) -> Tensor:
    """`bias + sum (x - x_zero) weight`. x [.., in] codes, weight [out, in] int8, bias [out] int32 -> [.., out] int32."""
    sums = _centered(x, x_zero) @ weight.to(torch.int32).t()
    return sums if bias is None else sums + bias


@_operator(
    "conv_int32(Tensor x, Tensor weight, Tensor? bias, int x_zero, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor"
)
def conv_int32(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_zero: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """As `linear_int32` over windows. x [n, c, ..], weight [out, c / groups, ..] int8, bias [out] -> [n, out, ..] int32.

    What is padded is the number 0. `stride`, `padding` and `dilation`: one for each spatial axis, of which there are 1 to 3.
    """
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[weight.dim() - 2]
    spread = _dilated(weight.to(torch.int32), dilation)
    return convolve(_centered(x, x_zero), spread, bias, list(stride), list(padding), 1, groups)


def _dilated(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """The kernel with zeros between its taps: PyTorch has no dilated convolution of integers."""
    for axis, step in enumerate(dilation, start=2):
        taps, behind = weight.shape[axis], weight.dim() - axis - 1
        spaced = F.pad(weight.unsqueeze(axis + 1), [0, 0] * behind + [0, step - 1])
        weight = spaced.flatten(axis, axis + 1).narrow(axis, 0, (taps - 1) * step + 1)
    return weight


@_operator("matmul_int32(Tensor x, Tensor other, int x_zero, int other_zero) -> Tensor")
def matmul_int32(x: Tensor, other: Tensor, x_zero: int, other_zero: int) -> Tensor:
    """`sum (x - x_zero) (other - other_zero)`. x [.., m, k], other [.., k, n] codes -> [.., m, n] int32."""
    return _centered(x, x_zero) @ _centered(other, other_zero)


@_operator("sum_int32(Tensor x, int x_zero, int[] dims, bool keepdim) -> Tensor")
def sum_int32(x: Tensor, x_zero: int, dims: Sequence[int], keepdim: bool) -> Tensor:
    """`sum (x - x_zero)` over some axes, int32."""
    return _centered(x, x_zero).sum(list(dims), keepdim, dtype=torch.int32)


@_operator("window_sum_int32(Tensor x, int x_zero, int[] kernel, int[] stride, int[] padding) -> Tensor")
def window_sum_int32(x: Tensor, x_zero: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """`sum (x - x_zero)` over the windows of the last axes, one entry of `kernel` each; what is padded is the number 0."""
    padded = F.pad(_centered(x, x_zero), [w for p in reversed(padding) for w in (p, p)])
    for axis, (size, step) in enumerate(zip(kernel, stride, strict=True), start=x.dim() - len(kernel)):
        padded = padded.unfold(axis, size, step)
    return padded.sum(list(range(x.dim(), x.dim() + len(kernel))), dtype=torch.int32)


@_operator("upsample_int32(Tensor x, int x_zero, int factor) -> Tensor")
def upsample_int32(x: Tensor, x_zero: int, factor: int) -> Tensor:
    """`x - x_zero`, the last two axes interpolated linearly to `factor` times their sizes, in steps of 1 / (2 factor)^2, int32.

    Corners are not aligned: element i lies at `(i + 1/2) / factor - 1/2`, so that every weight is a whole number of steps.
    """
    rows, columns = (_interpolation(size, factor, x.device) for size in x.shape[-2:])
    return rows @ _centered(x, x_zero) @ columns.t()


def _interpolation(size: int, factor: int, device: torch.device) -> Tensor:
    """The weights of `size` elements for each of `factor * size`, in steps of 1 / (2 factor): int32 [factor size, size]."""
    place = 2 * torch.arange(factor * size, device=device) + 1 - factor
    first, rest = torch.div(place, 2 * factor, rounding_mode="floor"), place % (2 * factor)
    columns = torch.arange(size, device=device)
    lower = (columns == first.clamp(0, size - 1).unsqueeze(1)).to(torch.int32)
    upper = (columns == (first + 1).clamp(0, size - 1).unsqueeze(1)).to(torch.int32)
    return lower * (2 * factor - rest).to(torch.int32).unsqueeze(1) + upper * rest.to(torch.int32).unsqueeze(1)


@_operator("add_int32(Tensor x, Tensor other, int x_zero, int other_zero, int x_multiplier, int other_multiplier) -> Tensor")
def add_int32(x: Tensor, other: Tensor, x_zero: int, other_zero: int, x_multiplier: int, other_multiplier: int) -> Tensor:
    """`(x - x_zero) x_multiplier + (other - other_zero) other_multiplier`, broadcast, int32. Multipliers are below 2^15 in magnitude."""
    return _centered(x, x_zero) * x_multiplier + _centered(other, other_zero) * other_multiplier


@_operator("mul_int32(Tensor x, Tensor other, int x_zero, int other_zero) -> Tensor")
def mul_int32(x: Tensor, other: Tensor, x_zero: int, other_zero: int) -> Tensor:
    """`(x - x_zero) (other - other_zero)`, broadcast, int32."""
    return _centered(x, x_zero) * _centered(other, other_zero)


@_operator("rescale_int32(Tensor x, int x_zero) -> Tensor")
def rescale_int32(x: Tensor, x_zero: int) -> Tensor:
    """`x - x_zero` as int32: codes on their way to another scale."""
    return _centered(x, x_zero)


@_operator("requantize(Tensor sums, Tensor multiplier, int shift, int axis, int zero, int low, int high, ScalarType dtype) -> Tensor")
def requantize(sums: Tensor, multiplier: Tensor, shift: int, axis: int, zero: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """`clamp(zero + floor((sums m + 2^(30+s)) / 2^(31+s)), low, high)`: one rounding, half upwards.

    sums int32; multiplier [] or [channels along `axis`] int32 with 0 <= m < 2^31; -7 <= shift s <= 30.
    """
    sizes = [1] * sums.dim()
    if multiplier.dim():
        sizes[axis] = multiplier.shape[0]
    products = sums.to(torch.int64) * multiplier.to(torch.int64).view(sizes)
    return (((products + (1 << 30 + shift)) >> 31 + shift) + zero).clamp(low, high).to(dtype)


@_operator("lookup(Tensor x, Tensor table) -> Tensor")
def lookup(x: Tensor, table: Tensor) -> Tensor:
    """The entry for each code. table [256] codes, of the smallest code of x first -> the shape of x, the dtype of the table."""
    return table[x.to(torch.int64) - CODES[x.dtype][0]]


@_operator("rebase(Tensor x) -> Tensor")
def rebase(x: Tensor) -> Tensor:
    """int8 codes as uint8, or the other way, 128 apart: the same numbers where the zero moves by 128 too."""
    to, by = (torch.uint8, 128) if x.dtype == torch.int8 else (torch.int8, -128)
    return (x.to(torch.int16) + by).to(to)


@_operator("linear_codes(Tensor x, Tensor codes, Tensor scale, Tensor? shift, Tensor? bias, int bits) -> Tensor")
def linear_codes(x: Tensor, codes: Tensor, scale: Tensor, shift: Tensor | None, bias: Tensor | None, bits: int) -> Tensor:
    """`x w^T + bias` for weights `code * scale + shift` of groups along the input, in floating point.

    x [.., in] f32, codes [out, in] int8 of `bits` bits, scale and shift [out, groups] f32, bias [out] -> [.., out].
    """
    grouped = codes.to(scale.dtype).view(*scale.shape, -1) * scale.unsqueeze(-1)
    weight = grouped if shift is None else grouped + shift.unsqueeze(-1)
    return F.linear(x, weight.flatten(1), bias)


@_operator(
    "conv_codes(Tensor x, Tensor codes, Tensor scale, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor"
)
def conv_codes(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """A convolution by weights `code * scale`, in floating point. codes [out, in / groups, ..] int8, scale [out] f32."""
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[codes.dim() - 2]
    weight = codes.to(scale.dtype) * scale.view(-1, *[1] * (codes.dim() - 1))
    return convolve(x, weight, bias, list(stride), list(padding), list(dilation), groups)


integer = torch.ops.edgecc

#: Operators that give int32 sums, which only `requantize` turns into codes.
SUMS: frozenset[Any] = frozenset(
    {
        integer.linear_int32.default,
        integer.conv_int32.default,
        integer.matmul_int32.default,
        integer.sum_int32.default,
        integer.window_sum_int32.default,
        integer.upsample_int32.default,
        integer.add_int32.default,
        integer.mul_int32.default,
        integer.rescale_int32.default,
    }
)


_INTEGER = SUMS | {integer.requantize.default, integer.lookup.default, integer.rebase.default}


def is_integer(node: fx.Node) -> bool:
    """Whether a call computes on integers alone; products of floats by stored codes do not."""
    return node.target in _INTEGER


def reads_codes(node: fx.Node) -> bool:
    """Whether a call is one of these operators, or one of floats that reads constants as codes."""
    return is_integer(node) or node.target in (integer.linear_codes.default, integer.conv_codes.default)


def fixed_point(scale: Tensor) -> tuple[Tensor, int]:
    """The multiplier and shift of `requantize` for a scale: m / 2^(31+s) ~ scale, to 31 bits for the largest entry.

    scale [] or [channels] float64 > 0 -> int32 of the same shape. Raises ValueError for a scale outside 2^-31 .. 2^6.
    """
    largest = float(scale.max())
    if not 2.0**-31 < largest < 2.0**6 or not bool((scale > 0).all()):
        raise ValueError(f"a scale of {largest:g} does not fit a multiplier of 31 bits")
    shift = min(-math.frexp(largest)[1], 30)
    if round(largest * 2.0 ** (31 + shift)) >= 1 << 31:  # the mantissa rounds up to 1
        shift -= 1
    return (scale.double() * 2.0 ** (31 + shift)).round().to(torch.int32), shift
