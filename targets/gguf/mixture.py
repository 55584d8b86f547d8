"""Which block format each tensor of a GGUF file gets: llama.cpp's mixtures, as its quantizer (`llama_model_quantize`) gives them.

A mixture has a base format and rules. The first rule whose role and place fit a tensor gives its format, the base where none does;
the output matrix is finer. Where the columns are no multiple of the format's block, a format of smaller blocks takes its place.
The rule is llama.cpp's (`src/llama-quant.cpp`, facts only); the tests compare with its quantizer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError
from edgecc.targets.gguf.blocks import FORMATS

QUANTIZATION_VERSION = 2  # general.quantization_version: of the block formats
VALUE, KEY, MERGE, DOWN, OUTPUT = "value", "key", "merge", "down", "output"
_NAMES = {"attn_qkv.weight": VALUE, "attn_v.weight": VALUE, "attn_k.weight": KEY, "attn_output.weight": MERGE, "ffn_down": DOWN}
_KEPT = ("position_embd.weight", "token_types.weight")  # and norms, routers and whatever has one dimension
_COARSER = {"iq4_xs": "iq4_nl", "q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
_WHOLE = ("f32", "f16", "bf16")


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


@dataclass(frozen=True)
class _Place:
    """Of a tensor among those of its role: the `index`-th of `count`, in a model."""

    index: int
    count: int
    model: Model
    importance: bool

    @property
    def eight_experts(self) -> bool:
        return self.model.experts == 8

    @property
    def shared(self) -> bool:
        """Four or more query heads read each value head."""
        return self.model.kv_heads > 0 and self.model.heads // self.model.kv_heads >= 4


@dataclass(frozen=True)
class _Rule:
    role: str
    format: str
    where: Callable[[_Place], bool] = lambda place: True


@dataclass(frozen=True)
class _Mixture:
    code: int  # general.file_type
    base: str
    rules: tuple[_Rule, ...] = ()


def _first(count: int) -> Callable[[_Place], bool]:
    return lambda place: place.index < count


def _early(part: int) -> Callable[[_Place], bool]:
    """The first 1/part of the layers."""
    return lambda place: place.index < place.count // part


def _spread(place: _Place) -> bool:
    """The first and the last eighth, and every third between them."""
    eighth = place.count // 8
    return place.index < eighth or place.index >= 7 * place.count // 8 or (place.index - eighth) % 3 == 2


_EIGHT = _Rule(MERGE, "q5_k", lambda place: place.eight_experts)
_FOUR_BIT = (
    _Rule(VALUE, "q5_k", lambda place: place.shared),
    _Rule(DOWN, "q5_k", lambda place: not place.importance and _early(8)(place)),
    _EIGHT,
)
_MIXTURES: Mapping[str, _Mixture] = {
    "f32": _Mixture(0, "f32"),
    "f16": _Mixture(1, "f16"),
    "bf16": _Mixture(32, "bf16"),
    "q4_0": _Mixture(2, "q4_0", (_Rule(DOWN, "q4_1", lambda place: place.importance and _early(8)(place)),)),
    "q4_1": _Mixture(3, "q4_1"),
    "q5_0": _Mixture(8, "q5_0", (_Rule(DOWN, "q5_1", lambda place: place.importance and _early(8)(place)),)),
    "q5_1": _Mixture(9, "q5_1"),
    "q8_0": _Mixture(7, "q8_0"),
    "q2_k": _Mixture(
        10,
        "q2_k",
        (_Rule(VALUE, "q4_k", lambda p: p.shared), _Rule(VALUE, "q3_k"), _Rule(DOWN, "q3_k"), _EIGHT, _Rule(MERGE, "q3_k")),
    ),
    "q3_k_s": _Mixture(11, "q3_k", (_EIGHT,)),
    "q3_k_m": _Mixture(
        12,
        "q3_k",
        (
            _Rule(VALUE, "q5_k", _first(2)),
            _Rule(VALUE, "q4_k"),
            _Rule(DOWN, "q5_k", _early(16)),
            _Rule(DOWN, "q4_k"),
            _EIGHT,
            _Rule(MERGE, "q4_k"),
        ),
    ),
    "q3_k_l": _Mixture(
        13, "q3_k", (_Rule(VALUE, "q5_k"), _Rule(DOWN, "q5_k"), _Rule(MERGE, "q5_k", lambda place: not place.eight_experts))
    ),
    "q4_k_s": _Mixture(14, "q4_k", (_Rule(VALUE, "q5_k", _first(4)), _Rule(DOWN, "q5_k", _early(8)), _EIGHT)),
    "q4_k_m": _Mixture(15, "q4_k", (_Rule(VALUE, "q6_k", _spread), _Rule(DOWN, "q6_k", _spread), _EIGHT)),
    "q5_k_s": _Mixture(16, "q5_k"),
    "q5_k_m": _Mixture(17, "q5_k", (_Rule(VALUE, "q6_k", _spread), _Rule(DOWN, "q6_k", _spread))),
    "q6_k": _Mixture(18, "q6_k"),
    "iq4_nl": _Mixture(25, "iq4_nl", _FOUR_BIT),
    "iq4_xs": _Mixture(30, "iq4_xs", _FOUR_BIT),
}
MIXTURES: tuple[str, ...] = tuple(_MIXTURES)


def file_type(mixture: str) -> int:
    """The number of a mixture in `general.file_type`. Raises UsageError for an unknown one."""
    return _find(mixture).code


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
    changes a few choices. A width that no block divides becomes f16, where llama.cpp refuses some of these.
    Raises UsageError for an unknown mixture or format, a bad expression, or one that finds no quantized tensor.
    """
    found = _find(mixture)
    patterns = [(_compile(text), text, _format(text, format_)) for text, format_ in overrides]
    free = [name for name in sorted(tensors, key=_layer) if _quantized(name, tensors[name])]
    for pattern, text, format_ in patterns:
        if not any(pattern.search(name) for name in free):
            raise UsageError(f"--tensor-type {text}={format_}: no quantized tensor has such a name", hint=f"names are like {_like(free)}")
    choices = {name: Choice("f32", "f32") for name in tensors}
    counts, seen = Counter(_role(name, tensors) for name in free), Counter[str]()
    for name in free:
        role, cols = _role(name, tensors), tensors[name][-1]
        manual = next(((text, format_) for pattern, text, format_ in patterns if pattern.search(name)), None)
        if manual:
            choices[name] = _fitting(manual[1], cols, f"--tensor-type {manual[0]}={manual[1]}")
            continue
        by_name = role == DOWN and model.experts > 1
        count = model.layers if role == DOWN else counts[role]
        place = _Place(_layer(name) if by_name else seen[role], count, model, importance)
        choices[name] = _fitting(_wanted(found, role, place), cols, "")
        seen[role] += 1
    return choices


