"""How much memory this process takes, as far as its system tells."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


class Peak:
    """The peak of this process's memory from here on, beyond what it has here."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        self._before = _memory("VmRSS")

    def bytes(self) -> int:
        """0 where there is no /proc."""
        return max(0, _memory("VmHWM") - self._before)


def _memory(key: str) -> int:
    """Bytes of VmRSS or VmHWM, 0 where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":")), 0)
