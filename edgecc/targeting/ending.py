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


def ending(code: int) -> str:
    """`was ended by an abort` or `ended with code 1`, of a return code as Popen has it."""
    return f"was ended by {_SIGNALS.get(-code, f'signal {-code}')}" if code < 0 else f"ended with code {code}"
