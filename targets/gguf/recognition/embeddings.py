"""The rows of the tokens, and what else a model adds to them before the first layer."""

from __future__ import annotations

import torch
from torch import fx

from edgecc.ir.ops import operator_name
from edgecc.targets.gguf.recognition.description import Embeddings
from edgecc.targets.gguf.recognition.parts import norm_at
from edgecc.targets.gguf.recognition.ports import plain
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError, aten
from edgecc.targets.gguf.recognition.roles import input_of
from edgecc.targets.gguf.recognition.side_tables import side_table
from edgecc.targets.gguf.recognition.straight import is_linear


def read_embeddings(reader: Reader, node: fx.Node, call: fx.Node) -> Embeddings:
    """What makes the input of the first layer at `node`, from the tokens looked up by `call`.

    Raises UnrecognizedError for anything but a sum with learned positions and with one row of token types, a factor, and a norm.
    """
    at = plain(reader, node)
    norm = norm_at(at, reader)
    pending = [at if norm is None else plain(reader, norm.source)]
    scales: list[float] = []
    tables: dict[str, fx.Node] = {}
    while pending:
        term = plain(reader, pending.pop())
        if term in reader.live and term.target is aten.add.Tensor and not term.kwargs:
            pending += [a for a in term.args if isinstance(a, fx.Node)]
            if len(term.all_input_nodes) != 2:
                raise UnrecognizedError(term, "it adds a number to the rows of the tokens, or adds them to themselves")
        elif (scale := _scale(reader, term, call)) is not None:
            scales.append(scale)
        elif term not in reader.live:
            which, table = side_table(reader, term)
            if which in tables:
                raise UnrecognizedError(term, f"a second table of {which}")
            tables[which] = table
        else:
            raise UnrecognizedError(
                term,
                f"{operator_name(term.target)} stands between the rows of the tokens and the first layer, want sums with stored tables",
            )
    if len(scales) != 1:
        raise UnrecognizedError(at, f"the rows of the tokens are added {len(scales)} times")
    tokens, ids = call.args[0], input_of(call.args[1])
    assert isinstance(tokens, fx.Node) and isinstance(ids, fx.Node)
    return Embeddings(call, ids, tokens, tables.get("positions"), tables.get("types"), norm, scales[0])


def _scale(reader: Reader, term: fx.Node, call: fx.Node) -> float | None:
    """The constant that multiplies the tokens' rows, None where it is something else than these."""
    if term is call:
        return 1.0
    if term.target not in (aten.mul.Tensor, aten.div.Tensor) or not is_linear(term, reader.live):
        return None
    first, second = term.args
    if second in reader.live and term.target is aten.mul.Tensor:
        first, second = second, first
    if not isinstance(first, fx.Node) or plain(reader, first) is not call:
        return None
    factor = torch.as_tensor(reader.value(second))
    if factor.numel() != 1 or not float(factor):
        return None
    return float(factor) if term.target is aten.mul.Tensor else 1 / float(factor)
