"""Pooling over windows, of fixed size or adapted to the size of the result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import each
from edgecc.targeting.lowering import fake, refuse_other_results
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, dtype, int64, rank, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handler, Handlers, Refusal, handlers

aten = torch.ops.aten


def _max_pool(axes: int) -> Callable[..., Expr]:
    def lower(
        b: Builder, node: fx.Node, x: Expr, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> Expr:
        kernel, pad, spread = each(kernel_size, axes), each(padding, axes), each(dilation, axes)
        strides = each(stride, axes) if stride else kernel
        value = node.meta["val"]
        sizes = b.shape(value[0] if isinstance(value, (tuple, list)) else value)
        if not ceil_mode:
            return _batched(b, x, axes, lambda t: b.op(f"nn.max_pool{axes}d", t, kernel, strides, pad + pad, spread), sizes)
        windows = [_fixed(k, s, p, d) for k, s, p, d in zip(kernel, strides, pad, spread, strict=True)]
        return _windowed(b, "max_pool", x, windows, sizes)

    return lower


def _max_pool_with_indices(axes: int) -> Callable[..., list[Expr | None]]:
    pool = _max_pool(axes)
    return lambda b, node, x, **options: [pool(b, node, x, **options), None]


def _avg_pool(axes: int) -> Callable[..., Expr]:
    def lower(
        b: Builder,
        node: fx.Node,
        x: Expr,
        kernel_size: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Expr:
        kernel, pad = each(kernel_size, axes), each(padding, axes)
        strides, sizes = each(stride, axes) if stride else kernel, b.shape(node)
        plain = not ceil_mode and divisor_override is None and (count_include_pad or not any(pad))
        if plain:
            options = {"count_include_pad": True}
            return _batched(b, x, axes, lambda t: b.op(f"nn.avg_pool{axes}d", t, kernel, strides, pad + pad, 1, **options), sizes)
        windows = [_fixed(k, s, p, 1) for k, s, p in zip(kernel, strides, pad, strict=True)]
        total = _windowed(b, "sum_pool", x, windows, sizes)
        if divisor_override is not None:
            return b.binary("divide", total, divisor_override)
        margins = pad if count_include_pad else [0] * axes
        return b.op("divide", total, _covered(b, x, kernel, strides, pad, margins, sizes))

    return lower


def _batched(b: Builder, x: Expr, axes: int, pool: Callable[[Expr], Expr], sizes: Sequence[Any]) -> Expr:
    """Pool with a batch of one where the input has none."""
    data = x if rank(x) == axes + 2 else b.op("expand_dims", x, 0)
    return b.reshape(pool(data), sizes)


# -- any windows


@dataclass(frozen=True)
class Windows:
    """The windows along one axis, for sizes of the input that may be symbolic.

    `extent(size)` is the largest number of elements in a window; `element(i, k, size)` the position of the k-th
    element of window i, and the conditions under which it is one.
    """

    extent: Callable[[Any], Any]
    element: Callable[[Any, Any, Any], tuple[Any, tuple[Any, ...]]]


def _fixed(kernel: int, stride: int, pad: int, dilation: int) -> Windows:
    def element(i: Any, k: Any, size: Any) -> tuple[Any, tuple[Any, ...]]:
        position = i * stride + k * dilation - pad
        return position, (position >= 0, position < size)

    return Windows(lambda size: kernel, element)


def _adaptive(result: int) -> Windows:
    """From `floor(i * size / result)` to before `ceil((i + 1) * size / result)`."""
    from tvm import tirx

    def element(i: Any, k: Any, size: Any) -> tuple[Any, tuple[Any, ...]]:
        position = tirx.floordiv(i * size, result) + k
        return position, (position < tirx.floordiv((i + 1) * size + result - 1, result),)

    return Windows(lambda size: tirx.floordiv(size + result - 1, result) + 1, element)


def _windowed(b: Builder, name: str, x: Expr, windows: Sequence[Windows], sizes: Sequence[Any]) -> Expr:
    """The maximum or the sum of each window's elements over the last axes of x."""
    from tvm import te, tirx

    lead = rank(x) - len(windows)
    largest = name == "max_pool"

    def function(t: Any) -> Any:
        ks = [te.reduce_axis((0, int64(w.extent(s))), "k") for w, s in zip(windows, t.shape[lead:], strict=True)]
        outside = tirx.min_value(t.dtype) if largest else tirx.const(0, t.dtype)

        def element(*index: Any) -> Any:
            found = [w.element(i, k, s) for w, i, k, s in zip(windows, index[lead:], ks, t.shape[lead:], strict=True)]
            inside = tirx.all(*(c for _, conditions in found for c in conditions))
            value = tirx.if_then_else(inside, t(*index[:lead], *(p for p, _ in found)), outside)
            return te.max(value, axis=ks) if largest else te.sum(value, axis=ks)

        return te.compute([int64(s) for s in sizes], element, name=name)

    return b.te(name, function, x)


