"""The mixtures of llama.cpp as tables: a base format, and rules for the matrices that matter more.

The first rule whose role and place fit a tensor gives its format, the base where none does; the output matrix is finer.
Facts of llama.cpp's `src/llama-quant.cpp`; the tests compare with its quantizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError

VALUE, KEY, MERGE, DOWN, OUTPUT = "value", "key", "merge", "down", "output"
WHOLE = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Place:
    """Of a tensor: it is the `index`-th of `count` of its role, in such a model.

    `shared`: four or more query heads read each value head. `eight_experts`: of a mixture of eight experts. `seventy_billion`: 80 layers
    whose value matrices are small, and worth a bit more. `importance`: an importance matrix will weigh the rounding.
    """

    index: int
    count: int
    shared: bool = False
    eight_experts: bool = False
    seventy_billion: bool = False
    importance: bool = False


Where = Callable[[Place], bool]


@dataclass(frozen=True)
class Rule:
    role: str
    format: str
    where: Where = lambda place: True


@dataclass(frozen=True)
class Mixture:
    """`code`: its number in `general.file_type`."""

    code: int
    base: str
    rules: tuple[Rule, ...] = ()

    def wanted(self, role: str, place: Place) -> str:
        """The format of a matrix, whatever its shape."""
        if self.base in WHOLE:
            return self.base
        if role == OUTPUT:
            return "q8_0" if self.base == "q8_0" else "q6_k"
        if role in (VALUE, KEY) and place.eight_experts:
            return "q8_0"
        found = next((rule.format for rule in self.rules if rule.role == role and rule.where(place)), self.base)
        small = role == VALUE and place.seventy_billion and found in ("q3_k", "q4_k")
        return "q5_k" if small else found


def find(mixture: str) -> Mixture:
    """A mixture by its name in any case. Raises UsageError for an unknown one."""
    try:
        return MIXTURES[mixture.lower()]
    except KeyError:
        raise UsageError(f"unknown mixture {mixture!r}", hint=nearest(mixture.lower(), MIXTURES)) from None


def _first(count: int) -> Where:
    return lambda place: place.index < count


def _early(part: int) -> Where:
    """The first 1/part of the layers."""
    return lambda place: place.index < place.count // part


def _spread(place: Place) -> bool:
    """The first and the last eighth, and every third between them."""
    eighth = place.count // 8
    return place.index < eighth or place.index >= 7 * place.count // 8 or (place.index - eighth) % 3 == 2


def _shared(place: Place) -> bool:
    return place.shared


def _weighed(place: Place) -> bool:
    return place.importance and _early(8)(place)


def _plain(place: Place) -> bool:
    return not place.importance and _early(8)(place)


_EIGHT = Rule(MERGE, "q5_k", lambda place: place.eight_experts)
_OTHERS = Rule(MERGE, "q5_k", lambda place: not place.eight_experts)
_BY_CODEBOOK = (Rule(VALUE, "q5_k", _shared), Rule(DOWN, "q5_k", _plain), _EIGHT)
_TWO_BITS = (Rule(VALUE, "q4_k", _shared), Rule(VALUE, "q3_k"), Rule(DOWN, "q3_k"), _EIGHT, Rule(MERGE, "q3_k"))
_THREE_BITS = (Rule(VALUE, "q5_k", _first(2)), Rule(VALUE, "q4_k"), Rule(DOWN, "q5_k", _early(16)), Rule(DOWN, "q4_k"))

MIXTURES: Mapping[str, Mixture] = {
    "f32": Mixture(0, "f32"),
    "f16": Mixture(1, "f16"),
    "bf16": Mixture(32, "bf16"),
    "q8_0": Mixture(7, "q8_0"),
    "q4_0": Mixture(2, "q4_0", (Rule(DOWN, "q4_1", _weighed),)),
    "q4_1": Mixture(3, "q4_1"),
    "q5_0": Mixture(8, "q5_0", (Rule(DOWN, "q5_1", _weighed),)),
    "q5_1": Mixture(9, "q5_1"),
    "q2_k": Mixture(10, "q2_k", _TWO_BITS),
    "q3_k_s": Mixture(11, "q3_k", (_EIGHT,)),
    "q3_k_m": Mixture(12, "q3_k", (*_THREE_BITS, _EIGHT, Rule(MERGE, "q4_k"))),
    "q3_k_l": Mixture(13, "q3_k", (Rule(VALUE, "q5_k"), Rule(DOWN, "q5_k"), _OTHERS)),
    "q4_k_s": Mixture(14, "q4_k", (Rule(VALUE, "q5_k", _first(4)), Rule(DOWN, "q5_k", _early(8)), _EIGHT)),
    "q4_k_m": Mixture(15, "q4_k", (Rule(VALUE, "q6_k", _spread), Rule(DOWN, "q6_k", _spread), _EIGHT)),
    "q5_k_s": Mixture(16, "q5_k"),
    "q5_k_m": Mixture(17, "q5_k", (Rule(VALUE, "q6_k", _spread), Rule(DOWN, "q6_k", _spread))),
    "q6_k": Mixture(18, "q6_k"),
    "iq4_nl": Mixture(25, "iq4_nl", _BY_CODEBOOK),
    "iq4_xs": Mixture(30, "iq4_xs", _BY_CODEBOOK),
}