def _wanted(mixture: _Mixture, role: str, place: _Place) -> str:
    if mixture.base in _WHOLE:
        return mixture.base
    if role == OUTPUT:
        return "q8_0" if mixture.base == "q8_0" else "q6_k"
    if role in (VALUE, KEY) and place.eight_experts:
        return "q8_0"
    format_ = next((rule.format for rule in mixture.rules if rule.role == role and rule.where(place)), mixture.base)
    if role == VALUE and format_ in ("q3_k", "q4_k") and _is_70b(place.model):
        return "q5_k"
    return format_


def _is_70b(model: Model) -> bool:
    """80 layers whose value heads are shared, or any Qwen2 of 80: their value matrices are small, and worth a bit more."""
    return model.layers == 80 and (model.architecture == "qwen2" or (model.architecture == "llama" and model.heads != model.kv_heads))


def _fitting(wanted: str, cols: int, reason: str) -> Choice:
    if cols % FORMATS[wanted].block == 0:
        return Choice(wanted, wanted, reason)
    format_ = _COARSER.get(wanted, "f16")
    refused = FORMATS[wanted].block
    if cols % FORMATS[format_].block:
        refused, format_ = FORMATS[format_].block, "f16"
    return Choice(format_, wanted, f"{cols} columns are no multiple of {refused}")


def _quantized(name: str, shape: tuple[int, ...]) -> bool:
    kept = "_norm.weight" in name or "ffn_gate_inp.weight" in name or name in _KEPT
    return math.prod(shape[:-1]) > 1 and name.endswith("weight") and not kept


def _role(name: str, tensors: Mapping[str, tuple[int, ...]]) -> str:
    if name == "output.weight" or (name == "token_embd.weight" and "output.weight" not in tensors):
        return OUTPUT
    return next((role for part, role in _NAMES.items() if part in name), "")


def _layer(name: str) -> int:
    """Of `blk.7.attn_v.weight`: 7; -1 outside the layers."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _find(mixture: str) -> _Mixture:
    try:
        return _MIXTURES[mixture.lower()]
    except KeyError:
        raise UsageError(f"unknown mixture {mixture!r}", hint=nearest(mixture.lower(), _MIXTURES)) from None


def _format(pattern: str, name: str) -> str:
    if name.lower() not in FORMATS:
        raise UsageError(f"--tensor-type {pattern}={name}: unknown format {name!r}", hint=nearest(name.lower(), FORMATS))
    return name.lower()


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--tensor-type {pattern!r} is no regular expression: {error}", hint="a part of a name, such as attn_v=q8_0"
        ) from error


def _like(names: Sequence[str]) -> str:
    return ", ".join(names[-3:])
