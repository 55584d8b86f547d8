"""How a child process that ran a runtime ended, in words."""

from __future__ import annotations

_SIGNALS = {
    4: "an illegal instruction",
    6: "an abort",
    7: "a bus error",
    8: "a division by zero",
    9: "a kill, as where memory runs out",
    11: "a segmentation fault",
}


def ended_by(code: int) -> str:
    """What ended a process whose return code is negative, as Popen has it for a signal."""
    return _SIGNALS.get(-code, f"signal {-code}")
