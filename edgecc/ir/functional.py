"""Functionalize: in-place operators become pure ones, so that every pass may move and merge nodes freely."""

from __future__ import annotations

import warnings

import torch
from torch import fx

_NO_EFFECT = (torch.ops.aten.detach_.default,)


def functionalize(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return an ExportedProgram without mutations.

    A write to a value that nobody else reads is renamed (`relu_` to `relu`), which keeps the graph as it was
    written. Where views alias, torch functionalizes the whole graph (`run_decompositions({})`).
    """
    graph = exported.graph
    writes = [n for n in graph.nodes if n.op == "call_function" and _mutates(n)]
    if not writes:
        return exported
    if all(_is_private(n) for n in writes) and all(_pure(n) is not None for n in writes):
        for node in writes:
            node.target = _pure(node)
        graph.lint()
        return exported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functional: torch.export.ExportedProgram = exported.run_decompositions({})
        return functional


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable and node.target not in _NO_EFFECT


def _is_private(node: fx.Node) -> bool:
    """Whether the written value is a fresh result that only this node reads, and not a view of anything."""
    written = node.args[0]
    return isinstance(written, fx.Node) and written.op == "call_function" and len(written.users) == 1 and not _aliases(written)


def _aliases(node: fx.Node) -> bool:
    """Whether the value may share memory with an argument (a view, or `reshape` and its like)."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    if _mutates(node):
        return not _is_private(node)
    schema = node.target._schema
    composite = node.target._can_decompose()
    may_view = any(r.alias_info is not None for r in schema.returns) or (composite and any(w in schema.name for w in _MAY_VIEW))
    return may_view


_MAY_VIEW = (
    "reshape",
    "flatten",
    "contiguous",
    "::to",
    "dropout",
    "expand_as",
    "view",
    "chunk",
    "split",
    "unbind",
    "ravel",
    "_to",
    "narrow",
    "movedim",
    "swap",
    "tensor_split",
    "squeeze",
    "float",
    "type_as",
)


def _pure(node: fx.Node) -> torch._ops.OpOverload | None:
    """The overload without the trailing underscore and with the same arguments, if there is one."""
    assert isinstance(node.target, torch._ops.OpOverload)
    namespace, _, name = node.target._schema.name.partition("::")
    if not name.endswith("_") or node.target._schema.arguments[0].alias_info is None:
        return None
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    overload = getattr(packet, node.target._overloadname, None) if packet is not None else None
    return overload if isinstance(overload, torch._ops.OpOverload) else None
