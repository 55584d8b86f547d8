"""What the CPU targets share: a Program to a library for a CPU through TVM, and the files that go with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgecc.errors import UsageError
from edgecc.targeting.base import Capabilities, Lowered, Requirement, Runner, Target
from edgecc.targets.tvm_cpu import interface
from edgecc.targets.tvm_cpu.build import build, legalize_once
from edgecc.targets.tvm_cpu.device import write_device_folder
from edgecc.targets.tvm_cpu.interface import Interface
from edgecc.targets.tvm_cpu.linker import toolchain
from edgecc.targets.tvm_cpu.machines import Machine, host_machine, machine_of
from edgecc.targets.tvm_cpu.requirements import find_requirements
from edgecc.targets.tvm_cpu.runners import HOST_MODEL, MODEL, find_runners
from edgecc.targets.tvm_cpu.versions import TVM, require_tvm

if TYPE_CHECKING:
    from edgecc.ir.program import Program
    from edgecc.pipeline.context import PassContext

_PIPELINE = (
    "normalize: decompose, canonicalize, fold-constants, eliminate-common-subexpressions"
    " | fuse: fold-batch-norm, fuse-layer-norm, fuse-rms-norm, fuse-gelu, fuse-silu, fuse-hard-swish, fuse-attention, canonicalize"
    " | legalize: fold-constants, eliminate-common-subexpressions"
)


@dataclass(frozen=True)
class TvmCpu(Target):
    """A CPU. `threads`: how many the model is run with; the library is the same for any number.

    `device_runtime`: the folder of the device's TVM runtime, `""` for the user's cache.
    """

    architectures: ClassVar[tuple[str, ...]]

    threads: int = 1
    device_runtime: str = ""

    @property
    @abstractmethod
    def machine(self) -> Machine: ...

    def check(self, cpu: str, triple: str) -> Machine:
        """The machine of these options. Raises UsageError for one that is unknown, or no threads."""
        if not 1 <= self.threads <= 256:
            raise UsageError(f"threads is {self.threads}, want 1..256")
        return machine_of(self.name, self.architectures, cpu, triple)

    def pipeline(self) -> str:
        return _PIPELINE

    def capabilities(self) -> Capabilities:
        from edgecc.targets.tvm_cpu.lowering import DTYPES, refuse

        return Capabilities(DTYPES, refuse)

    def requirements(self) -> Sequence[Requirement]:
        return find_requirements(self.machine, self._runtime_root())

    def lower(self, program: Program, directory: Path, context: PassContext) -> Lowered:
        """Write model.so, model.txt, device/ and, where this machine cannot run model.so, host/model.so.

        Raises MissingToolError where TVM or a linker is missing.
        """
        require_tvm()
        tools = toolchain(self.machine.triple)
        from edgecc.targets.tvm_cpu.lowering import lower

        context.progress.detail("lower to Relax")
        module = legalize_once(lower(program))
        ports = Interface.of(program.signature, self.machine.cpu.name)
        (directory / interface.FILE).write_text(ports.text())
        context.progress.detail(f"build {MODEL} for {self.machine.cpu.name}")
        build(module, self.machine, tools, directory / MODEL)
        host = None if self.machine.is_this_machine() else host_machine()
        if host:
            context.progress.detail(f"build {HOST_MODEL} for {host.cpu.name}")
            build(module, host, toolchain(host.triple), directory / HOST_MODEL)
        unbuilt = write_device_folder(directory / "device", self.machine, ports, self.threads, self._runtime_root())
        facts = {
            "cpu": self.machine.cpu.name,
            "triple": self.machine.triple.name,
            "threads": self.threads,
            "llvm_target": self.machine.llvm_target,
            "linker": tools.name,
            "tvm": TVM,
            "host": {"cpu": host.cpu.name, "triple": host.triple.name} if host else None,
            "runner": "device/runner" if not unbuilt else f"not built: {unbuilt}",
        }
        return Lowered(MODEL, facts)

    def runners(self, directory: Path, manifest: Mapping[str, Any]) -> Sequence[Runner]:
        return find_runners(directory, manifest["facts"], self._runtime_root())

    def _runtime_root(self) -> Path | None:
        return Path(self.device_runtime).expanduser() if self.device_runtime else None
