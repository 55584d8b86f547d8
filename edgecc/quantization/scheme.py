"""Scheme: in which numbers the weights and the activations of a layer are kept, by name.

    int8              weights of 8 bits for each output channel, activations of 8 bits with calibrated ranges
    int8-dynamic      the same, with the range of each row of an activation computed when it is there
    int8-weight       weights alone
    int4-weight       weights of 4 bits in groups of 32 along the summed axis
    w4a8, w8a16, ...  any number of bits from 2 to 8; 16 and 32 stand for floating point
    nf4, nvfp4        4-bit floating-point codes for weights in blocks
    fp16, bf16        no integers: the target's half precision
    float             nothing

`-g64` asks for groups of 64, `-channel` for one scale a channel, `-asym` for zero points of weights: `int4-weight-g64-asym`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from edgecc.errors import UsageError

Codes = Literal["int", "nf4", "nvfp4"]


@dataclass(frozen=True)
class WeightFormat:
    """`group`: numbers along the summed axis that share a scale, 0 for a scale an output channel. `codes`: what the bits mean."""

    bits: int = 8
    group: int = 0
    symmetric: bool = True
    codes: Codes = "int"

    @property
    def limits(self) -> tuple[int, int]:
        """Least and largest integer: -127..127, so that the product of two is never 2^14; -8..7 and 0..15 in groups."""
        if not self.symmetric:
            return 0, (1 << self.bits) - 1
        high = (1 << (self.bits - 1)) - 1
        return (-high - 1 if self.group else -high), high

    def __str__(self) -> str:
        if self.codes != "int":
            return self.codes
        shared = f" groups of {self.group}" if self.group else " per channel"
        return f"int{self.bits}{shared}{'' if self.symmetric else ' asymmetric'}"


@dataclass(frozen=True)
class ActivationFormat:
    """`dynamic`: a scale for each row, computed from its numbers when the model runs."""

    bits: int = 8
    dynamic: bool = False

    def __str__(self) -> str:
        return f"int{self.bits}{' dynamic' if self.dynamic else ''}"


@dataclass(frozen=True)
class Scheme:
    """`precision`: what the target's own precision option is set to instead of quantizing, `""` for none."""

    name: str
    weight: WeightFormat | None = None
    activation: ActivationFormat | None = None
    precision: str = ""

    @property
    def integers(self) -> bool:
        """Whether anything is quantized."""
        return self.weight is not None or self.activation is not None


FLOAT = Scheme("float")
_NAMED = {
    "float": FLOAT,
    "fp32": FLOAT,
    "fp16": Scheme("fp16", precision="fp16"),
    "bf16": Scheme("bf16", precision="bf16"),
    "int8": Scheme("int8", WeightFormat(), ActivationFormat()),
    "int8-dynamic": Scheme("int8-dynamic", WeightFormat(), ActivationFormat(dynamic=True)),
    "int8-weight": Scheme("int8-weight", WeightFormat()),
    "int4-weight": Scheme("int4-weight", WeightFormat(4, 32)),
    "nf4": Scheme("nf4", WeightFormat(4, 64, codes="nf4")),
    "nvfp4": Scheme("nvfp4", WeightFormat(4, 16, codes="nvfp4")),
}
_MIX = re.compile(r"w(?P<weight>\d+)a(?P<activation>\d+)")
_FLOATING = (16, 32)
NAMES = (*(n for n in _NAMED if n != "fp32"), "w<bits>a<bits>")


def scheme(name: str) -> Scheme:
    """The scheme of a name. Raises UsageError for an unknown one, and for bits or groups that do not exist."""
    base, *suffixes = _split(name)
    found = _NAMED.get(base) or _mix(name, base)
    for suffix in suffixes:
        found = replace(found, weight=_changed(name, found, suffix))
    return replace(found, name=name)


def _split(name: str) -> list[str]:
    """`int4-weight-g64-asym` to its base and its suffixes."""
    words, suffixes = name.split("-"), []
    while len(words) > 1 and re.fullmatch(r"g\d+|channel|asym|sym", words[-1]):
        suffixes.append(words.pop())
    return ["-".join(words), *suffixes[::-1]]


def _mix(name: str, base: str) -> Scheme:
    found = _MIX.fullmatch(base)
    if not found:
        raise UsageError(f"unknown quantization {name!r}", hint=f"one of {', '.join(NAMES)}")
    weight, activation = int(found["weight"]), int(found["activation"])
    for what, bits in (("weights", weight), ("activations", activation)):
        if bits not in (*range(2, 9), *_FLOATING):
            raise UsageError(f"{name!r} asks for {what} of {bits} bits, want 2 to 8, or 16 for floating point")
    return Scheme(
        name,
        None if weight in _FLOATING else WeightFormat(weight),
        None if activation in _FLOATING else ActivationFormat(activation),
    )


def _changed(name: str, found: Scheme, suffix: str) -> WeightFormat:
    weight = found.weight
    if weight is None or weight.codes != "int":
        raise UsageError(f"{name!r}: {found.name} takes no suffix -{suffix}", hint="int4-weight-g64-asym")
    if suffix in ("asym", "sym"):
        return replace(weight, symmetric=suffix == "sym")
    group = 0 if suffix == "channel" else int(suffix[1:])
    if suffix != "channel" and group not in (16, 32, 64, 128, 256):
        raise UsageError(f"{name!r} asks for groups of {group}, want 16, 32, 64, 128 or 256, or -channel")
    return replace(weight, group=group)
