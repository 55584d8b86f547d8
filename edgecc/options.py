"""CompileOptions: everything about one compile but the model and the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgecc.errors import UsageError

VerifyLevel = Literal["off", "structure", "numerics"]


@dataclass(frozen=True)
class CompileOptions:
    """Options of `compile` and `opt`.

    `verify`: what is checked after every pass; the artifact itself is always compared with the model unless "off".
    `tolerance`: largest difference of the artifact to the model, over the largest magnitude of the same output.
    `pipeline`: text in place of the target's own. `insert`: (phase, passes) appended to it. `disable`: pass names.
    `cases`: how many seeded inputs are checked.
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

    def __post_init__(self) -> None:
        """Raises UsageError for a value out of range."""
        if self.verify not in get_args(VerifyLevel):
            raise UsageError(f"verify is {self.verify!r}, want one of {', '.join(get_args(VerifyLevel))}")
        if self.cases < 1 or not self.tolerance >= 0:
            raise UsageError(f"cases is {self.cases}, want at least 1; tolerance is {self.tolerance:g}, want at least 0")
        if any(len(pair) != 2 or not all(isinstance(part, str) for part in pair) for pair in self.insert):
            raise UsageError(f"insert is {self.insert!r}, want pairs of a phase and passes")
