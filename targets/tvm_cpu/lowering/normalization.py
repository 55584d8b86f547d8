"""Normalizations: softmax, and standardization by mean and variance in two passes, which does not cancel.

The variance is the mean of `(x - mean)^2`. The one-pass form `E[x^2] - E[x]^2` loses all digits where the mean is
large against the deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake, refuse_other_results
from edgecc.targets.tvm_cpu.lowering.arithmetic import result_dtype
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, axis_of, rank, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handlers, handlers

aten = torch.ops.aten


def _softmax(b: Builder, node: fx.Node, x: Expr, dim: int, dtype: Any = None, half_to_float: bool = False) -> Expr:
    data = b.cast(x, result_dtype(node))
    return b.op("nn.softmax", data, axis_of(dim, data)) if rank(data) else b.op("divide", data, data)


def _log_softmax(b: Builder, node: fx.Node, x: Expr, dim: int, dtype: Any = None, half_to_float: bool = False) -> Expr:
    from tvm import topi

    data = b.cast(x, result_dtype(node))
    axis = axis_of(dim, data)
    if not rank(data):
        return b.op("subtract", data, data)
    return b.te("log_softmax", lambda t: topi.nn.log_softmax(t, axis=axis), data)


def _layer_norm(
    b: Builder,
    node: fx.Node,
    x: Expr,
    normalized_shape: list[Any],
    weight: Expr | None = None,
    bias: Expr | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Expr:
    """Over the last axes, weight and bias of their shape. Ba et al. 2016, section 3."""
    axes = list(range(rank(x) - len(normalized_shape), rank(x)))
    return standardized(b, "layer_norm", x, axes, axes, weight, bias, eps)


def _rms_norm(
    b: Builder, node: fx.Node, x: Expr, normalized_shape: list[Any], weight: Expr | None = None, eps: float | None = None
) -> Expr:
    """`x / sqrt(mean(x^2) + eps) * weight`. Zhang and Sennrich 2019, equation 4."""
    from tvm import te, tirx, topi

    axes = list(range(rank(x) - len(normalized_shape), rank(x)))
    epsilon = torch.finfo(node.meta["val"].dtype).eps if eps is None else eps

    def rms_norm(t: Any, *scale: Any) -> Any:
        count = _count(t, axes)
        square = topi.sum(topi.multiply(t, t), axes, keepdims=True)

        def element(*index: Any) -> Any:
            at = [0 if k in axes else i for k, i in enumerate(index)]
            y = t(*index) * tirx.rsqrt(square(*at) / count + tirx.const(epsilon, t.dtype))
            return y * scale[0](*(index[k] for k in axes)) if scale else y

        return te.compute(t.shape, element, name="rms_norm")

    return b.te("rms_norm", rms_norm, x, *([] if weight is None else [weight]))


def standardized(
    b: Builder, name: str, x: Expr, over: Sequence[int], affine: Sequence[int], weight: Expr | None, bias: Expr | None, eps: float
) -> Expr:
    """`(x - mean) / sqrt(var + eps) * weight + bias` over the axes `over`; weight and bias are indexed by the axes `affine`."""
    from tvm import te, tirx, topi

    parameters = [p for p in (weight, bias) if p is not None]

    def normalize(t: Any, *given: Any) -> Any:
        count = _count(t, over)
        total = topi.sum(t, list(over), keepdims=True)
        mean = te.compute(total.shape, lambda *i: total(*i) / count, name="mean")
        squares = te.compute(t.shape, lambda *i: _square(t(*i) - mean(*_reduced(i, over))), name="deviation")
        spread = topi.sum(squares, list(over), keepdims=True)
        scale = te.compute(spread.shape, lambda *i: tirx.rsqrt(spread(*i) / count + tirx.const(eps, t.dtype)), name="scale")

        def element(*index: Any) -> Any:
            at, own = _reduced(index, over), [index[k] for k in affine]
            rest = iter(given)
            y = (t(*index) - mean(*at)) * scale(*at)
            y = y if weight is None else y * next(rest)(*own)
            return y if bias is None else y + next(rest)(*own)

        return te.compute(t.shape, element, name=name)

    return b.te(name, normalize, x, *parameters)


def _square(value: Any) -> Any:
    return value * value


def _reduced(index: Sequence[Any], axes: Sequence[int]) -> list[Any]:
    return [0 if k in axes else i for k, i in enumerate(index)]


def _count(t: Any, axes: Sequence[int]) -> Any:
    """The number of elements reduced, in the dtype of t."""
    from tvm import tirx

    count: Any = 1
    for axis in axes:
        count = count * t.shape[axis]
    return tirx.const(float(count), t.dtype) if isinstance(count, int) else count.astype(t.dtype)


def _group_norm(
    b: Builder,
    node: fx.Node,
    x: Expr,
    num_groups: int,
    weight: Expr | None = None,
    bias: Expr | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Expr:
    """x [n, c, ..], standardized over groups of c / num_groups channels and all positions. Wu and He 2018."""
    batch, channels, *space = shape(x)
    per_group = channels // num_groups
    grouped = b.reshape(x, [batch, num_groups, per_group, *space])
    over = [2, *range(3, rank(grouped))]
    scale, shift = (None if p is None else b.reshape(p, [num_groups, per_group]) for p in (weight, bias))
    return b.reshape(standardized(b, "group_norm", grouped, over, [1, 2], scale, shift, eps), shape(x))


def _instance_norm(
    b: Builder,
    node: fx.Node,
    x: Expr,
    weight: Expr | None,
    bias: Expr | None,
    running_mean: Expr | None,
    running_var: Expr | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Expr:
    if not use_input_stats:
        return _affine(b, x, weight, bias, running_mean, running_var, eps)
    return standardized(b, "instance_norm", x, list(range(2, rank(x))), [1], weight, bias, eps)


def _batch_norm(
    b: Builder,
    node: fx.Node,
    x: Expr,
    weight: Expr | None,
    bias: Expr | None,
    running_mean: Expr | None,
    running_var: Expr | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Expr:
    if training:
        return standardized(b, "batch_norm", x, [0, *range(2, rank(x))], [1], weight, bias, eps)
    return _affine(b, x, weight, bias, running_mean, running_var, eps)


def _batch_norm_inference(
    b: Builder,
    node: fx.Node,
    x: Expr,
    weight: Expr | None,
    bias: Expr | None,
    running_mean: Expr,
    running_var: Expr,
    momentum: float,
    eps: float,
) -> list[Expr | None]:
    return [_affine(b, x, weight, bias, running_mean, running_var, eps), None, None]


def _affine(b: Builder, x: Expr, weight: Expr | None, bias: Expr | None, mean: Expr | None, variance: Expr | None, eps: float) -> Expr:
    """`x * a + c` of the running statistics, where a and c are constants of the program that fold."""
    scale = b.op("rsqrt", b.binary("add", variance, eps))
    scale = scale if weight is None else b.op("multiply", scale, weight)
    shift = b.op("negative", b.op("multiply", mean, scale))
    shift = shift if bias is None else b.op("add", shift, bias)
    sizes = [shape(scale)[0], *[1] * (rank(x) - 2)]
    return b.op("add", b.op("multiply", x, b.reshape(scale, sizes)), b.reshape(shift, sizes))


def _weight_norm(b: Builder, node: fx.Node, v: Expr, g: Expr, dim: int = 0) -> Expr:
    """`g * v / |v|`, the norm over all axes but `dim`. Salimans and Kingma 2016, equation 2. Constants fold."""
    over = [axis for axis in range(rank(v)) if axis != axis_of(dim, v)] if dim != -1 else list(range(rank(v)))
    size = b.op("sqrt", b.op("sum", b.op("multiply", v, v), over, True))
    return b.op("multiply", v, b.op("divide", g, size))


def _native_layer_norm(
    b: Builder, node: fx.Node, x: Expr, normalized_shape: list[Any], weight: Expr | None, bias: Expr | None, eps: float
) -> list[Expr | None]:
    return [_layer_norm(b, node, x, normalized_shape, weight, bias, eps), None, None]


def _native_group_norm(
    b: Builder, node: fx.Node, x: Expr, weight: Expr | None, bias: Expr | None, group: int, eps: float, **_: Any
) -> list[Expr | None]:
    return [_group_norm(b, node, x, group, weight, bias, eps), None, None]


def _refuse_statistics(node: fx.Node) -> str | None:
    arguments = arguments_of(node)
    if not fake(arguments["x"]).is_floating_point():
        return "integer input"
    own = arguments.get("training", arguments.get("use_input_stats", False))
    return "running statistics are missing" if not own and arguments["running_mean"] is None else None


def _refuse_integers(node: fx.Node) -> str | None:
    return None if fake(arguments_of(node)["x"]).is_floating_point() else "integer input"


HANDLERS: Handlers = {
    **handlers(_softmax, aten.softmax.int, aten._softmax.default),
    **handlers(_log_softmax, aten.log_softmax.int, aten._log_softmax.default),
    **handlers(_layer_norm, aten.layer_norm.default, refuse=_refuse_integers),
    **handlers(_rms_norm, aten.rms_norm.default, refuse=_refuse_integers),
    **handlers(_weight_norm, aten._weight_norm.default),
    **handlers(_group_norm, aten.group_norm.default, refuse=_refuse_integers),
    **handlers(_instance_norm, aten.instance_norm.default, refuse=_refuse_statistics),
    **handlers(_batch_norm, aten.batch_norm.default, refuse=_refuse_statistics),
    **handlers(_batch_norm_inference, aten._native_batch_norm_legit_no_training.default, refuse=refuse_other_results),
    **handlers(_native_layer_norm, aten.native_layer_norm.default, refuse=refuse_other_results),
    **handlers(_native_group_norm, aten.native_group_norm.default, refuse=refuse_other_results),
}
