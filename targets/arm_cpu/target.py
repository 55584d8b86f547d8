"""arm_cpu: a library for an ARM CPU under Linux or Android, verified under qemu where there is no such CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecc.targets.tvm_cpu.machines import Machine, machine
from edgecc.targets.tvm_cpu.target import TvmCpu


@dataclass(frozen=True)
class ArmCpu(TvmCpu):
    """ARMv8 and ARMv7 CPUs under Linux or Android; `edgecc targets show arm_cpu` lists them.

    `cpu`: generic-armv8, cortex-a53, cortex-a55, cortex-a72, cortex-a76, cortex-a78, cortex-a710, neoverse-n1, neoverse-n2 or
    apple-m1 for `triple` aarch64-linux-gnu and aarch64-linux-android; generic-armv7, cortex-a7 or cortex-a15 for arm-linux-gnueabihf.
    """

    name: ClassVar[str] = "arm_cpu"
    architectures: ClassVar[tuple[str, ...]] = ("aarch64", "armv7l")

    cpu: str = "cortex-a72"
    triple: str = "aarch64-linux-gnu"

    def __post_init__(self) -> None:
        self.check(self.cpu, self.triple)

    @property
    def machine(self) -> Machine:
        return machine(self.cpu, self.triple)
