"""Lowering: what the tables of handlers of the targets share: reading a call, and reasons to refuse one that no target lowers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import fx

from edgecc.errors import InternalError
from edgecc.ir.fake import size_expression
from edgecc.ir.ops import bound_arguments

Entry = TypeVar("Entry")
Table = dict[Callable[..., Any], Entry]

#: Functions of sizes that torch.export makes, by the names of their classes, and those that give no integers.
_INTEGER = frozenset(
    {"Add", "Mul", "Pow", "PowByNatural", "FloorDiv", "CleanDiv", "Mod", "PythonMod", "Max", "Min"}
    | {"CeilToInt", "FloorToInt", "TruncToInt"}
)
_FLOAT = frozenset({"FloatTrueDiv", "IntTrueDiv", "ToFloat", "OpaqueUnaryFn_sqrt", "FloatPow"})


def merge(families: Iterable[Table[Entry]]) -> Table[Entry]:
    """One table of several. Raises InternalError where an operator has two entries."""
    table: Table[Entry] = {}
    for family in families:
        twice = table.keys() & family.keys()
        if twice:
            raise InternalError(f"two handlers for {', '.join(sorted(map(str, twice)))}")
        table |= family
    return table


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by name, defaults filled in, the first operand as `x`."""
    bound = bound_arguments(node)
    return {{"self": "x", "input": "x"}.get(name, name): value for name, value in bound.items()}


def fake(value: Any) -> Any:
    """The fake value of a node; anything else as it is."""
    return value.meta["val"] if isinstance(value, fx.Node) else value


def flat(value: Any) -> list[Any]:
    """The values in a tuple or list of them, of any depth."""
    return list(itertools.chain.from_iterable(map(flat, value))) if isinstance(value, (tuple, list)) else [value]


def refuse_size(size: Any) -> str | None:
    """Why a size cannot be lowered, None where it can."""
    if isinstance(size, torch.SymBool):
        return "a condition on sizes that is not known when compiling"
    if not isinstance(size, (torch.SymInt, torch.SymFloat)):
        return None
    expression = size_expression(size)  # type: ignore[arg-type]
    for part in [] if isinstance(expression, (int, float)) else _parts(expression):
        if part.is_Symbol and part.name.startswith(("u", "zuf")):
            return "a size that depends on the data"
        if not (part.is_Symbol or part.is_number or type(part).__name__ in _INTEGER | _FLOAT):
            return f"the size {expression}, which uses {type(part).__name__}"
        if type(part).__name__ == "Pow" and not (part.args[1].is_Integer and int(part.args[1]) > 0):
            return f"the size {expression}, which uses a fractional power"
    return None


def _parts(expression: Any) -> Iterator[Any]:
    yield expression
    for argument in expression.args:
        yield from _parts(argument)


def refuse_attention(node: fx.Node) -> str | None:
    """Why a call of scaled_dot_product_attention cannot be lowered, None where it can."""
    arguments = arguments_of(node)
    query, key = fake(arguments["query"]), fake(arguments["key"])
    if arguments["dropout_p"]:
        return "attention with dropout"
    if not query.is_floating_point():
        return "attention of integers"
    if isinstance(query.shape[-1], torch.SymInt):
        return "attention with a dynamic size of the embedding"
    if arguments["enable_gqa"] and any(isinstance(t.shape[-3], torch.SymInt) for t in (query, key)):
        return "grouped-query attention with a dynamic number of heads"
    return None


def refuse_index_put(node: fx.Node) -> str | None:
    """Why a call of index_put cannot be lowered, None where it can."""
    arguments = arguments_of(node)
    indices = [fake(i) for i in arguments["indices"] if i is not None]
    masks = [i for i in indices if i.dtype in (torch.bool, torch.uint8)]
    if not indices:
        return "a write without an index"
    if not masks:
        axes = [d for d, i in enumerate(arguments["indices"]) if i is not None]
        return None if axes == list(range(axes[0], axes[0] + len(axes))) else "a write at indices of axes that are not neighbours"
    scalar = not len(fake(arguments["values"]).shape) and not arguments["accumulate"]
    if len(indices) > 1 or indices[0].dtype is not torch.bool or arguments["indices"][0] is None or not scalar:
        return "a write at a mask of anything but one number, whose size depends on the data"
    return None


def refuse_different_ranks(node: fx.Node) -> str | None:
    """Why a call of two operands that are not broadcast cannot be lowered, None where it can."""
    ranks = {len(fake(a).shape) for a in node.args[:2]}
    return None if len(ranks) == 1 else "operands of different rank"


def refuse_other_results(node: fx.Node) -> str | None:
    """Why a call of several results, of which only the first is lowered, cannot be: something reads another one."""
    others = [user.args[1] for user in node.users if len(user.args) > 1 and user.args[1] != 0]
    return f"result {others[0]} is read, only the first can be lowered" if others else None
