"""Placement: which values of a program are quantized, for a target, and which calls read them so.

Two rules. A call that a target computes in integers and *closes* has integers on both sides: dq -> call -> [clamp] -> q. A call
that it *opens* only reads them, and gives floating point. What follows such calls (an addition, a pooling, a table of 256
entries, what only moves numbers) is computed in integers where integers come in and are wanted behind it; LayerNorm, softmax
and all else stay islands of floating point.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import fx

from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.quantization import operators as ops

aten = torch.ops.aten
_SOFTMAX = frozenset({aten.softmax.int, aten._softmax.default, aten.log_softmax.int})
_EMBEDDINGS = frozenset({aten.embedding.default})


@dataclass(frozen=True)
class Placement:
    """`closed`: contractions with quantized outputs. `opened`: those that give floating point. `followers`: other calls that
    may be computed in integers. `residuals`: whether the other operand of an addition to a convolution is quantized where
    additions are not among `followers`.
    """

    closed: frozenset[object]
    opened: frozenset[object]
    followers: frozenset[object]
    residuals: bool = False


_WEIGHTED = ops.CONVOLUTIONS | ops.TRANSPOSED | ops.LINEARS
PLACEMENTS = {
    "integer": Placement(ops.CONTRACTIONS, frozenset(), ops.FOLLOWERS),
    "clean": Placement(frozenset(), _WEIGHTED, frozenset(), residuals=True),
    "convolutions": Placement(
        ops.CONVOLUTIONS, ops.LINEARS | ops.TRANSPOSED, ops.CLAMPS | ops.MOVES | ops.POOLS | ops.CONCATENATIONS | ops.JOINS
    ),
}


def placement(name: str) -> Placement:
    """Raises UsageError for an unknown name."""
    if name not in PLACEMENTS:
        raise UsageError(f"unknown placement {name!r}", hint=f"one of {', '.join(PLACEMENTS)}")
    return PLACEMENTS[name]


@dataclass
class Points:
    """Values to quantize in graph order, each with the calls that read it quantized. `tied` maps a value to the one whose scale
    it has. `contractions` are those that become integer ones, `left` others with the reason.
    """

    readers: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)
    tied: dict[fx.Node, fx.Node] = field(default_factory=dict)
    contractions: list[fx.Node] = field(default_factory=list)
    left: dict[fx.Node, str] = field(default_factory=dict)


def points(program: Program, where: Placement, keep: Iterable[fx.Node] = (), *, attention: bool = False) -> Points:
    """Where activations are quantized. `keep`: contractions that stay in floating point. `attention`: whether products of two
    activations may read what a softmax gives.
    """
    kept = set(keep)
    found = Points()
    for node in program.calls(*ops.CONTRACTIONS):
        reason = "it is told to stay in floating point" if node in kept else _refusal(program, node, where, attention)
        if reason:
            found.left[node] = reason
        else:
            found.contractions.append(node)
    data = _carriers(program)
    integers = _integers(program, where, set(found.contractions), data)
    found.readers = _readers(program, where, integers, data)
    _tie(found, integers)
    return found


def _refusal(program: Program, node: fx.Node, where: Placement, attention: bool) -> str:
    if node.target not in where.closed | where.opened:
        return "the target multiplies activations in floating point" if node.target in ops.PRODUCTS else "the target has no integer form"
    x, weight = ops.operands(node)
    if node.target in ops.PRODUCTS and not program.is_weight(weight):
        if not (ops.is_signal(x) and ops.is_signal(weight)):
            return "it multiplies a constant"
        if not attention and any(map(_is_softmax, (x, weight))):
            return "it multiplies what a softmax gives, which 8 bits hold badly"
        return ""
    if not ops.is_signal(x):
        return "its input is no floating-point activation"
    return "" if ops.has_weight(program, node) else "its weight is computed when the model runs"


def _is_softmax(value: object) -> bool:
    while isinstance(value, fx.Node) and value.target in ops.MOVES:
        value = value.args[0]
    return isinstance(value, fx.Node) and value.target in _SOFTMAX


def _integers(program: Program, where: Placement, contractions: set[fx.Node], data: set[fx.Node]) -> set[fx.Node]:
    """Calls that read and give integers, or only read them: the contractions, and followers between them.

    The largest set in which a follower has all signals from what gives integers, and some reader that wants them: an integer
    call, or the end of the program.
    """
    found = contractions | {n for n in program.calls() if n.target in where.followers and _may_follow(n, data)}
    while True:
        lost = {n for n in found - contractions if not (_is_fed(n, where, found) and _is_wanted(n, found))}
        if not lost:
            return _joined(contractions, found)
        found -= lost


def _joined(contractions: set[fx.Node], found: set[fx.Node]) -> set[fx.Node]:
    """Those of `found` that hang together with a contraction."""
    pending, seen = list(contractions), set(contractions)
    while pending:
        node = pending.pop()
        fresh = [n for n in (*node.users, *node.all_input_nodes) if n in found and n not in seen]
        seen.update(fresh)
        pending += fresh
    return seen


def _may_follow(node: fx.Node, data: set[fx.Node]) -> bool:
    tensors = [a for a in node.all_input_nodes if isinstance(a.meta.get("val"), torch.Tensor)]
    if not ops.is_signal(node) or not tensors or not all(map(ops.is_signal, tensors)):
        return False
    if node.target in ops.JOINS:
        return len(node.args) == 2 and not node.kwargs and set(node.args) == set(tensors) <= data
    if node.target in ops.CLAMPS:
        return not any(isinstance(a, fx.Node) for a in (*node.args[1:], *node.kwargs.values()))
    if node.target is aten.pad.default:
        return ops.is_zero_pad(node)
    return node.target is not aten.mean.dim or _is_spatial(node)


def _is_spatial(node: fx.Node) -> bool:
    axes = node.args[1] if len(node.args) > 1 else None
    rank = node.meta["val"].dim() + (0 if len(node.args) > 2 and node.args[2] else len(axes) if isinstance(axes, (list, tuple)) else 0)
    return isinstance(axes, (list, tuple)) and all(isinstance(a, int) and a % rank >= 2 for a in axes)


def _carriers(program: Program) -> set[fx.Node]:
    """Values that depend on a floating-point input or an embedding: masks are made from integers and truth values."""
    found: set[fx.Node] = set()
    for node in program.graph.nodes:
        source = node.target in _EMBEDDINGS or (node.op == "placeholder" and ops.is_signal(node))
        if source or any(a in found for a in node.all_input_nodes):
            found.add(node)
    return found


def _is_fed(node: fx.Node, where: Placement, found: set[fx.Node]) -> bool:
    """Whether integers come in: from integer calls, or from an input that is quantized for such a call anyway."""
    return all(
        (a in found and a.target not in where.opened) or (a.op == "placeholder" and _is_quantized_input(a, node, found))
        for a in node.all_input_nodes
        if ops.is_signal(a)
    )


def _is_quantized_input(value: fx.Node, reader: fx.Node, found: set[fx.Node]) -> bool:
    return reader.target in ops.MOVES or any(u in found and u.target in ops.CONTRACTIONS for u in value.users)


def _is_wanted(node: fx.Node, found: set[fx.Node]) -> bool:
    return any(user in found or user.op == "output" for user in node.users)


def _readers(program: Program, where: Placement, integers: set[fx.Node], data: set[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Each value to quantize, with who reads it quantized.

    What an integer call gives is read so by everyone, what floating point gives only by integer calls. A value that only a
    clamp reads is quantized after the clamp.
    """
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if not ops.is_signal(node):
            continue
        closes = node in integers and node.target not in where.opened
        users = [u for u in node.users if u in integers and _reads_signal(u, node)]
        if closes and (users or _is_output(node)):
            if not _folds(node, integers):
                found[node] = list(node.users)
        elif not closes and users and node in data:
            found[node] = users
    if where.residuals:
        _add_residuals(program, found, integers, data)
    return {n: found[n] for n in program.graph.nodes if n in found}


