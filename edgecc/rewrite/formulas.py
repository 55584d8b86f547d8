"""Formulas: operators as expressions, so that `var`, `relu6`, `masked_fill`, `einsum`, ... match what they compute."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.rewrite.activations import ACTIVATIONS
from edgecc.rewrite.arithmetic import ARITHMETIC
from edgecc.rewrite.expression import Literal, Term, shape_of
from edgecc.rewrite.matrices import MATRICES
from edgecc.rewrite.reading import Arguments, Read, Reader
from edgecc.rewrite.reductions import REDUCTIONS, item_of_var_mean
from edgecc.rewrite.shapes import SHAPES
from edgecc.rewrite.transparent import resolved

aten = torch.ops.aten


def item_of_tuple(reader: Reader) -> Term | None:
    """`var_mean(x)[0]` and `[1]`, and what `broadcast_tensors` leaves as it was."""
    node = reader.node
    source = node.args[0]
    if node.target is not operator.getitem or not isinstance(source, fx.Node):
        return None
    index: Any = node.args[1]
    if source.target is not aten.broadcast_tensors.default:
        return item_of_var_mean(reader, source, index)
    original = bound_arguments(source)["tensors"][index]
    return reader.operand(original) if shape_of(original) == reader.shape else None


def _layer_norm(reader: Reader, a: Arguments) -> Term:
    return _normalized(reader, "layer_norm", a, ("weight", "bias"))


def _rms_norm(reader: Reader, a: Arguments) -> Term | None:
    return None if a["eps"] is None else _normalized(reader, "rms_norm", a, ("weight",))


def _normalized(reader: Reader, kind: str, a: Arguments, affine: tuple[str, ...]) -> Term:
    given = [name for name in affine if a[name] is not None]
    tensors = [resolved(a[name]) for name in given]
    reader.seen.update(tensors)
    return reader.call(kind, reader.operand(a["input"]), *tensors, Literal(a["eps"]), axes=len(a["normalized_shape"]), affine=tuple(given))


_NORMALIZATIONS: dict[Any, Read] = {aten.layer_norm: _layer_norm, aten.rms_norm: _rms_norm}

FORMULAS = {**ARITHMETIC, **REDUCTIONS, **ACTIVATIONS, **SHAPES, **MATRICES, **_NORMALIZATIONS}
