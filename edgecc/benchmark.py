"""Benchmark: time an artifact and other runtimes with the same model and input, in turns, and ask the target what it costs."""

from __future__ import annotations

import importlib.util
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecc.errors import ContractError, MissingToolError
from edgecc.targeting.base import Arrays
from edgecc.targeting.timing import Child, Contestant

#: The runtimes that an artifact is compared with, and the packages that each needs beside PyTorch.
PEERS: Mapping[str, tuple[str, ...]] = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "torch": ()}
_TURN = 0.05  # seconds of one turn: long beside a context switch, short beside a slow minute
_LEAST = 3  # runs, of a model that takes longer than all the time there is


@dataclass(frozen=True)
class Timing:
    """Seconds of every inference by the wall clock and of the processor; bytes of memory at the peak, beyond the runtime's."""

    walls: Sequence[float]
    processors: Sequence[float]
    peak_bytes: int

    def as_dict(self) -> dict[str, object]:
        return {
            "latency_ms": _quantiles(self.walls),
            "cpu_ms": _quantiles(self.processors),
            "peak_bytes": self.peak_bytes,
            "runs": len(self.walls),
        }


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    p90 = ordered[math.ceil(0.9 * len(ordered)) - 1]
    return {"p50": round(statistics.median(ordered) * 1e3, 6), "p90": round(p90 * 1e3, 6)}


def contest(contestants: Sequence[Contestant], case: Path, *, seconds: float, together: bool) -> list[Timing]:
    """Time every contestant for about `seconds`: in turns where `together`, else one after another, alone.

    `together` is for one thread each: the idle thread pool of one runtime may spin while another runs. `case`: a folder
    with input0.npy, ... Raises ContractError where one fails.
    """
    if not together and len(contestants) > 1:
        return [contest([c], case, seconds=seconds, together=True)[0] for c in contestants]
    with ExitStack() as stack:
        children = [stack.enter_context(Child(c, case)) for c in contestants]
        turns = [_runs_in_a_turn(child) for child in children]
        walls: list[list[float]] = [[] for _ in children]
        processors: list[list[float]] = [[] for _ in children]
        while any(sum(w) < seconds or len(w) < _LEAST for w in walls):
            for child, runs, wall, processor in zip(children, turns, walls, processors, strict=True):
                taken = child.run(runs)
                wall += taken[0]
                processor += taken[1]
        return [Timing(w, p, child.finish()) for w, p, child in zip(walls, processors, children, strict=True)]


def _runs_in_a_turn(child: Child) -> int:
    """Warm up: the first runs allocate and touch every page. Then how many runs fit in a turn."""
    child.run(1)
    runs, spent = 1, sum(child.run(1)[0])
    while spent < _TURN / 4:
        runs *= 4
        spent = sum(child.run(runs)[0])
    return max(1, round(runs * _TURN / spent))


def write_case(inputs: Arrays, order: Sequence[str], folder: Path) -> None:
    """Write the inputs as input0.npy, ..., in this order of names."""
    for i, name in enumerate(order):
        np.save(folder / f"input{i}.npy", inputs[name])


def missing(name: str) -> list[str]:
    """The packages that a runtime of `PEERS` lacks here."""
    return [package for package in PEERS[name] if importlib.util.find_spec(package) is None]


def peer(name: str, program: Path, threads: int) -> Contestant:
    """Another runtime on the program of a `.pt2`; what it is converted to is written beside it.

    Raises MissingToolError where the runtime is not installed, ContractError where it cannot take the program.
    """
    lacking = missing(name)
    if lacking:
        raise MissingToolError(f"{name} needs {', '.join(lacking)}", hint=f"pip install {' '.join(lacking)}")
    model = _exported(program) if name == "onnxruntime" else program
    return Contestant(name, (sys.executable, "-m", f"edgecc.peers.{name}_peer", str(model), "-t", str(threads)))


def _exported(program: Path) -> Path:
    """The program as ONNX, made in a process of its own."""
    file = program.with_suffix(".onnx")
    command = [sys.executable, "-m", "edgecc.peers.export_onnx", str(program), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise ContractError(f"PyTorch could not write the program as ONNX: {done.stderr.strip()[-2000:]}")
    return file
