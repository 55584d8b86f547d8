"""Session: what lasts while one command runs: the terminal, and the last good program, which a crash report needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecc.cli.terminal import Terminal

if TYPE_CHECKING:
    from edgecc.ir.program import Program


@dataclass
class Session:
    """`words` are the command line without the program's name."""

    words: Sequence[str]
    terminal: Terminal
    last: Program | None = None
