"""Sums: the operators on dequantized tensors whose results are sums of products of codes.

Each function reads one call and gives the integer operator that sums, with the scale of a sum, or why there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir.integer import integer
from edgecc.ir.ops import bound_arguments, each, padding_widths
from edgecc.ir.program import Program
from edgecc.quantization.integer.codes import Codes, Weight, activation, linear_operands, weight

aten = torch.ops.aten
_LIMIT = 1 << 31
_ADD_BITS = 15  # of the multipliers of an addition


@dataclass(frozen=True)
class Sums:
    """A call of `target` on `arguments` whose int32 results are numbers in steps of `scale`.

    `scale`: float64 [] or [channels along `axis`]. A tensor among the arguments becomes a weight of the program.
    """

    target: Any
    arguments: tuple[Any, ...]
    scale: torch.Tensor
    axis: int = -1


class NotIntegerError(Exception):
    """Why a call on dequantized tensors is not a sum of codes."""


def sums_of(program: Program, node: fx.Node) -> Sums | None:
    """The sums that a call is; None for an operator that is none. Raises NotIntegerError with the reason where it cannot be one."""
    read = _READERS.get(node.target)
    return read(program, node) if read else None


def _linear(program: Program, node: fx.Node) -> Sums:
    bound = bound_arguments(node)
    return _product(program, bound["input"], bound["weight"], bound["bias"], False)


def _addmm(program: Program, node: fx.Node) -> Sums:
    x, matrix, bias, _ = linear_operands(node)
    if x is None:
        raise NotIntegerError("it scales its terms, or its bias is no vector")
    return _product(program, x, matrix, bias, True)


def _matmul(program: Program, node: fx.Node) -> Sums:
    a, b = node.args[:2]
    assert isinstance(a, fx.Node) and isinstance(b, fx.Node)
    if weight(program, b) is not None and b.meta["val"].dim() == 2:
        return _product(program, a, b, None, True)
    left, right = _codes(program, a), _codes(program, b)
    depth = a.meta["val"].shape[-1]
    if isinstance(depth, int):
        check_sums(left.reach * right.reach * depth)
    scale = torch.tensor(left.grid.scale * right.grid.scale, dtype=torch.float64)
    return Sums(integer.matmul_int32.default, (left.node, right.node, left.grid.zero, right.grid.zero), scale)


def _product(program: Program, x: Any, w: Any, bias: Any, transposed: bool) -> Sums:
    """x [.., in] times a constant [out, in], or [in, out] where `transposed`."""
    codes, constant = _codes(program, x), _weight(program, w)
    axis = 1 if transposed else 0
    if constant.scale.dim() and constant.axis != axis:
        raise NotIntegerError("its weight has a scale for each input, not for each output")
    matrix = constant.codes.t() if transposed else constant.codes
    scale = constant.scale * codes.grid.scale
    shift = _bias(program, bias, scale, matrix.shape[0])
    _check_products(codes, matrix, shift)
    held = matrix.contiguous() if transposed else constant.node
    return Sums(integer.linear_int32.default, (codes.node, held, shift, codes.grid.zero), scale)


def _convolution(program: Program, node: fx.Node) -> Sums:
    bound = bound_arguments(node)
    if bound.get("transposed"):
        raise NotIntegerError("it is a transposed convolution")
    codes, constant = _codes(program, bound["input"]), _weight(program, bound["weight"])
    if constant.scale.dim() and constant.axis != 0:
        raise NotIntegerError("its weight has no scale for each output channel")
    axes = constant.codes.dim() - 2
    stride, dilation = (each(bound[k], axes) for k in ("stride", "dilation"))
    widths = padding_widths(bound["padding"], constant.codes.shape[2:], dilation)
    if any(before != after for before, after in widths):
        raise NotIntegerError("its padding differs at both ends")
    padding = [before for before, _ in widths]
    if bound["input"].meta["val"].dim() != axes + 2:
        raise NotIntegerError("its input has no batch axis")
    scale = constant.scale * codes.grid.scale
    shift = _bias(program, bound["bias"], scale, constant.codes.shape[0])
    _check_products(codes, constant.codes, shift)
    arguments = (codes.node, constant.node, shift, codes.grid.zero, stride, padding, dilation, bound["groups"])
    return Sums(integer.conv_int32.default, arguments, scale, 1)


def _transposed(program: Program, node: fx.Node) -> Sums:
    """A convolution of the codes with the zero's code between them, by the kernel turned around."""
    bound = bound_arguments(node)
    codes, constant = _codes(program, bound["input"]), _weight(program, bound["weight"])
    if bound["groups"] != 1:
        raise NotIntegerError("it is a transposed convolution of groups")
    if constant.scale.dim() and constant.axis != 1:
        raise NotIntegerError("its weight has no scale for each output channel")
    axes = constant.codes.dim() - 2
    given = bound["input"].meta["val"].shape
    stride, padding, extra, dilation = (each(bound[k], axes) for k in ("stride", "padding", "output_padding", "dilation"))
    border = [d * (k - 1) - p for d, k, p in zip(dilation, constant.codes.shape[2:], padding, strict=True)]
    if min(border) < 0 or len(given) != axes + 2 or not all(isinstance(n, int) for n in given[2:]):
        raise NotIntegerError("it crops more than its kernel reaches, or its sizes are dynamic")
    kernel = constant.codes.flip(list(range(2, axes + 2))).transpose(0, 1).contiguous()
    scale = constant.scale * codes.grid.scale
    shift = _bias(program, bound["bias"], scale, kernel.shape[0])
    _check_products(codes, kernel, shift)
    spread = _spread(program, node, codes, stride, extra)
    return Sums(integer.conv_int32.default, (spread, kernel, shift, codes.grid.zero, [1] * axes, border, dilation, 1), scale, 1)


