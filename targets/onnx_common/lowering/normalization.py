"""Normalizations, kept whole wherever the opset has the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake, refuse_other_results
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.handler import SINGLE, Handlers, Value, at_any_opset, first, handlers, refuse_integers
from edgecc.targets.onnx_common.lowering.reduction import variance

aten = torch.ops.aten


def _softmax(kind: str) -> Any:
    def lower(b: Builder, node: fx.Node, x: Value, dim: int, dtype: Any = None, half_to_float: bool = False) -> Value:
        data = b.cast(x, first(node).dtype)
        if not b.rank(data):
            return b.op("Div" if kind == "Softmax" else "Sub", data, data)
        axis = b.axis(dim, data)
        return b.op(kind, data, axis=None if axis == b.rank(data) - 1 else axis)

    return lower


def _layer_norm(
    b: Builder,
    node: fx.Node,
    x: Value,
    normalized_shape: list[Any],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Value:
    """Over the last axes, weight and bias of their shape. Ba et al. 2016, section 3; ONNX LayerNormalization."""
    scale = _ones(b, normalized_shape, b.dtype(x)) if weight is None else weight
    return b.op("LayerNormalization", x, scale, bias, axis=-len(normalized_shape), epsilon=float(eps), sizes=b.sizes(x))


def _rms_norm(
    b: Builder, node: fx.Node, x: Value, normalized_shape: list[Any], weight: Value | None = None, eps: float | None = None
) -> Value:
    """`x / sqrt(mean(x^2) + eps) * weight`. Zhang and Sennrich 2019, equation 4; RMSNormalization since opset 23."""
    epsilon = torch.finfo(b.dtype(x)).eps if eps is None else eps
    if b.opset >= 23 and b.dtype(x) in SINGLE:
        scale = _ones(b, normalized_shape, b.dtype(x)) if weight is None else weight
        return b.op("RMSNormalization", x, scale, axis=-len(normalized_shape), epsilon=float(epsilon), sizes=b.sizes(x))
    axes = list(range(b.rank(x) - len(normalized_shape), b.rank(x)))
    mean = b.reduce("ReduceMean", b.binary("Pow", x, 2.0), axes, True)
    y = b.op("Div", x, b.op("Sqrt", b.binary("Add", mean, epsilon)))
    return y if weight is None else b.op("Mul", y, weight)


def _ones(b: Builder, sizes: Sequence[int], to: torch.dtype) -> Value:
    return b.constant(torch.ones(*sizes), to, "ones")


def _zeros(b: Builder, sizes: Sequence[int], to: torch.dtype) -> Value:
    return b.constant(torch.zeros(*sizes), to, "zeros")


def _group_norm(
    b: Builder,
    node: fx.Node,
    x: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    """x [n, c, ..], standardized over groups of c / num_groups channels and all positions. Wu and He 2018.

    GroupNormalization has a scale for each channel since opset 21. Below, a group is an instance of one channel.
    """
    sizes, to = b.sizes(x), b.dtype(x)
    channels = sizes[1]
    if b.opset >= 21 and b.rank(x) > 2:
        scale = _ones(b, [channels], to) if weight is None else weight
        shift = _zeros(b, [channels], to) if bias is None else bias
        return b.op("GroupNormalization", x, scale, shift, epsilon=float(eps), num_groups=num_groups, sizes=sizes)
    grouped = b.reshape(x, [sizes[0], num_groups, b.count(x, range(1, b.rank(x))) // num_groups])
    plain = _standardized_instances(b, grouped, None, None, eps)
    return _scaled(b, b.reshape(plain, sizes), weight, bias)


def _scaled(b: Builder, x: Value, weight: Value | None, bias: Value | None) -> Value:
    """`x * weight + bias` along the second axis."""
    ones = [1] * (b.rank(x) - 2)
    if weight is not None:
        x = b.op("Mul", x, b.reshape(weight, [b.count(weight, [0]), *ones]))
    return x if bias is None else b.op("Add", x, b.reshape(bias, [b.count(bias, [0]), *ones]))


def _standardized_instances(b: Builder, x: Value, weight: Value | None, bias: Value | None, eps: float) -> Value:
    channels, to = b.sizes(x)[1], b.dtype(x)
    scale = _ones(b, [channels], to) if weight is None else weight
    shift = _zeros(b, [channels], to) if bias is None else bias
    return b.op("InstanceNormalization", x, scale, shift, epsilon=float(eps), sizes=b.sizes(x))


def _instance_norm(
    b: Builder,
    node: fx.Node,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value:
    if not use_input_stats:
        return _affine(b, x, weight, bias, running_mean, running_var, eps)
    return _standardized_instances(b, x, weight, bias, eps)


def _batch_norm(
    b: Builder,
    node: fx.Node,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value:
    if not training:
        return _affine(b, x, weight, bias, running_mean, running_var, eps)
    spread, mean = variance(b, x, [0, *range(2, b.rank(x))], 0, True)
    plain = b.op("Div", b.op("Sub", x, mean), b.op("Sqrt", b.binary("Add", spread, eps)))
    return _scaled(b, plain, weight, bias)


def _affine(b: Builder, x: Value, weight: Value | None, bias: Value | None, mean: Value, variance: Value, eps: float) -> Value:
    """By running statistics. Ioffe and Szegedy 2015, algorithm 2; ONNX BatchNormalization."""
    channels, to = b.sizes(x)[1], b.dtype(x)
    scale = _ones(b, [channels], to) if weight is None else weight
    shift = _zeros(b, [channels], to) if bias is None else bias
    return b.op("BatchNormalization", x, scale, shift, mean, variance, epsilon=float(eps), sizes=b.sizes(x))


def _batch_norm_inference(
    b: Builder,
    node: fx.Node,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value,
    running_var: Value,
    momentum: float,
    eps: float,
) -> list[Value | None]:
    return [_affine(b, x, weight, bias, running_mean, running_var, eps), None, None]


def _native_layer_norm(
    b: Builder, node: fx.Node, x: Value, normalized_shape: list[Any], weight: Value | None, bias: Value | None, eps: float
) -> list[Value | None]:
    return [_layer_norm(b, node, x, normalized_shape, weight, bias, eps), None, None]


def _native_group_norm(
    b: Builder, node: fx.Node, x: Value, weight: Value | None, bias: Value | None, group: int, eps: float, **_: Any
) -> list[Value | None]:
    return [_group_norm(b, node, x, group, weight, bias, eps), None, None]


def _refuse_statistics(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    own = arguments.get("training", arguments.get("use_input_stats", False))
    missing = not own and arguments["running_mean"] is None
    return "running statistics are missing" if missing else refuse_integers(node, opset)


def _refuse_dynamic(node: fx.Node, opset: int) -> str | None:
    sizes = arguments_of(node)["normalized_shape"]
    return refuse_integers(node, opset) if all(isinstance(s, int) for s in sizes) else "a norm over a dynamic axis"


def _refuse_groups(node: fx.Node, opset: int) -> str | None:
    return refuse_integers(node, opset) if isinstance(fake(arguments_of(node)["x"]).shape[1], int) else "a dynamic number of channels"


HANDLERS: Handlers = {
    **handlers(_softmax("Softmax"), aten.softmax.int, aten._softmax.default),
    **handlers(_softmax("LogSoftmax"), aten.log_softmax.int, aten._log_softmax.default),
    **handlers(_layer_norm, aten.layer_norm.default, refuse=_refuse_dynamic),
    **handlers(_rms_norm, aten.rms_norm.default, refuse=_refuse_dynamic),
    **handlers(_group_norm, aten.group_norm.default, refuse=_refuse_groups),
    **handlers(_instance_norm, aten.instance_norm.default, refuse=_refuse_statistics),
    **handlers(_batch_norm, aten.batch_norm.default, refuse=_refuse_statistics),
    **handlers(_batch_norm_inference, aten._native_batch_norm_legit_no_training.default, refuse=at_any_opset(refuse_other_results)),
    **handlers(_native_layer_norm, aten.native_layer_norm.default, refuse=at_any_opset(refuse_other_results)),
    **handlers(_native_group_norm, aten.native_group_norm.default, refuse=at_any_opset(refuse_other_results)),
}
