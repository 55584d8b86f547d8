"""Inline the regions that torch.export wraps in higher-order operators (`no_grad`, `autocast(enabled=False)`)."""

from __future__ import annotations

import torch
from torch import fx

from edgecc.errors import CaptureError
from edgecc.ir.provenance import describe

_REGIONS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


def inline_regions(module: fx.GraphModule) -> None:
    """Replace each call of a wrapped region by the nodes of its body.

    Raises CaptureError for an autocast region that is enabled: its casts are not in the graph.
    """
    for node in list(module.graph.nodes):
        name = getattr(node.target, "__name__", str(node.target)) if node.op == "call_function" else ""
        if name not in _REGIONS:
            continue
        position = next(
            i
            for i, a in enumerate(node.args)
            if isinstance(a, fx.Node) and a.op == "get_attr" and isinstance(getattr(module, str(a.target), None), fx.GraphModule)
        )
        if name == "wrap_with_autocast" and node.args[2] is not False:
            raise CaptureError(
                f"an enabled autocast region cannot be captured ({describe(node)})",
                hint="cast the inputs instead, or leave autocast outside of the model",
            )
        body_node = node.args[position]
        assert isinstance(body_node, fx.Node)
        body = getattr(module, str(body_node.target))
        inline_regions(body)
        _splice(module.graph, node, body, node.args[position + 1 :])
        if not body_node.users:
            module.graph.erase_node(body_node)
    module.delete_all_unused_submodules()


def _splice(graph: fx.Graph, call: fx.Node, body: fx.GraphModule, operands: tuple[object, ...]) -> None:
    values: dict[fx.Node, object] = dict(zip((n for n in body.graph.nodes if n.op == "placeholder"), operands, strict=True))
    with graph.inserting_before(call):
        for inner in body.graph.nodes:
            if inner.op == "call_function":
                values[inner] = graph.node_copy(inner, lambda n: values[n])  # type: ignore[arg-type, return-value]
            elif inner.op == "output":
                results = fx.node.map_arg(inner.args[0], lambda n: values[n])  # type: ignore[arg-type, return-value]
            elif inner.op != "placeholder":
                raise CaptureError(f"a wrapped region holds a {inner.op} node, which cannot be inlined ({describe(call)})")
    for user in list(call.users):
        assert isinstance(results, (tuple, list))
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        graph.erase_node(user)
    graph.erase_node(call)


def has_regions(graph: fx.Graph) -> bool:
    """Whether the graph holds a wrapped region."""
    return any(isinstance(n.target, torch._ops.HigherOrderOperator) for n in graph.nodes)
