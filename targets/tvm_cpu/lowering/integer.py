"""Integer arithmetic on the codes of quantized tensors: the operators of `edgecc.ir.integer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from edgecc.ir.integer import CODES, integer
from edgecc.targeting.lowering import arguments_of
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, dtype, dtype_name, int64, rank, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handlers, handlers

_SUM, _FACTOR = "int32", "int16"


def _linear(b: Builder, node: fx.Node, x: Expr, weight: Expr, bias: Expr | None, x_zero: int) -> Expr:
    codes = b.value(weight)
    held = b.constant(np.ascontiguousarray(codes.T), _stored(codes))
    sums = b.te("matmul", lambda a, w: _matmul(a, w), x, held)
    return _shifted(b, sums, bias, x_zero, codes.sum(1, dtype=np.int64), -1)


def _conv(
    b: Builder,
    node: fx.Node,
    x: Expr,
    weight: Expr,
    bias: Expr | None,
    x_zero: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Expr:
    from tvm import tirx, topi

    codes = b.value(weight)
    if groups == shape(x)[1] > 1 and codes.shape[1] == 1:
        return _depthwise(b, x, codes, bias, x_zero, stride, padding, dilation)
    held = b.constant(codes, _stored(codes))

    def convolve(data: Any, kernel: Any) -> Any:
        if any(padding):
            width = [int64(w) for w in (0, 0, *padding)]
            data = topi.nn.pad(data, width, width, pad_value=tirx.const(x_zero, data.dtype))
        return topi.nn.conv(data, kernel, list(stride), 0, list(dilation), groups, _layout(stride), out_dtype=_SUM)

    sums = b.te(f"conv{len(stride)}d", convolve, x, held)
    return _shifted(b, sums, bias, x_zero, codes.reshape(len(codes), -1).sum(1, dtype=np.int64), 1)


def _depthwise(
    b: Builder,
    x: Expr,
    codes: np.ndarray[Any, Any],
    bias: Expr | None,
    x_zero: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Expr:
    """One channel each: codes are centered before they are padded, so that a kernel may leave out what is padded."""
    from tvm import te, tirx, topi

    def convolve(data: Any, kernel: Any) -> Any:
        zero = tirx.const(x_zero, _FACTOR)
        centered = te.compute(data.shape, lambda *i: data(*i).astype(_FACTOR) - zero, name="centered")
        if any(padding):
            width = [int64(w) for w in (0, 0, *padding)]
            centered = topi.nn.pad(centered, width, width, pad_value=tirx.const(0, _FACTOR))
        return topi.nn.conv(centered, kernel, list(stride), 0, list(dilation), len(codes), _layout(stride), out_dtype=_SUM)

    sums = b.te(f"depthwise{len(stride)}d", convolve, x, b.constant(codes, _FACTOR))
    return _shifted(b, sums, bias, 0, np.zeros(len(codes), np.int64), 1)


def _layout(stride: Sequence[int]) -> str:
    return "NC" + "DHW"[-len(stride) :]


def _stored(codes: np.ndarray[Any, Any]) -> str:
    """int16 where a code is -128: the kernels for int8 add two products in 16 bits."""
    return "int16" if codes.min(initial=0) == -128 else "int8"


def _shifted(b: Builder, sums: Expr, bias: Expr | None, x_zero: int, weights: np.ndarray[Any, Any], axis: int) -> Expr:
    """`sums + bias - x_zero * weights`, the last two one constant. `weights`: the sum for each channel along `axis`."""
    constant = -x_zero * weights + (0 if bias is None else b.value(bias).astype(np.int64))
    if not constant.any():
        return sums
    sizes = [1] * rank(sums)
    sizes[axis] = len(constant)
    return b.op("add", sums, b.constant(constant.reshape(sizes if axis >= 0 else sizes[-1:]), _SUM))


def _matmul(a: Any, b: Any) -> Any:
    """a [.., m, k], b [.., k, n] -> [.., m, n] int32; a batch axis of one element is that of the other operand."""
    from tvm import te

    batch = max(len(a.shape), len(b.shape)) - 2
    k = te.reduce_axis((0, a.shape[-1]), "k")

    def at(tensor: Any, index: Sequence[Any], last: Sequence[Any]) -> Any:
        own = index[batch - (len(tensor.shape) - 2) : batch]
        own = [int64(0) if _one(size) else i for size, i in zip(tensor.shape[:-2], own, strict=True)]
        return tensor(*own, *last).astype(_SUM)

    sizes = [_larger(a, b, i, batch) for i in range(batch)]
    rows = a.shape[-2:-1]

    def element(*index: Any) -> Any:
        return te.sum(at(a, index, [*index[batch : len(index) - 1], k]) * at(b, index, [k, index[-1]]), axis=k)

    if len(a.shape) == 1:
        return te.compute([b.shape[-1]], lambda j: te.sum(a(k).astype(_SUM) * b(k, j).astype(_SUM), axis=k), name="sums")
    return te.compute([*sizes, *rows, b.shape[-1]], element, name="sums")


def _larger(a: Any, b: Any, i: int, batch: int) -> Any:
    own = [t.shape[i - (batch - (len(t.shape) - 2))] for t in (a, b) if i >= batch - (len(t.shape) - 2)]
    return next((s for s in own if not _one(s)), own[0])


def _one(size: Any) -> bool:
    from tvm import tirx

    return isinstance(size, (int, tirx.IntImm)) and int(size) == 1


def _product(b: Builder, node: fx.Node, x: Expr, other: Expr, x_zero: int, other_zero: int) -> Expr:
    """`sum (a - za) (c - zc)` as `sum a c - zc sum a - za sum c + k za zc`. The right operand is int8 for every CPU."""
    right = _as_int8(b, other) if dtype(other) == "uint8" else other
    other_zero -= 128 if dtype(other) == "uint8" else 0
    sums = b.te("matmul", _matmul, x, right)
    depth = shape(x)[-1]
    if other_zero:
        rows = b.op("multiply", _total(b, x, -1), b.constant(other_zero, _SUM))
        sums = b.op("subtract", sums, rows)
    if x_zero:
        columns = b.op("multiply", _total(b, right, -2), b.constant(x_zero, _SUM))
        sums = b.op("subtract", sums, columns)
    if x_zero and other_zero:
        both = b.op("multiply", b.tensor(depth, _SUM), b.constant(x_zero * other_zero, _SUM))
        sums = b.op("add", sums, both)
    return sums


def _total(b: Builder, x: Expr, axis: int) -> Expr:
    """The sum of codes along an axis, which stays."""
    from tvm import topi

    return b.te("total", lambda t: topi.sum(topi.cast(t, _SUM), axis=axis, keepdims=True), x)


def _as_int8(b: Builder, x: Expr) -> Expr:
    return _elementwise(b, "rebase", x, "int8", lambda v: v - 128)


def _sum(b: Builder, node: fx.Node, x: Expr, x_zero: int, dims: Sequence[int], keepdim: bool) -> Expr:
    from tvm import topi

    axes = [d % rank(x) for d in dims]
    sums = b.te("sum", lambda t: topi.sum(topi.cast(t, _SUM), axis=axes, keepdims=keepdim), x)
    count = int(np.prod([shape(x)[d] for d in axes]))
    return b.op("subtract", sums, b.constant(x_zero * count, _SUM)) if x_zero else sums


def _window_sum(
    b: Builder, node: fx.Node, x: Expr, x_zero: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Expr:
    from tvm import te, tirx, topi

    outer = rank(x) - len(kernel)
    sizes = b.shape(node)

    def windows(data: Any) -> Any:
        if any(padding):
            width = [int64(w) for w in (*[0] * outer, *padding)]
            data = topi.nn.pad(data, width, width, pad_value=tirx.const(x_zero, data.dtype))
        taps = [te.reduce_axis((0, k), f"k{i}") for i, k in enumerate(kernel)]

        def element(*index: Any) -> Any:
            moved = [i * s + t for i, s, t in zip(index[outer:], stride, taps, strict=True)]
            return te.sum(data(*index[:outer], *moved).astype(_SUM), axis=taps)

        return te.compute([int64(s) for s in sizes], element, name="sums")

    sums = b.te("window_sum", windows, x)
    return b.op("subtract", sums, b.constant(x_zero * int(np.prod(kernel)), _SUM)) if x_zero else sums


def _upsample(b: Builder, node: fx.Node, x: Expr, x_zero: int, factor: int) -> Expr:
    """The four neighbours of each element, weighted by the halves of a step that it lies from the other two of them."""
    from tvm import tirx

    sizes = b.shape(node)
    step = 2 * factor

    def axis(place: Any, size: Any) -> list[tuple[Any, Any]]:
        """Two neighbours along an axis and their weights."""
        moved = place * 2 + (1 - factor)
        first, rest = tirx.floordiv(moved, int64(step)), tirx.floormod(moved, int64(step)).astype(_SUM)
        last = size - 1
        inside = [tirx.max(tirx.min(first + k, last), int64(0)) for k in (0, 1)]
        return [(inside[0], tirx.const(step, _SUM) - rest), (inside[1], rest)]

    def element(t: Any, *index: Any) -> Any:
        rows, columns = (axis(i, n) for i, n in zip(index[-2:], t.shape[-2:], strict=True))
        parts = [t(*index[:-2], r, c).astype(_SUM) * (v * w) for r, v in rows for c, w in columns]
        return parts[0] + parts[1] + parts[2] + parts[3] - tirx.const(x_zero * step * step, _SUM)

    return b.compute("upsample", sizes, element, x)


def _add(b: Builder, node: fx.Node, x: Expr, other: Expr, x_zero: int, other_zero: int, x_multiplier: int, other_multiplier: int) -> Expr:
    from tvm import tirx

    constant = -(x_zero * x_multiplier + other_zero * other_multiplier)

    def element(a: Any, c: Any) -> Any:
        first, second = (v.astype(_SUM) * tirx.const(m, _SUM) for v, m in ((a, x_multiplier), (c, other_multiplier)))
        return first + second + tirx.const(constant, _SUM)

    return b.broadcasting("add_int32", element, x, other)


def _mul(b: Builder, node: fx.Node, x: Expr, other: Expr, x_zero: int, other_zero: int) -> Expr:
    from tvm import tirx

    def element(a: Any, c: Any) -> Any:
        return (a.astype(_SUM) - tirx.const(x_zero, _SUM)) * (c.astype(_SUM) - tirx.const(other_zero, _SUM))

    return b.broadcasting("mul_int32", element, x, other)


def _rescale(b: Builder, node: fx.Node, x: Expr, x_zero: int) -> Expr:
    from tvm import tirx

    return b.compute("rescale", shape(x), lambda t, *i: t(*i).astype(_SUM) - tirx.const(x_zero, _SUM), x)


def _requantize(
    b: Builder, node: fx.Node, sums: Expr, multiplier: Expr, shift: int, axis: int, zero: int, low: int, high: int, dtype: torch.dtype
) -> Expr:
    from edgecc.targets.tvm_cpu.vector_math.intrinsics import requantize
    from edgecc.targets.tvm_cpu.vector_math.requantization import Step

    step = Step(shift, zero, low, high, dtype_name(dtype))
    channel = axis % max(rank(sums), 1)

    def element(acc: Any, m: Any, *index: Any) -> Any:
        return requantize(acc(*index), m(index[channel]) if len(m.shape) else m(), step)

    return b.compute("requantize", shape(sums), element, sums, multiplier)


def _lookup(b: Builder, node: fx.Node, x: Expr, table: Expr) -> Expr:
    from tvm import tirx

    first = CODES[getattr(torch, dtype(x))][0]
    return b.compute("lookup", shape(x), lambda t, u, *i: u(t(*i).astype("int64") - tirx.const(first, "int64")), x, table)


def _rebase(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return _as_int8(b, x) if dtype(x) == "uint8" else _elementwise(b, "rebase", x, "uint8", lambda v: v + 128)


def _elementwise(b: Builder, name: str, x: Expr, to: str, element: Callable[[Any], Any]) -> Expr:
    return b.compute(name, shape(x), lambda t, *i: element(t(*i).astype("int16")).astype(to), x)


def _linear_codes(b: Builder, node: fx.Node, x: Expr, codes: Expr, scale: Expr, shift: Expr | None, bias: Expr | None, bits: int) -> Expr:
    """Products by weights that stay integers: a scale for each output is applied to the sums, one for each group to its part."""
    array, scales = b.value(codes), b.value(scale)
    groups, depth = scales.shape[1], array.shape[1]
    plain = groups == 1 and shift is None
    packs = bits <= 4 and depth // groups % 2 == 0
    held = b.constant(np.ascontiguousarray((_in_pairs(array) if packs else array).T), "int8")
    operands = [x, held]
    if not plain:
        operands += [b.constant(np.ascontiguousarray(b.value(v).T), "float32") for v in (scale, shift) if v is not None]
    sums = b.te("matmul", lambda *args: _codes_product(groups, packs, *args), *operands)
    if plain:
        sums = b.op("multiply", sums, b.constant(scales[:, 0], "float32"))
    return sums if bias is None else b.op("add", sums, bias)


def _in_pairs(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Two codes of four bits in a byte, the first in its lower half. [out, in] -> [out, in / 2]."""
    first, second = codes[:, ::2].astype(np.int32), codes[:, 1::2].astype(np.int32)
    bytes_: np.ndarray[Any, Any] = (first & 15 | (second & 15) << 4).astype(np.uint8).view(np.int8)
    return bytes_


