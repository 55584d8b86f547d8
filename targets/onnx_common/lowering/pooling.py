"""Pooling over windows, of fixed size or adapted to the size of the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from edgecc.ir.dtypes import dtype_name
from edgecc.ir.ops import each
from edgecc.targeting.lowering import arguments_of, fake, refuse_other_results
from edgecc.targets.onnx_common.builder import Builder, Size
from edgecc.targets.onnx_common.lowering.contraction import matmul
from edgecc.targets.onnx_common.lowering.handler import SINGLE, Handler, Handlers, Refusal, Value, first, handlers
from edgecc.targets.onnx_common.lowering.padding import padded

aten = torch.ops.aten


def _max_pool(axes: int) -> Callable[..., Value]:
    def lower(
        b: Builder,
        node: fx.Node,
        x: Value,
        kernel_size: Any,
        stride: Any = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Value:
        """ONNX MaxPool. What rounding up adds is padding behind the last element."""
        kernel, pad, spread = each(kernel_size, axes), each(padding, axes), each(dilation, axes)
        strides, sizes = each(stride, axes) if stride else kernel, b.sizes_of(first(node))
        behind = _behind(b, x, sizes, kernel, strides, pad, spread) if ceil_mode else pad
        return _pool(b, "MaxPool", x, sizes, kernel, strides, pad, behind, dilations=spread if any(d != 1 for d in spread) else None)

    return lower


def _max_pool_with_indices(axes: int) -> Callable[..., list[Value | None]]:
    pool = _max_pool(axes)
    return lambda b, node, x, **options: [pool(b, node, x, **options), None]


def _avg_pool(axes: int) -> Callable[..., Value]:
    def lower(
        b: Builder,
        node: fx.Node,
        x: Value,
        kernel_size: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        """ONNX AveragePool. What rounding up adds behind the padding never counts, which AveragePool cannot say of a part
        of its padding: where both are there, the padding that counts is a Pad.
        """
        kernel, pad = each(kernel_size, axes), each(padding, axes)
        strides, sizes = each(stride, axes) if stride else kernel, b.sizes_of(first(node))
        behind = _behind(b, x, sizes, kernel, strides, pad, [1] * axes) if ceil_mode else pad
        extra = [e - p for e, p in zip(behind, pad, strict=True)]
        if divisor_override is not None:
            x, pad, behind = _bordered(b, x, pad, behind), [0] * axes, [0] * axes
        elif any(extra) and any(pad) and count_include_pad:
            x, pad, behind = _bordered(b, x, pad, pad), [0] * axes, extra
        counted = int(count_include_pad) if any(pad) and not any(extra) else None
        result = _pool(b, "AveragePool", x, sizes, kernel, strides, pad, behind, count_include_pad=counted)
        return result if divisor_override is None else b.binary("Mul", result, math.prod(kernel) / divisor_override)

    return lower


def _behind(
    b: Builder, x: Value, sizes: Sequence[Size], kernel: Sequence[int], strides: Sequence[int], pad: Sequence[int], spread: Sequence[int]
) -> list[int]:
    """The padding behind the last element with which rounding down gives these sizes."""
    own = zip(b.sizes(x)[-len(kernel) :], sizes[-len(kernel) :], kernel, strides, pad, spread, strict=True)
    return [max(p, (out - 1) * s + d * (k - 1) + 1 - size - p) for size, out, k, s, p, d in own]


def _bordered(b: Builder, x: Value, before: Sequence[int], behind: Sequence[int]) -> Value:
    border = [w for pair in zip(reversed(before), reversed(behind), strict=True) for w in pair]
    sizes = list(b.sizes(x))
    for k in range(len(before)):
        sizes[k - len(before)] = sizes[k - len(before)] + before[k] + behind[k]
    return padded(b, x, border, "constant", 0, sizes)


def _pool(
    b: Builder,
    kind: str,
    x: Value,
    sizes: Sequence[Size],
    kernel: Sequence[int],
    strides: Sequence[int],
    before: Sequence[int],
    behind: Sequence[int],
    *,
    dilations: Sequence[int] | None = None,
    **options: Any,
) -> Value:
    """Pool over the last axes of x. Windows over one axis become windows of height 1, as TensorRT pools over two or three."""
    flat = len(kernel) == 1
    one, zero = ([1], [0]) if flat else ([], [])
    options |= {"kernel_shape": [*one, *kernel], "strides": [*one, *strides], "pads": [*zero, *before, *zero, *behind]}
    options["dilations"] = None if dilations is None else [*one, *dilations]
    axes, added = len(kernel) + flat, [b.rank(x) - 1] if flat else []
    data = b.unsqueeze(x, added) if flat else x
    sizes = [*sizes[:-1], 1, sizes[-1]] if flat else sizes
    return b.squeeze(_batched(b, data, axes, sizes, lambda t, s: b.op(kind, t, sizes=s, **options)), added)


def _batched(b: Builder, x: Value, axes: int, sizes: Sequence[Size], pool: Callable[[Value, Sequence[Size]], Value]) -> Value:
    """Pool with a batch of one where the input has none."""
    if b.rank(x) == axes + 2:
        return pool(x, sizes)
    return b.squeeze(pool(b.unsqueeze(x, [0]), [1, *sizes]), [0])


# -- adaptive


def _adaptive_pool(kind: str, axes: int) -> Callable[..., Value]:
    """`kind`: Average or Max. To one element it is global, to a divisor of the size a plain pooling."""

    def lower(b: Builder, node: fx.Node, x: Value, output_size: Any) -> Value:
        sizes = b.sizes_of(first(node))
        space, wanted = b.sizes(x)[-axes:], sizes[-axes:]
        if all(w == 1 for w in wanted):
            return _batched(b, x, axes, sizes, lambda t, s: b.op(f"Global{kind}Pool", t, sizes=s))
        if all(s % w == 0 for s, w in zip(space, wanted, strict=True)):
            kernel = [s // w for s, w in zip(space, wanted, strict=True)]
            return _pool(b, f"{kind}Pool", x, sizes, kernel, kernel, [0] * axes, [0] * axes)
        for k in range(b.rank(x) - axes, b.rank(x)):
            x = _mean_along(b, x, k, sizes[k]) if kind == "Average" else _maximum_along(b, x, k, sizes[k])
        return x

    return lower


def _windows(size: int, result: int) -> list[range]:
    """From `floor(i * size / result)` to before `ceil((i + 1) * size / result)`."""
    return [range(i * size // result, -(-(i + 1) * size // result)) for i in range(result)]


def _mean_along(b: Builder, x: Value, axis: int, result: int) -> Value:
    """Means over windows of one axis: the product with a matrix of shares. x [.., size, ..] -> [.., result, ..]."""
    size = b.sizes(x)[axis]
    if size == result:
        return x
    shares = torch.zeros(result, size)
    for row, window in zip(shares, _windows(size, result), strict=True):
        row[window.start : window.stop] = 1 / len(window)
    last = b.rank(x) - 1
    turned = matmul(b, b.swap(x, axis, last), b.constant(shares.T.contiguous(), b.dtype(x), "shares"))
    return b.swap(turned, axis, last)


def _maximum_along(b: Builder, x: Value, axis: int, result: int) -> Value:
    """Maxima over windows of one axis; a shorter window has its last element several times."""
    size = b.sizes(x)[axis]
    if size == result:
        return x
    windows = _windows(size, result)
    longest = max(map(len, windows))
    places = torch.tensor([[min(w.start + k, w.stop - 1) for k in range(longest)] for w in windows])
    return b.reduce("ReduceMax", b.gather(x, b.constant(places, torch.int64, "windows"), axis), [axis + 1], False)


def _adaptive_max(axes: int) -> Callable[..., list[Value | None]]:
    pool = _adaptive_pool("Max", axes)
    return lambda b, node, x, output_size: [pool(b, node, x, output_size), None]


def _refuse(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    x = fake(arguments["x"])
    if x.dtype not in SINGLE:
        return f"pooling of {dtype_name(x.dtype)}"
    axes = len(each(arguments["kernel_size"], 1)) if "kernel_size" in arguments else 0
    dynamic = any(isinstance(s, torch.SymInt) for s in x.shape[x.dim() - max(axes, 1) :])
    return "pooling of a dynamic size, rounded up" if arguments.get("ceil_mode") and dynamic else None


def _refuse_adaptive(node: fx.Node, opset: int) -> str | None:
    if any(isinstance(s, fx.Node) for s in each(node.args[1], 1)):
        return "adaptive pooling to a dynamic size"
    if all(s == 1 for s in each(node.args[1], 1)):
        return _refuse(node, opset)
    axes = 1 if "1d" in str(node.target) else 3 if "3d" in str(node.target) else 2
    dynamic = any(isinstance(s, torch.SymInt) for s in fake(node.args[0]).shape[-axes:])
    return "adaptive pooling of a dynamic size" if dynamic else _refuse(node, opset)


def _first_only(lower: Callable[..., Any], check: Refusal = _refuse) -> Handler:
    return Handler(lower, lambda node, opset: check(node, opset) or refuse_other_results(node))


HANDLERS: Handlers = {
    **handlers(_max_pool(1), aten.max_pool1d.default, refuse=_refuse),
    **handlers(_max_pool(2), aten.max_pool2d.default, refuse=_refuse),
    **handlers(_max_pool(3), aten.max_pool3d.default, refuse=_refuse),
    **handlers(_avg_pool(1), aten.avg_pool1d.default, refuse=_refuse),
    **handlers(_avg_pool(2), aten.avg_pool2d.default, refuse=_refuse),
    **handlers(_avg_pool(3), aten.avg_pool3d.default, refuse=_refuse),
    **handlers(_adaptive_pool("Average", 1), aten.adaptive_avg_pool1d.default, refuse=_refuse_adaptive),
    **handlers(_adaptive_pool("Average", 2), aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default, refuse=_refuse_adaptive),
    **handlers(_adaptive_pool("Average", 3), aten.adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d.default, refuse=_refuse_adaptive),
    aten.max_pool2d_with_indices.default: _first_only(_max_pool_with_indices(2)),
    aten.max_pool1d_with_indices.default: _first_only(_max_pool_with_indices(1)),
    aten.adaptive_max_pool1d.default: _first_only(_adaptive_max(1), _refuse_adaptive),
    aten.adaptive_max_pool2d.default: _first_only(_adaptive_max(2), _refuse_adaptive),
}
