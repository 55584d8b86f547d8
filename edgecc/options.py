"""CompileOptions: everything about one compile but the model and the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgecc.errors import UsageError

VerifyLevel = Literal["off", "structure", "numerics"]
Speed = Literal["", "measure", "require"]


@dataclass(frozen=True)
class CompileOptions:
    """Options of `compile` and `opt`.

    `verify`: what is checked after every pass; the artifact itself is always compared with the model unless "off".
    `tolerance`: largest difference of the artifact to the model, over the largest magnitude of the same output.
    `pipeline`: text in place of the target's own. `insert`: (phase, passes) appended to it. `disable`: pass names.
    `cases`: how many seeded inputs are checked; 0 with `verify` off runs nothing. `quant`: a scheme by name (`int8`, `int4-weight`, `w4a8`), `""` for none.
    `quant_layers`: pairs of a regular expression and a scheme for layers whose module path or name it is found in.
    `quant_with`: passes that go with it, such as `smooth-quant`; `quant_method`: of calibration. `max_drop`: how much of the
    evaluation may be lost, below 0 for any amount. `speedup`: `measure` times the artifact beside the model in floating point,
    `require` fails where it is slower.
    """

    seed: int = 0
    verify: VerifyLevel = "numerics"
    tolerance: float = 1e-4
    cases: int = 3
    pipeline: str = ""
    insert: tuple[tuple[str, str], ...] = ()
    disable: tuple[str, ...] = ()
    stop_after: str = ""
    dump_ir: bool = False
    quant: str = ""
    quant_layers: tuple[tuple[str, str], ...] = ()
    quant_with: tuple[str, ...] = ()
    quant_method: str = ""
    max_drop: float = -1.0
    speedup: Speed = ""

    def __post_init__(self) -> None:
        """Raises UsageError for a value out of range."""
        if self.verify not in get_args(VerifyLevel):
            raise UsageError(f"verify is {self.verify!r}, want one of {', '.join(get_args(VerifyLevel))}")
        if self.speedup not in get_args(Speed):
            raise UsageError(f"speedup is {self.speedup!r}, want measure or require")
        least = 0 if self.verify == "off" else 1
        if self.cases < least or not self.tolerance >= 0:
            raise UsageError(
                f"cases is {self.cases}, want at least {least}; tolerance is {self.tolerance:g}, want at least 0",
                hint="" if least == 0 or self.cases else "--verify off goes with no case",
            )
        if not all(map(_is_pair, self.insert)):
            raise UsageError(f"insert is {self.insert!r}, want pairs of a phase and passes")
        if not all(map(_is_pair, self.quant_layers)):
            raise UsageError(f"quant_layers is {self.quant_layers!r}, want pairs of a regular expression and a scheme")
        if self.quant and self.pipeline:
            raise UsageError(
                "--quant adds passes to the target's pipeline, and --passes replaces it", hint="--passes '..., insert-fake-quant, ...'"
            )
        if not self.quant and (self.quant_layers or self.quant_with or self.quant_method):
            raise UsageError("options of quantization were given, and no --quant", hint="--quant int8")


def frozen(value: object) -> object:
    """An option as it is kept: tuples in the place of the lists that TOML, JSON and flags give."""
    return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else value


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, str) for part in value)
