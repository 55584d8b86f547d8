"""x86_cpu: a library for an x86-64 CPU under Linux."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecc.targets.tvm_cpu.machines import Machine, machine
from edgecc.targets.tvm_cpu.target import TvmCpu


@dataclass(frozen=True)
class X86Cpu(TvmCpu):
    """x86-64 CPUs. The default is what nearly every CPU since 2013 has, AVX2 and FMA, whatever this machine has."""

    name: ClassVar[str] = "x86_cpu"
    architectures: ClassVar[tuple[str, ...]] = ("x86_64",)

    cpu: str = "x86-64-v3"
    triple: str = "x86_64-linux-gnu"

    def __post_init__(self) -> None:
        self.check(self.cpu, self.triple)

    @property
    def machine(self) -> Machine:
        return machine(self.cpu, self.triple)
