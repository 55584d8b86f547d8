"""How an artifact of a CPU target is timed on this machine, and what its ARM binary costs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecc.errors import MissingToolError
from edgecc.targeting.timing import Contestant
from edgecc.targets.tvm_cpu.device import runner_program
from edgecc.targets.tvm_cpu.interface import Interface
from edgecc.targets.tvm_cpu.machines import Machine, machine
from edgecc.targets.tvm_cpu.measure import cycles
from edgecc.targets.tvm_cpu.measure.counting import Counts, count
from edgecc.targets.tvm_cpu.measure.driver import build_driver
from edgecc.targets.tvm_cpu.runners import HOST_MODEL, MODEL, emulator

CPUS = ("cortex-a72", "neoverse-n1")  # what cycles are estimated for beside the artifact's own CPU
_RUNS = 2  # counted; every one costs the same


@dataclass(frozen=True)
class Artifact:
    """A run directory of a CPU target. `facts`: those of `lower`; `root`: the device runtime, None for the user's cache."""

    directory: Path
    facts: Mapping[str, Any]
    root: Path | None = None

    @property
    def machine(self) -> Machine:
        return machine(str(self.facts["cpu"]), str(self.facts["triple"]))

    @property
    def standalone(self) -> bool:
        """Whether the model has the C interface; otherwise TVM's virtual machine runs it."""
        return bool(self.facts.get("runtime") == "c")


def contestants(artifact: Artifact, threads: int, folder: Path) -> list[Contestant]:
    """The artifact as a contestant on this machine, by its host build where it is for another one; none without one.

    `folder`: where programs may be built. Raises MissingToolError.
    """
    built = artifact.machine
    if built.is_this_machine():
        return [_contestant(artifact, f"native {built.cpu.arch}", MODEL, built, threads, folder, "")]
    host = artifact.facts.get("host")
    if not host or not (artifact.directory / HOST_MODEL).is_file():
        return []
    note = "timed by its build for this machine, not by the deployed binary"
    here = machine(host["cpu"], host["triple"])
    return [_contestant(artifact, f"host {here.cpu.arch}", HOST_MODEL, here, threads, folder, note)]


def _contestant(artifact: Artifact, runtime: str, file: str, built: Machine, threads: int, folder: Path, note: str) -> Contestant:
    model = (artifact.directory / file).resolve()
    if artifact.standalone:
        return Contestant(runtime, (str(build_driver(model, built.triple, folder)), "-t", str(threads), "--time"), note)
    command = (sys.executable, "-m", "edgecc.targets.tvm_cpu.measure.time_vm", str(model), "-t", str(threads))
    return Contestant(runtime, command, note)


def cost(artifact: Artifact, case: Path, folder: Path) -> dict[str, Any]:
    """Instructions, cycles and cache misses of one inference of an ARM binary on one thread, as JSON values.

    `case`: a folder with input0.npy, ... Empty for another processor. What cannot be had here stands in `missing`.
    """
    if artifact.machine.cpu.arch != "aarch64":
        return {}
    try:
        counts = _count(artifact, case, folder)
    except MissingToolError as error:
        return {"missing": [str(error)]}
    return {**describe(counts), **estimates(counts, (artifact.facts["cpu"], *CPUS))}


def _count(artifact: Artifact, case: Path, folder: Path) -> Counts:
    built = artifact.machine
    program, cpu = emulator(built)
    emulated = [program, "-L", built.triple.sysroot, "-cpu", cpu]
    if artifact.standalone:
        driver = build_driver(artifact.directory / MODEL, built.triple, folder)
        return count(emulated, [str(driver), "-t", "1", "--count", str(_RUNS), str(case)]).per_run(Counts({}), _RUNS)
    runner = runner_program(built.triple, artifact.root)
    ports = enumerate(Interface.read(artifact.directory).inputs)
    command = [str(runner), str(artifact.directory / MODEL), *(f"{port.name}={case}/input{i}.npy" for i, port in ports), "-t", "1"]
    emulated += ["-E", f"LD_LIBRARY_PATH={runner.parent / 'lib'}"]
    once, more = (count(emulated, [*command, "-n", str(runs)]) for runs in (1, 1 + _RUNS))
    return more.per_run(once, _RUNS)


def describe(counts: Counts) -> dict[str, Any]:
    """Counts as JSON values."""
    return {
        "instructions": round(counts.instructions),
        "instructions_by_kind": {kind: round(number) for kind, number in counts.by_kind().items()},
        "l1_misses": round(counts.l1_misses),
        "l2_misses": round(counts.l2_misses),
    }


def estimates(counts: Counts, cpus: Sequence[str]) -> dict[str, Any]:
    """`cycles` by CPU, or why there are none in `missing`."""
    try:
        found = cycles.estimate(counts, list(dict.fromkeys(cpus)), cycles.find_llvm())
    except MissingToolError as error:
        return {"cycles": {}, "missing": [str(error)]}
    return {"cycles": {cpu: round(number) for cpu, number in found.items()}, "missing": []}
