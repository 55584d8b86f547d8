"""CompileOptions: everything about one compile but the model and the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