def _codes_product(groups: int, packs: bool, x: Any, codes: Any, scale: Any = None, shift: Any = None) -> Any:
    """x [.., k] times codes [k, n], or [k / 2, n] in pairs; scale and shift [groups, n]."""
    from tvm import te

    from edgecc.targets.tvm_cpu.vector_math.intrinsics import nibble

    each = int(codes.shape[0]) // groups
    g, k, h = te.reduce_axis((0, groups), "g"), te.reduce_axis((0, each), "k"), te.reduce_axis((0, 2), "h")

    def weight(n: Any) -> Any:
        byte = codes(g * each + k, n)
        value = (nibble(byte, h) if packs else byte).astype("float32")
        value = value if scale is None else value * scale(g, n)
        return value if shift is None else value + shift(g, n)

    def element(*index: Any) -> Any:
        at = (g * each + k) * 2 + h if packs else g * each + k
        return te.sum(x(*index[:-1], at) * weight(index[-1]), axis=[g, k, h] if packs else [g, k])

    return te.compute([*x.shape[:-1], codes.shape[1]], element, name="sums")


def _conv_codes(
    b: Builder,
    node: fx.Node,
    x: Expr,
    codes: Expr,
    scale: Expr,
    bias: Expr | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Expr:
    from tvm import topi

    def convolve(data: Any, kernel: Any) -> Any:
        if any(padding):
            width = [int64(w) for w in (0, 0, *padding)]
            data = topi.nn.pad(data, width, width, pad_value=0.0)
        return topi.nn.conv(data, kernel, list(stride), 0, list(dilation), groups, _layout(stride), out_dtype="float32")

    def channels(values: Expr) -> Expr:
        return b.constant(b.value(values).reshape(1, -1, *[1] * len(stride)), "float32")

    if groups > 1 and shape(codes)[1] == 1:  # a few bytes a channel, which have no kernel of their own
        floats = b.value(codes).astype(np.float32) * b.value(scale).reshape(-1, *[1] * (len(stride) + 1))
        sums = b.te(f"conv{len(stride)}d", convolve, x, b.constant(floats, "float32"))
    else:
        sums = b.op("multiply", b.te(f"conv{len(stride)}d", convolve, x, codes), channels(scale))
    return sums if bias is None else b.op("add", sums, channels(bias))


def _refuse_weights(node: fx.Node) -> str | None:
    """The kernels pack weights at compile time."""
    bound = arguments_of(node)
    computed = [k for k in ("weight", "bias", "codes", "scale", "shift") if isinstance(bound.get(k), fx.Node) and bound[k].op != "get_attr"]
    return f"its {' and its '.join(computed)} is computed at run time" if computed else None


HANDLERS: Handlers = {
    **handlers(_linear, integer.linear_int32.default, refuse=_refuse_weights),
    **handlers(_conv, integer.conv_int32.default, refuse=_refuse_weights),
    **handlers(_linear_codes, integer.linear_codes.default, refuse=_refuse_weights),
    **handlers(_conv_codes, integer.conv_codes.default, refuse=_refuse_weights),
    **handlers(_product, integer.matmul_int32.default),
    **handlers(_sum, integer.sum_int32.default),
    **handlers(_window_sum, integer.window_sum_int32.default),
    **handlers(_upsample, integer.upsample_int32.default),
    **handlers(_add, integer.add_int32.default),
    **handlers(_mul, integer.mul_int32.default),
    **handlers(_rescale, integer.rescale_int32.default),
    **handlers(_requantize, integer.requantize.default),
    **handlers(_lookup, integer.lookup.default),
    **handlers(_rebase, integer.rebase.default),
}