def _spread(program: Program, node: fx.Node, codes: Codes, stride: list[int], extra: list[int]) -> fx.Node:
    """The codes with `stride - 1` zeros between them along each spatial axis, and `extra` at its end, before `node`."""
    made = codes.node
    rank = made.meta["val"].dim()
    for axis, (step, more) in enumerate(zip(stride, extra, strict=True), start=2):
        size = made.meta["val"].shape[axis]
        if step > 1:
            apart = program.call_before(node, aten.unsqueeze.default, made, axis + 1)
            apart = program.call_before(
                node, aten.constant_pad_nd.default, apart, [0, 0] * (rank - axis - 1) + [0, step - 1], codes.grid.zero
            )
            apart = program.call_before(node, aten.flatten.using_ints, apart, axis, axis + 1)
            made = program.call_before(node, aten.slice.Tensor, apart, axis, 0, (size - 1) * step + 1)
        if more:
            made = program.call_before(node, aten.constant_pad_nd.default, made, [0, 0] * (rank - axis - 1) + [0, more], codes.grid.zero)
    return made


def _addition(sign: int) -> Callable[[Program, fx.Node], Sums]:
    def read(program: Program, node: fx.Node) -> Sums:
        bound = bound_arguments(node)
        a, b = _codes(program, bound["self"]), _codes(program, bound["other"])
        factor = sign * bound.get("alpha", 1)
        largest = max(a.grid.scale, b.grid.scale * abs(factor))
        step = largest / (2**_ADD_BITS - 1)
        by = [round(a.grid.scale / step), round(factor * b.grid.scale / step)]
        arguments = (a.node, b.node, a.grid.zero, b.grid.zero, *by)
        return Sums(integer.add_int32.default, arguments, torch.tensor(step, dtype=torch.float64))

    return read


def _multiplication(program: Program, node: fx.Node) -> Sums:
    a, b = _codes(program, node.args[0]), _codes(program, node.args[1])
    scale = torch.tensor(a.grid.scale * b.grid.scale, dtype=torch.float64)
    return Sums(integer.mul_int32.default, (a.node, b.node, a.grid.zero, b.grid.zero), scale)


def _mean(program: Program, node: fx.Node) -> Sums:
    bound = bound_arguments(node)
    codes = _codes(program, bound["self"])
    shape = bound["self"].meta["val"].shape
    dims = [d % len(shape) for d in bound["dim"] or range(len(shape))]
    return _sum(codes, dims, shape, bound["keepdim"])


def _adaptive_pool(program: Program, node: fx.Node) -> Sums:
    bound = bound_arguments(node)
    codes, shape = _codes(program, bound["self"]), bound["self"].meta["val"].shape
    sizes = each(bound["output_size"], 2 if "2d" in str(node.target) else 1)
    if any(s != 1 for s in sizes):
        raise NotIntegerError("it pools to more than one element")
    return _sum(codes, list(range(len(shape) - len(sizes), len(shape))), shape, True)


