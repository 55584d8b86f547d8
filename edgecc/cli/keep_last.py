"""KeepLast: an instrument that keeps the last good program for the reproducer of an internal error."""

from __future__ import annotations

from edgecc.cli.session import Session
from edgecc.ir.program import Program
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.instruments import Instrument, Step


class KeepLast(Instrument):
    """A snapshot after each change: its graph is a copy, its weights are shared. A failing pass may have broken its own."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def start(self, program: Program, context: PassContext) -> None:
        self.session.last = program.snapshot()

    def after(self, step: Step, program: Program, context: PassContext) -> None:
        self.session.last = program.snapshot()
