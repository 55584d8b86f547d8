"""Instruments: what watches a pipeline run. The manager only calls them; every check, dump and limit is one of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from edgecc.errors import ContractError, InternalError
from edgecc.ir import archive, verify
from edgecc.ir.program import Program
from edgecc.ir.text import to_text
from edgecc.pipeline.base import Pass
from edgecc.pipeline.blame import first_difference
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.numerics import compare, rounding, widened


@dataclass
class Step:
    """One pass of a run: what it did and what the instruments found. `seconds` are wall time of the pass alone."""

    index: int
    phase: str
    pass_: Pass
    rewrites: int = 0
    seconds: float = 0.0
    facts: dict[str, object] = field(default_factory=dict)


class Instrument:
    """What is called while a pipeline runs; each method does nothing unless an instrument says otherwise."""

    def start(self, program: Program, context: PassContext) -> None:
        """Before the first pass."""

    def after(self, step: Step, program: Program, context: PassContext) -> None:
        """After a pass that changed something."""

    def stop(self, step: Step) -> bool:
        """Whether the pipeline ends after this step."""
        return False


class VerifyStructure(Instrument):
    """Run the structural verifier on the first program and after every changing pass."""

    def start(self, program: Program, context: PassContext) -> None:
        verify.verify(program)

    def after(self, step: Step, program: Program, context: PassContext) -> None:
        try:
            verify.verify(program)
        except InternalError as error:
            raise InternalError(
                f"pass {step.pass_.name!r} broke the program: {error.message}", hint=f"--disable-pass {step.pass_.name}"
            ) from error


class VerifyNumerics(Instrument):
    """Run the samples before and after each changing pass; hold the pass to its declared numerics.

    Records the distance to the program before the pass (`previous`, the blame) and to the first one (`original`).
    A broken promise names the pass, and the first node whose value differs with its source line.
    """

    def __init__(self) -> None:
        self.original: list[tuple[torch.Tensor, ...]] = []
        self.previous: list[tuple[torch.Tensor, ...]] = []
        self.first: Program | None = None
        self.done: list[Pass] = []
        self.rounding = 0.0

    def start(self, program: Program, context: PassContext) -> None:
        self.first = program.snapshot()
        self.rounding = rounding(program.dtypes())
        self.original = self.previous = [program(*sample) for sample in context.samples]

    def after(self, step: Step, program: Program, context: PassContext) -> None:
        outputs = [program(*sample) for sample in context.samples]
        previous = compare(self.previous, outputs)
        original = previous if self.previous is self.original else compare(self.original, outputs)
        step.facts |= {"previous": previous.as_dict(), "original": original.as_dict()}
        promise = widened(step.pass_.numerics, self.rounding)
        why = previous.broken(promise)
        if why:
            assert self.first
            place = first_difference(self.first, self.done, program, context, promise)
            raise ContractError(
                f"pass {step.pass_.name!r} promised {step.pass_.numerics}, but {why}\n  {place}",
                hint=f"--disable-pass {step.pass_.name} to compile without it; --verify structure --print-ir-after {step.pass_.name} shows what it did",
            )
        self.previous = outputs
        self.done.append(step.pass_)


@dataclass
class Dump(Instrument):
    """Write `NN-pass.ir` and `NN-pass.pt2` into `directory`, for the first program and every changing pass.

    `only`: restrict to these pass names. `text_to`: print the text there instead of writing files.
    """

    directory: Path | None = None
    text_to: Callable[[str], None] | None = None
    only: Sequence[str] = ()

    def start(self, program: Program, context: PassContext) -> None:
        if not self.only:
            self._write("00-trace", program)

    def after(self, step: Step, program: Program, context: PassContext) -> None:
        if not self.only or step.pass_.name in self.only:
            self._write(f"{step.index:02d}-{step.pass_.name}", program)

    def _write(self, name: str, program: Program) -> None:
        text = f"# {name}.pt2\n{to_text(program)}"
        if self.text_to:
            self.text_to(text)
        if self.directory:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / f"{name}.ir").write_text(text)
            archive.save(program, self.directory / f"{name}.pt2")


@dataclass
class StopAfter(Instrument):
    """End the pipeline after the first occurrence of a pass, whether it changed something or not."""

    name: str

    def stop(self, step: Step) -> bool:
        return step.pass_.name == self.name
