"""What the CPU targets share: a Program to a library for a CPU through TVM, and the files that go with it."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgecc.diagnostics import Remark
from edgecc.errors import UsageError
from edgecc.quantization.support import QuantSupport
from edgecc.targeting.base import Capabilities, Lowered, Requirement, Runner, Target
from edgecc.targeting.timing import Contestant
from edgecc.targets.tvm_cpu import interface
from edgecc.targets.tvm_cpu.agreement import agreement
from edgecc.targets.tvm_cpu.build import build, build_standalone, legalize_once
from edgecc.targets.tvm_cpu.device import write_device_folder
from edgecc.targets.tvm_cpu.interface import Interface
from edgecc.targets.tvm_cpu.linker import toolchain
from edgecc.targets.tvm_cpu.machines import CPUS, Machine, host_machine, machine_of
from edgecc.targets.tvm_cpu.measure import benchmarks
from edgecc.targets.tvm_cpu.measure.benchmarks import Artifact
from edgecc.targets.tvm_cpu.requirements import find_requirements
from edgecc.targets.tvm_cpu.runners import HOST_MODEL, MODEL, find_runners
from edgecc.targets.tvm_cpu.schedules.core import CORES
from edgecc.targets.tvm_cpu.standalone.artifact import ARCHIVE, write_files
from edgecc.targets.tvm_cpu.standalone.program import NotStandaloneError
from edgecc.targets.tvm_cpu.versions import TVM, require_tvm

if TYPE_CHECKING:
    from edgecc.ir.program import Program
    from edgecc.pipeline.context import PassContext, Sample
    from edgecc.targeting.agreement import Agreement

_PIPELINE = (
    "normalize: decompose, canonicalize, fold-constants, eliminate-common-subexpressions"
    " | fuse: fold-batch-norm, fuse-layer-norm, fuse-rms-norm, fuse-gelu, fuse-silu, fuse-hard-swish, fuse-attention, canonicalize"
    " | legalize: lower-quantized, fold-constants, eliminate-common-subexpressions"
)


@dataclass(frozen=True)
class TvmCpu(Target):
    """A CPU. `threads`: how many the model is run with; the library is the same for any number.

    `runtime`: `c`, a library that needs none, or `vm`, TVM's virtual machine, which also runs dynamic dimensions without
    an upper bound. `prefer`: `speed`, or `size` for no schedule that stores weights larger than they are (convolutions of
    three taps become slower and half as large). `precision`: `fp32`, or `fp16` for products in float16 on CPUs that have that
    arithmetic. `symbol`: the C name of the model. `device_runtime`: the folder of the
    device's TVM runtime, `""` for the user's cache.
    """

    architectures: ClassVar[tuple[str, ...]]

    threads: int = 1
    runtime: str = "c"
    prefer: str = "speed"
    precision: str = "fp32"
    symbol: str = "compiled_model"
    device_runtime: str = ""

    @property
    @abstractmethod
    def machine(self) -> Machine: ...

    def check(self, cpu: str, triple: str) -> Machine:
        """The machine of these options. Raises UsageError for one that is unknown, no threads, or no C name."""
        if not 1 <= self.threads <= 256:
            raise UsageError(f"threads is {self.threads}, want 1..256")
        if self.runtime not in ("c", "vm"):
            raise UsageError(f"runtime is {self.runtime!r}, want c or vm")
        if self.prefer not in ("speed", "size"):
            raise UsageError(f"prefer is {self.prefer!r}, want speed or size")
        found = machine_of(self.name, self.architectures, cpu, triple)
        if self.precision not in ("fp32", "fp16"):
            raise UsageError(f"precision is {self.precision!r}, want fp32 or fp16")
        if self.precision == "fp16" and not found.cpu.halves:
            halves = ", ".join(c.name for c in CPUS.values() if c.halves and c.arch in self.architectures) or "none"
            raise UsageError(f"{cpu} has no arithmetic in float16", hint=f"CPUs of {self.name} that have it: {halves}")
        if not re.fullmatch(r"[A-Za-z_]\w*", self.symbol, re.ASCII) or self.symbol.startswith("edgecc_"):
            raise UsageError(f"symbol is {self.symbol!r}, want a C name that does not begin with edgecc_")
        return found

    def pipeline(self) -> str:
        """Codes are unsigned where the dot products of the CPU want them so (VPDPBUSD)."""
        unsigned = CORES[self.machine.cpu.name].dot == "vnni"
        text = _PIPELINE.replace("lower-quantized", "lower-quantized{unsigned=true}") if unsigned else _PIPELINE
        return text.replace("legalize: ", "legalize: halve-products, ") if self.precision == "fp16" else text

    def capabilities(self) -> Capabilities:
        from edgecc.targets.tvm_cpu.lowering import DTYPES, refuse

        return Capabilities(DTYPES, refuse, QuantSupport("integer", precisions=("fp16",) if self.machine.cpu.halves else ()))

    def requirements(self) -> Sequence[Requirement]:
        return find_requirements(self.machine, self.runtime, self._runtime_root())

    def lower(self, program: Program, directory: Path, context: PassContext) -> Lowered:
        """Write model.so, model.txt, device/ and, where this machine cannot run model.so, host/model.so. For a model that
        needs no runtime also model.a, include/, example.c, edgecc_model.py and README.txt.

        A model that does, whatever `runtime` says, is remarked. Raises MissingToolError where TVM or a compiler is missing.
        """
        require_tvm()
        tools = toolchain(self.machine.triple)
        from edgecc.targets.tvm_cpu.lowering import lower

        context.progress.detail("lower to Relax")
        module = legalize_once(lower(program))
        ports = Interface.of(program.signature, self.machine.cpu.name)
        (directory / interface.FILE).write_text(ports.text())
        context.progress.detail(f"build {MODEL} for {self.machine.cpu.name}")
        runtime, memory = self.runtime, None
        if runtime == "c":
            try:
                outputs = directory / MODEL, directory / ARCHIVE
                memory, choices = build_standalone(module, self.machine, tools, ports, self.symbol, *outputs, self.prefer)
                write_files(directory, self.machine, ports, self.symbol, memory)
            except NotStandaloneError as error:
                runtime = "vm"
                context.remarks.add(Remark("missed", self.name, "", f"the artifact needs the TVM runtime (runtime=vm): {error}"))
        if runtime == "vm":
            choices = build(module, self.machine, tools, directory / MODEL, self.prefer)
        for choice in choices:
            context.remarks.add(Remark("note", self.name, choice.function, f"scheduled by: {choice.rule}"))
        host = None if self.machine.is_this_machine() else host_machine()
        if host:
            context.progress.detail(f"build {HOST_MODEL} for {host.cpu.name}")
            if runtime == "c":
                build_standalone(module, host, toolchain(host.triple), ports, self.symbol, directory / HOST_MODEL, prefer=self.prefer)
            else:
                build(module, host, toolchain(host.triple), directory / HOST_MODEL, self.prefer)
        unbuilt = write_device_folder(directory / "device", self.machine, ports, runtime, self.threads, self._runtime_root())
        facts = {
            "cpu": self.machine.cpu.name,
            "triple": self.machine.triple.name,
            "threads": self.threads,
            "runtime": runtime,
            "llvm_target": self.machine.llvm_target,
            "linker": tools.name,
            "tvm": TVM,
            "host": {"cpu": host.cpu.name, "triple": host.triple.name} if host else None,
            "runner": "device/runner" if not unbuilt else f"not built: {unbuilt}",
            **({"symbol": self.symbol, "memory": memory} if memory else {}),
        }
        return Lowered(MODEL, facts)

    def runners(self, directory: Path, manifest: Mapping[str, Any]) -> Sequence[Runner]:
        return find_runners(directory, manifest["facts"], self._runtime_root())

    def agreement(self, program: Program, directory: Path, manifest: Mapping[str, Any], samples: Sequence[Sample]) -> Agreement | None:
        return agreement(program, self.runners(directory, manifest), samples)

    def contestants(self, directory: Path, manifest: Mapping[str, Any], threads: int, folder: Path) -> Sequence[Contestant]:
        return benchmarks.contestants(Artifact(directory, manifest["facts"], self._runtime_root()), threads, folder)

    def cost(self, directory: Path, manifest: Mapping[str, Any], case: Path, folder: Path) -> Mapping[str, Any]:
        return benchmarks.cost(Artifact(directory, manifest["facts"], self._runtime_root()), case, folder)

    def _runtime_root(self) -> Path | None:
        return Path(self.device_runtime).expanduser() if self.device_runtime else None
