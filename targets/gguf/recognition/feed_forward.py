"""A feed-forward network: an activation between two layers, or one that gates a third."""

from __future__ import annotations

from typing import Any

from torch import fx

from edgecc.ir.ops import bound_arguments, operator_name
from edgecc.targets.gguf.recognition.description import FeedForward, Linear
from edgecc.targets.gguf.recognition.heads import selected
from edgecc.targets.gguf.recognition.parts import linear_at
from edgecc.targets.gguf.recognition.ports import ports, wire
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError, aten, strip

_ACTIVATIONS: dict[Any, str] = {
    aten.silu.default: "silu",
    aten.relu.default: "relu",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.hardswish.default: "hardswish",
    aten.relu6.default: "relu6",
}


def read_feed_forward(reader: Reader, down: Linear) -> FeedForward:
    """The network that ends in `down`. Raises UnrecognizedError for anything but an activation and a product with one."""
    inside = strip(down.source)
    if inside.target is aten.mul.Tensor and all(isinstance(a, fx.Node) and a in reader.live for a in inside.args):
        first, second = (strip(a) for a in inside.args)
        if first is second:
            raise UnrecognizedError(inside, "a squared activation")
        if activation_of(first) is None:
            first, second = second, first
        act = activation_of(first)
        if act is None:
            raise UnrecognizedError(inside, f"neither %{first.name} nor %{second.name} is an activation (silu, gelu, relu, ...)")
        gate, up = layer_of(reader, first.args[0]), layer_of(reader, second)
        if gate.source is not up.source:
            raise UnrecognizedError(inside, "what gates and what is gated read different values")
        if gate.shape[0] != up.shape[0]:
            raise UnrecognizedError(inside, f"{gate.shape[0]} numbers gate {up.shape[0]}")
        return FeedForward(first, act, gate, up, down)
    act = activation_of(inside)
    if act is None:
        spelled = reader.sources(inside, aten.softmax.int)
        if spelled:
            raise UnrecognizedError(spelled[-1], "an attention that is not scaled_dot_product_attention, nor spelled in a known way")
        raise UnrecognizedError(inside, f"{operator_name(inside.target)} before a layer, want an activation (silu, gelu, relu, ...)")
    return FeedForward(inside, act, None, layer_of(reader, inside.args[0]), down)


def activation_of(node: fx.Node) -> str | None:
    """`gelu` is that with erf, `gelu_tanh` its approximation by tanh."""
    if node.target is aten.gelu.default:
        return "gelu_tanh" if bound_arguments(node)["approximate"] == "tanh" else "gelu"
    return _ACTIVATIONS.get(node.target)


def layer_of(reader: Reader, value: Any) -> Linear:
    """The layer that makes a value, or the rows of it that the value is, each times a factor."""
    node = strip(value)
    if (found := linear_at(node)) is not None:
        return found
    sources = reader.sources(node, aten.linear.default)
    linear = linear_at(sources[0]) if len(sources) == 1 else None
    if linear is None:
        raise UnrecognizedError(node, "it is no layer of a stored weight, nor a slice of one")
    rows = wire(reader, sources[0], ports(reader, node))
    factors = rows.factors if bool((rows.factors != 1).any()) else None
    return selected(linear, rows.places, factors)