def _reads_signal(user: fx.Node, node: fx.Node) -> bool:
    """Whether the call multiplies, adds or moves the value: not where it is a bias."""
    if user.target in ops.CONTRACTIONS:
        return node in ops.operands(user)
    return True


def _is_output(node: fx.Node) -> bool:
    return any(user.op == "output" for user in node.users)


def _folds(node: fx.Node, integers: set[fx.Node]) -> bool:
    """Whether the one reader of a value is a clamp that the call before it takes in."""
    if len(node.users) != 1 or node.target not in ops.CONTRACTIONS | ops.JOINS | ops.POOLS:
        return False
    (user,) = node.users
    return user.target in ops.CLAMPS and user in integers


def _add_residuals(program: Program, found: dict[fx.Node, list[fx.Node]], integers: set[fx.Node], data: set[fx.Node]) -> None:
    """What is added to the output of a convolution is read quantized, where it is no such output itself."""
    for node in program.calls(aten.add.Tensor):
        products = [a for a in node.all_input_nodes if a in integers and a.target in ops.CONVOLUTIONS]
        others = [a for a in node.all_input_nodes if a not in products and ops.is_signal(a) and a in data]
        if products and others:
            found.setdefault(others[0], []).append(node)


def _tie(found: Points, integers: set[fx.Node]) -> None:
    """What only moves numbers, or clamps them by itself, keeps the scale of what it reads."""
    for node in found.readers:
        if node in integers and node.target in ops.MOVES | ops.CLAMPS:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            if source in found.readers:
                found.tied[node] = found.tied.get(source, source)