def _sum(codes: Codes, dims: list[int], shape: Any, keepdim: bool) -> Sums:
    count = 1
    for d in dims:
        if not isinstance(shape[d], int):
            raise NotIntegerError("it averages over a dynamic number of elements")
        count *= shape[d]
    check_sums(codes.reach * count)
    scale = torch.tensor(codes.grid.scale / count, dtype=torch.float64)
    return Sums(integer.sum_int32.default, (codes.node, codes.grid.zero, dims, keepdim), scale)


def _pool(program: Program, node: fx.Node) -> Sums:
    bound = bound_arguments(node)
    codes = _codes(program, bound["self"])
    axes = 2 if "2d" in str(node.target) else 1
    kernel = each(bound["kernel_size"], axes)
    stride, padding = each(bound["stride"] or kernel, axes), each(bound["padding"], axes)
    count = bound.get("divisor_override") or 0
    if bound["ceil_mode"] or (any(padding) and not bound["count_include_pad"] and not count):
        raise NotIntegerError("its windows at the border have fewer elements")
    size = 1
    for k in kernel:
        size *= k
    check_sums(codes.reach * size)
    scale = torch.tensor(codes.grid.scale / (count or size), dtype=torch.float64)
    return Sums(integer.window_sum_int32.default, (codes.node, codes.grid.zero, kernel, stride, padding), scale)


def _upsample(program: Program, node: fx.Node) -> Sums:
    bound = bound_arguments(node)
    codes, given, made = _codes(program, bound["input"]), bound["input"].meta["val"].shape, node.meta["val"].shape
    sizes = [*zip(given[-2:], made[-2:], strict=True)]
    if bound["align_corners"] or not all(isinstance(n, int) and isinstance(m, int) and m % n == 0 for n, m in sizes):
        raise NotIntegerError("it does not interpolate to a whole multiple of fixed sizes")
    factors = {m // n for n, m in sizes}
    if len(factors) != 1:
        raise NotIntegerError("it enlarges its axes by different factors")
    factor = factors.pop()
    check_sums(codes.reach * (2 * factor) ** 2)
    scale = torch.tensor(codes.grid.scale / (2 * factor) ** 2, dtype=torch.float64)
    return Sums(integer.upsample_int32.default, (codes.node, codes.grid.zero, factor), scale)


def _codes(program: Program, node: Any) -> Codes:
    found = activation(program, node)
    if found is None or program.is_weight(found.node):
        raise NotIntegerError(f"{node} is not quantized")
    return found


def _weight(program: Program, node: Any) -> Weight:
    found = weight(program, node)
    if found is None:
        raise NotIntegerError(f"{node} is no int8 constant with a zero of 0")
    return found


def _bias(program: Program, node: Any, scale: torch.Tensor, channels: int) -> torch.Tensor | None:
    """The bias in steps of the sums, int32 [channels]."""
    if node is None:
        return None
    if not program.is_weight(node):
        raise NotIntegerError("its bias is computed at run time")
    value = program.weight(node).double().expand(channels)
    steps = (value / scale).round()
    if not bool((steps.abs() < _LIMIT).all()):
        raise NotIntegerError("its bias is beyond 2^31 steps of its sums")
    return steps.to(torch.int32)


def _check_products(codes: Codes, constant: torch.Tensor, shift: torch.Tensor | None) -> None:
    largest = constant.to(torch.int64).abs().flatten(1).sum(1) * codes.reach
    check_sums(int((largest if shift is None else largest + shift.to(torch.int64).abs()).max()))


def check_sums(bound: int) -> None:
    """Raises NotIntegerError where sums of this magnitude do not fit int32."""
    if bound >= _LIMIT:
        raise NotIntegerError(f"its sums may reach {bound}, beyond int32")


_READERS: dict[Any, Callable[[Program, fx.Node], Sums]] = {
    aten.linear.default: _linear,
    aten.addmm.default: _addmm,
    **dict.fromkeys((aten.matmul.default, aten.mm.default, aten.bmm.default), _matmul),
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), _convolution),
    **dict.fromkeys((aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding, aten.convolution.default), _convolution),
    **dict.fromkeys((aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), _transposed),
    aten.add.Tensor: _addition(1),
    aten.sub.Tensor: _addition(-1),
    aten.mul.Tensor: _multiplication,
    aten.mean.dim: _mean,
    **dict.fromkeys((aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default), _adaptive_pool),
    **dict.fromkeys((aten.avg_pool1d.default, aten.avg_pool2d.default), _pool),
    **dict.fromkeys((aten.upsample_bilinear2d.vec, aten.upsample_bilinear2d.default), _upsample),
}
