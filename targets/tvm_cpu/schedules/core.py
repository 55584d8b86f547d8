"""Cores: what the cost model knows of a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Core:
    """One core. `lanes`: float32 in a vector register, of which there are `registers`.

    `by_lane`: a multiply-add can take one lane of a register as a factor (AArch64), so that one load of several
    elements serves several of them; elsewhere a factor is broadcast from memory. `fma_ports`, `load_ports`: how many
    a cycle; `fma_latency`: cycles. `l1`, `l2`: bytes of data cache that one core has for itself. `dot`: the instructions for
    8-bit integers, see `dots`. `permutes`: VPERMI2B permutes the bytes of two 512-bit registers (AVX-512 VBMI).
    Sources: Arm's software optimization guides of Cortex-A53/A55/A72/A76 and Neoverse N1; Agner Fog, "The
    microarchitecture of Intel, AMD and VIA CPUs" and his instruction tables.
    """

    arch: str
    lanes: int
    registers: int
    by_lane: bool
    fma_ports: int
    load_ports: int
    fma_latency: int
    l1: int
    l2: int
    dot: str = ""
    permutes: bool = False

    @property
    def accumulators(self) -> int:
        """How many independent sums keep the multiply-add units busy."""
        return self.fma_ports * self.fma_latency


_SMALL = Core("aarch64", 4, 32, True, 1, 1, 4, 32 << 10, 512 << 10, "smlal")  # in order, one 128-bit multiply-add a cycle or less
_A72 = Core("aarch64", 4, 32, True, 1, 1, 7, 32 << 10, 1 << 20, "smlal")
_A55 = replace(_SMALL, dot="sdot")
_BIG = Core("aarch64", 4, 32, True, 2, 2, 4, 64 << 10, 512 << 10, "sdot")
_V9 = replace(_BIG, dot="smmla")
_ARMV7 = Core("armv7l", 4, 16, False, 1, 1, 8, 32 << 10, 512 << 10)
_SSE = Core("x86_64", 4, 16, False, 2, 2, 4, 32 << 10, 256 << 10)
_AVX2 = Core("x86_64", 8, 16, False, 2, 2, 4, 32 << 10, 256 << 10)
_AVX512 = Core("x86_64", 16, 32, False, 2, 2, 4, 32 << 10, 1 << 20)
_VNNI = replace(_AVX512, dot="vnni")

CORES = {
    "generic-armv8": _SMALL,
    "cortex-a53": _SMALL,
    "cortex-a55": _A55,
    "cortex-a72": _A72,
    "cortex-a76": _BIG,
    "cortex-a78": _BIG,
    "neoverse-n1": _BIG,
    "apple-m1": _BIG,
    "cortex-a710": _V9,
    "neoverse-n2": _V9,
    "generic-armv7": _ARMV7,
    "cortex-a7": _ARMV7,
    "cortex-a15": _ARMV7,
    "x86-64-v2": _SSE,
    "x86-64-v3": _AVX2,
    "haswell": _AVX2,
    "x86-64-v4": _AVX512,
    "skylake-avx512": _AVX512,
    "cascadelake": _VNNI,
    "znver4": replace(_VNNI, permutes=True),
}
