"""Timing: a runtime in a process of its own runs inferences on command and says how long each took.

Several such processes can take turns, so that a slow minute of the machine is shared by all. The child answers `ready`
when the model is loaded, then each line `N` with 2 N integers: nanoseconds of N inferences, first by the wall clock, then
of the processor; and the end of its input with the peak of its memory beyond what it had before loading, in bytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgecc.errors import ContractError
from edgecc.targeting.ending import ended_by
from edgecc.targeting.memory import Peak


@dataclass(frozen=True)
class Contestant:
    """A runtime to time. `command` starts a child that calls `serve`; it gets a folder with input0.npy, ... appended.

    `note` says what this measurement does not show, `""` where it is the deployed binary.
    """

    runtime: str
    command: tuple[str, ...]
    note: str = ""


def serve(load: Callable[[], Callable[[], object]]) -> int:
    """In the child: call `load`, then run what it gives as often as the parent asks. Import the runtime before."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints is no answer
    peak = Peak()
    run = load()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        walls, processors = [], []
        for _ in range(int(line)):
            wall, processor = time.perf_counter_ns(), time.process_time_ns()
            run()
            processors.append(time.process_time_ns() - processor)
            walls.append(time.perf_counter_ns() - wall)
        print(*walls, *processors, file=answers, flush=True)
    print(peak.bytes(), file=answers, flush=True)
    return 0


class Child:
    """The parent's side of one running contestant; a context manager that ends the process."""

    def __init__(self, contestant: Contestant, case: Path) -> None:
        self.runtime = contestant.runtime
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by __exit__
        self._process = subprocess.Popen(
            [*contestant.command, str(case)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )

    def __enter__(self) -> Child:
        try:
            self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def run(self, count: int) -> tuple[list[float], list[float]]:
        """Seconds of each of `count` inferences by the wall clock, and of the processor. Raises ContractError."""
        numbers = [int(word) / 1e9 for word in self._ask(f"{count}\n").split()]
        return numbers[:count], numbers[count:]

    def finish(self) -> int:
        """The peak of its memory in bytes, 0 where the machine does not tell. It runs no more after this."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return int(self._answer())

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the answer that is missing says why
            self._process.stdin.write(line)
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            how = f"was ended by {ended_by(code)}" if code < 0 else f"ended with code {code}"
            raise ContractError(f"{self.runtime} {how}: {self._log.read().strip()[-2000:]}")
        return line

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
