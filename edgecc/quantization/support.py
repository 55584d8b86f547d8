"""QuantSupport: what a target says of the quantized programs that it can run."""

from __future__ import annotations

from dataclasses import dataclass

from edgecc.errors import UsageError
from edgecc.quantization.scheme import Scheme


@dataclass(frozen=True)
class QuantSupport:
    """`placement`: where q/dq stand, a name of `placement.PLACEMENTS`. `symmetric`: activations have zero point 0.
    `weight_bits`, `activation_bits`: of integers. `groups`: sizes that share a scale, 0 for a whole channel. `dynamic`: whether
    scales may be computed when the model runs. `codes`: 4-bit codes of weights. `precisions`: values of the target's
    `precision` option. `added`: passes that go with calibrated activations unless the user names one of the same name.
    """

    placement: str
    symmetric: bool = False
    weight_bits: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    activation_bits: tuple[int, ...] = (8,)
    groups: tuple[int, ...] = (0, 16, 32, 64, 128, 256)
    asymmetric_weights: bool = True
    dynamic: bool = True
    codes: tuple[str, ...] = ("int",)
    precisions: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def check(self, scheme: Scheme, target: str) -> None:
        """Raises UsageError that lists what the target has where it lacks something of the scheme."""
        reason = self._lacks(scheme)
        if reason:
            raise UsageError(f"{target} cannot run {scheme.name!r}: it has no {reason}", hint=f"{target} has {self}")

    def _lacks(self, scheme: Scheme) -> str:
        weight, activation = scheme.weight, scheme.activation
        if scheme.precision and scheme.precision not in self.precisions:
            return f"precision {scheme.precision}"
        if weight and weight.codes not in self.codes:
            return f"{weight.codes} weights"
        if weight and weight.codes == "int" and weight.bits not in self.weight_bits:
            return f"weights of {weight.bits} bits"
        if weight and weight.codes == "int" and weight.group not in self.groups:
            return f"groups of {weight.group}" if weight.group else "scales per channel"
        if weight and not weight.symmetric and not self.asymmetric_weights:
            return "weights with zero points"
        if activation and activation.dynamic and not self.dynamic:
            return "scales computed when the model runs"
        if activation and activation.bits not in self.activation_bits:
            return f"activations of {activation.bits} bits"
        return ""

    def __str__(self) -> str:
        parts = [f"weights of {_listed(self.weight_bits)} bits", f"activations of {_listed(self.activation_bits)} bits"]
        parts.append(f"groups of {_listed([g for g in self.groups if g])}")
        parts += [c for c in self.codes if c != "int"] + list(self.precisions)
        return ", ".join([*parts, *(["dynamic activations"] if self.dynamic else [])])


def _listed(values: object) -> str:
    assert isinstance(values, (tuple, list))
    return "/".join(map(str, values)) or "none"