def _covered(
    b: Builder, x: Expr, kernel: Sequence[int], strides: Sequence[int], pad: Sequence[int], margins: Sequence[int], sizes: Sequence[Any]
) -> Expr:
    """How many elements of each window lie in the input widened by `margins`, in the dtype of x."""
    from tvm import tirx

    axes, to = len(kernel), dtype(x)

    def element(t: Any, *index: Any) -> Any:
        counts = []
        for i, k, s, p, m, size in zip(index, kernel, strides, pad, margins, t.shape[-axes:], strict=True):
            first, last = i * s - p, tirx.min(i * s - p + k, size + p)
            counts.append(tirx.min(last, size + m) - tirx.max(first, -m))
        return functools.reduce(lambda a, c: a * c, counts).astype(to)

    return b.compute("covered", list(sizes)[-axes:], element, x)


# -- adaptive


def _adaptive_pool(name: str, axes: int) -> Callable[..., Expr]:
    def lower(b: Builder, node: fx.Node, x: Expr, output_size: Any) -> Expr:
        value = node.meta["val"]
        sizes = b.shape(value[0] if isinstance(value, (tuple, list)) else value)
        space, wanted = shape(x)[-axes:], sizes[-axes:]
        if all(w == 1 for w in wanted if isinstance(w, int)) and all(isinstance(w, int) for w in wanted):
            return b.op("max" if name == "max" else "mean", x, list(range(rank(x) - axes, rank(x))), True)
        if all(isinstance(s, int) and isinstance(w, int) and s % w == 0 for s, w in zip(space, wanted, strict=True)):
            kernel = [s // w for s, w in zip(space, wanted, strict=True)]
            return _batched(b, x, axes, lambda t: b.op(f"nn.{name}_pool{axes}d", t, kernel, kernel), sizes)
        windows = [_adaptive(w) for w in wanted]
        if name == "max":
            return _windowed(b, "max_pool", x, windows, sizes)
        return b.op("divide", _windowed(b, "sum_pool", x, windows, sizes), _adaptive_counts(b, x, wanted))

    return lower


def _adaptive_counts(b: Builder, x: Expr, wanted: Sequence[Any]) -> Expr:
    from tvm import tirx

    axes, to = len(wanted), dtype(x)

    def element(t: Any, *index: Any) -> Any:
        counts = [
            tirx.floordiv((i + 1) * s + w - 1, w) - tirx.floordiv(i * s, w) for i, w, s in zip(index, wanted, t.shape[-axes:], strict=True)
        ]
        return functools.reduce(lambda a, c: a * c, counts).astype(to)

    return b.compute("window_sizes", wanted, element, x)


def _adaptive_max(axes: int) -> Callable[..., list[Expr | None]]:
    pool = _adaptive_pool("max", axes)
    return lambda b, node, x, output_size: [pool(b, node, x, output_size), None]


def _refuse(node: fx.Node) -> str | None:
    return None if fake(node.args[0]).is_floating_point() else "pooling of integers"


def _refuse_maximum(node: fx.Node) -> str | None:
    """Of codes the largest stands for the largest number."""
    return None if fake(node.args[0]).dtype in (torch.int8, torch.uint8) else _refuse(node)


def _refuse_adaptive(node: fx.Node) -> str | None:
    dynamic = any(isinstance(s, fx.Node) for s in each(node.args[1], 1))
    return "adaptive pooling to a dynamic size" if dynamic else _refuse(node)


def _first_only(lower: Callable[..., Any], check: Refusal = _refuse) -> Handler:
    return Handler(lower, lambda node: check(node) or refuse_other_results(node))


HANDLERS: Handlers = {
    **handlers(_max_pool(1), aten.max_pool1d.default, refuse=_refuse_maximum),
    **handlers(_max_pool(2), aten.max_pool2d.default, refuse=_refuse_maximum),
    **handlers(_max_pool(3), aten.max_pool3d.default, refuse=_refuse_maximum),
    **handlers(_avg_pool(1), aten.avg_pool1d.default, refuse=_refuse),
    **handlers(_avg_pool(2), aten.avg_pool2d.default, refuse=_refuse),
    **handlers(_avg_pool(3), aten.avg_pool3d.default, refuse=_refuse),
    **handlers(_adaptive_pool("avg", 1), aten.adaptive_avg_pool1d.default, refuse=_refuse_adaptive),
    **handlers(_adaptive_pool("avg", 2), aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default, refuse=_refuse_adaptive),
    **handlers(_adaptive_pool("avg", 3), aten.adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d.default, refuse=_refuse_adaptive),
    aten.max_pool2d_with_indices.default: _first_only(_max_pool_with_indices(2)),
    aten.max_pool1d_with_indices.default: _first_only(_max_pool_with_indices(1)),
    aten.adaptive_max_pool1d.default: _first_only(_adaptive_max(1), _refuse_adaptive),
    aten.adaptive_max_pool2d.default: _first_only(_adaptive_max(2), _refuse_adaptive),
}
