"""Agreement: how an artifact's integers compare with PyTorch's, each call that quantizes given the same integers before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecc.pipeline.base import Reordered
from edgecc.pipeline.numerics import Distance

#: The part of a call's integers that is within one step of PyTorch's, and their cosine; both are least values.
NEAR, COSINE = 0.999, 0.9999


@dataclass(frozen=True)
class CallAgreement:
    """The integers of one call over all samples, zero points subtracted. `place`: its node and source line, for people.

    `equal`, `near`: the part that is equal and within one step. `cosine`: the least of a sample, where an integer that the
    tolerance of the number before it explains counts as equal. `exact`: nothing but integers comes before it, so that every
    one must be equal. `least`: the cosine that is wanted.
    """

    place: str
    integers: int
    equal: float
    near: float
    cosine: float
    exact: bool = False
    least: float = COSINE

    @property
    def broken(self) -> str:
        """Why the call is not what PyTorch computes, `""` where it is."""
        if self.exact and self.equal < 1:
            return f"{self.place}: {self.equal:.4%} of {self.integers} numbers equal, want all of them"
        if self.near >= NEAR and self.cosine >= self.least:
            return ""
        found = f"{self.near:.2%} of {self.integers} integers within one step and a cosine of {self.cosine:.6f}"
        return f"{self.place}: {found}, want {NEAR:.1%} and {self.least:g}"


@dataclass(frozen=True)
class Agreement:
    """Every call that quantizes an activation, and the outputs given the same integers. `unchecked`: calls that are not in
    the artifact by their names; nothing is asked then, for what they round otherwise moves the others. `as_deployed`: whether
    the artifact gives the same outputs bit for bit when its integers are looked at.
    """

    calls: Sequence[CallAgreement]
    outputs: Distance
    tolerance: float
    unchecked: int = 0
    as_deployed: bool = True

    def broken(self) -> list[str]:
        """One line for each call, and for the outputs, that PyTorch computes otherwise from the same integers."""
        if self.unchecked:
            return []
        outputs = self.outputs.broken(Reordered(self.tolerance))
        return [*filter(None, (call.broken for call in self.calls)), *([f"from the same integers, {outputs}"] if outputs else [])]

    def as_dict(self) -> Mapping[str, Any]:
        """`verify.quantized` of report.json: the least of all calls."""
        integers = sum(c.integers for c in self.calls)
        return {
            "calls": len(self.calls),
            "unchecked": self.unchecked,
            "as_deployed": self.as_deployed,
            "exact": bool(self.calls) and all(c.exact for c in self.calls),
            "integers": integers,
            "equal": sum(c.equal * c.integers for c in self.calls) / max(integers, 1),
            "within_one_step": min((c.near for c in self.calls), default=1.0),
            "cosine": min((c.cosine for c in self.calls), default=1.0),
            "outputs": self.outputs.as_dict(),
        }
