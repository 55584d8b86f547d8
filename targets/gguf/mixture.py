"""Which block format each tensor of a GGUF file gets, as llama.cpp's quantizer (`llama_model_quantize`) gives them.

The mixture's rules say what a matrix should have (rules.py), the user may say otherwise by name, and where the columns are no
multiple of the format's block, a format of smaller blocks takes its place, with the reason.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError
from edgecc.targets.gguf import rules
from edgecc.targets.gguf.blocks import FORMATS
from edgecc.targets.gguf.rules import DOWN, KEY, MERGE, OUTPUT, VALUE, Place

QUANTIZATION_VERSION = 2  # general.quantization_version: of the block formats
MIXTURES: tuple[str, ...] = tuple(rules.MIXTURES)
_ROLES = {"attn_qkv.weight": VALUE, "attn_v.weight": VALUE, "attn_k.weight": KEY, "attn_output.weight": MERGE, "ffn_down": DOWN}
_KEPT = ("position_embd.weight", "token_types.weight")  # and norms, routers and whatever has one dimension
_SMALLER = {"iq4_xs": "iq4_nl", "q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}


@dataclass(frozen=True)
class Model:
    """What the rules ask of a model. `experts`: of each mixture-of-experts layer, 0 without."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    experts: int = 0


@dataclass(frozen=True)
class Choice:
    """The format of a tensor, and the one the mixture or the user wanted, which differs where the shape forbids it.

    `reason`: a short phrase for the user, empty where the mixture alone decided.
    """

    format: str
    wanted: str
    reason: str = ""


def file_type(mixture: str) -> int:
    """The number of a mixture in `general.file_type`. Raises UsageError for an unknown one."""
    return rules.find(mixture).code


def assign(
    tensors: Mapping[str, tuple[int, ...]],
    model: Model,
    mixture: str,
    overrides: Sequence[tuple[str, str]] = (),
    *,
    importance: bool = False,
) -> dict[str, Choice]:
    """The format of each tensor, by its GGUF name.

    `tensors`: shapes in torch order, columns last. `overrides`: (regular expression, format), searched in names, the first that
    is found wins; they do not touch what is never quantized. `importance`: an importance matrix will weigh the rounding, which
    changes a few choices. Columns that no block divides become f16, where llama.cpp refuses some of them.
    Raises UsageError for an unknown mixture or format, a bad expression, or one that finds no quantized tensor.
    """
    found = rules.find(mixture)
    quantized = sorted((name for name in tensors if _quantized(name, tensors[name])), key=_layer)
    manual = _manual(quantized, overrides)
    roles = {name: _role(name, tensors) for name in quantized}
    counts, seen = Counter(roles.values()), Counter[str]()
    choices = {name: Choice("f32", "f32") for name in tensors}
    for name in quantized:
        role = roles[name]
        if name in manual:  # and it does not count as seen
            pattern, format_ = manual[name]
            choices[name] = _fitting(format_, tensors[name][-1], f"--tensor-type {pattern}={format_}")
            continue
        index = _layer(name) if role == DOWN and model.experts > 1 else seen[role]
        place = _place(index, model.layers if role == DOWN else counts[role], model, importance)
        choices[name] = _fitting(found.wanted(role, place), tensors[name][-1], "")
        seen[role] += 1
    return choices


def check_overrides(overrides: Sequence[tuple[str, str]]) -> None:
    """Raises UsageError for an unknown format and a bad regular expression."""
    for pattern, format_ in overrides:
        given = f"--tensor-type {pattern}={format_}"
        if format_.lower() not in FORMATS:
            raise UsageError(f"{given}: unknown format {format_!r}", hint=nearest(format_.lower(), FORMATS))
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(f"{given}: no regular expression: {error}", hint="a part of a name, such as attn_v=q8_0") from error


def _manual(names: Sequence[str], overrides: Sequence[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The override of each name that has one."""
    check_overrides(overrides)
    made: dict[str, tuple[str, str]] = {}
    for pattern, format_ in overrides:
        fitting = [name for name in names if re.search(pattern, name)]
        if not fitting:
            raise UsageError(
                f"--tensor-type {pattern}={format_}: no quantized tensor has such a name", hint=f"names are like {', '.join(names[-3:])}"
            )
        for name in fitting:
            made.setdefault(name, (pattern, format_.lower()))
    return made


def _place(index: int, count: int, model: Model, importance: bool) -> Place:
    shared = model.kv_heads > 0 and model.heads // model.kv_heads >= 4
    grouped = model.architecture == "qwen2" or (model.architecture == "llama" and model.heads != model.kv_heads)
    return Place(index, count, shared, model.experts == 8, model.layers == 80 and grouped, importance)


def _fitting(wanted: str, cols: int, reason: str) -> Choice:
    format_, refused = wanted, 0
    while cols % FORMATS[format_].block:
        format_, refused = _SMALLER.get(format_, "f16"), FORMATS[format_].block
    return Choice(format_, wanted, f"{cols} columns are no multiple of {refused}" if refused else reason)


def _quantized(name: str, shape: tuple[int, ...]) -> bool:
    kept = "_norm.weight" in name or "ffn_gate_inp.weight" in name or name in _KEPT
    return math.prod(shape[:-1]) > 1 and name.endswith("weight") and not kept


def _role(name: str, tensors: Mapping[str, tuple[int, ...]]) -> str:
    if name == "output.weight" or (name == "token_embd.weight" and "output.weight" not in tensors):
        return OUTPUT
    return next((role for part, role in _ROLES.items() if part in name), "")


def _layer(name: str) -> int:
    """Of `blk.7.attn_v.weight`: 7; -1 outside the layers."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1
