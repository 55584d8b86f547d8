"""The CPUs and platforms that edgecc builds for: every fact that depends on one of them stands in this table."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError

Entry = TypeVar("Entry")

_DOT = frozenset({"asimddp", "asimdhp", "atomics"})
_V2 = frozenset({"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}
_I8MM = _DOT | {"i8mm", "bf16"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@dataclass(frozen=True)
class Cpu:
    """`mcpu`, `mattr`: what LLVM is told. `qemu`: CPUs that an emulator may know, the nearest first; every one has
    the instructions that LLVM emits for `mcpu`. `flags`: what /proc/cpuinfo of a machine must list to run the code.
    """

    name: str
    arch: str
    mcpu: str
    mattr: tuple[str, ...] = ()
    qemu: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()

    @property
    def halves(self) -> bool:
        """Whether it has arithmetic in float16."""
        return "asimdhp" in self.flags


@dataclass(frozen=True)
class Triple:
    """A platform. `llvm` is LLVM's name for it and `zig` zig's, with the oldest C library that the TVM runtime runs on.

    `gnu`: prefix of its GNU tools, `""` where there are none. `stubs`: system libraries that no linker here has, so
    that the artifact names them and the device resolves them. `sysroot`, `emulator`: how qemu-user runs its programs.
    """

    name: str
    arch: str
    llvm: str
    zig: str
    gnu: str = ""
    abi: str = ""
    stubs: tuple[str, ...] = ()
    emulator: str = ""
    sysroot: str = ""
    install: str = "pip install ziglang"


@dataclass(frozen=True)
class Machine:
    """A CPU on a platform: what one build is for."""

    cpu: Cpu
    triple: Triple

    @property
    def llvm_target(self) -> dict[str, object]:
        """The TVM target. It names no property of the machine that builds."""
        target: dict[str, object] = {"kind": "llvm", "mtriple": self.triple.llvm, "mcpu": self.cpu.mcpu}
        if self.cpu.mattr:
            target["mattr"] = list(self.cpu.mattr)
        if self.triple.abi:
            target["mfloat-abi"] = self.triple.abi
        return target

    def is_this_machine(self) -> bool:
        """Whether this machine itself can execute the code."""
        here = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
        return (
            platform.system() == "Linux" and here == self.triple.arch and "android" not in self.triple.name and self.cpu.flags <= _flags()
        )


_NO_SVE = ("-sve", "-sve2")  # kernels are written for vectors of 128 bits
_MAX = "max,sve=off,sme=off"

# apple-m1 under an emulator: `max` without the vector extensions that an M1 lacks.
CPUS = {
    cpu.name: cpu
    for cpu in (
        Cpu("generic-armv8", "aarch64", "generic", ("+neon",), ("cortex-a53",)),
        Cpu("cortex-a53", "aarch64", "cortex-a53", qemu=("cortex-a53",)),
        Cpu("cortex-a55", "aarch64", "cortex-a55", qemu=("cortex-a55", "cortex-a76"), flags=_DOT),
        Cpu("cortex-a72", "aarch64", "cortex-a72", qemu=("cortex-a72",)),
        Cpu("cortex-a76", "aarch64", "cortex-a76", qemu=("cortex-a76",), flags=_DOT),
        Cpu("cortex-a78", "aarch64", "cortex-a78", qemu=("cortex-a78", "cortex-a76"), flags=_DOT),
        Cpu("neoverse-n1", "aarch64", "neoverse-n1", qemu=("neoverse-n1",), flags=_DOT),
        Cpu("apple-m1", "aarch64", "apple-m1", qemu=(_MAX,), flags=_DOT | {"fcma", "sha3", "asimdfhm"}),
        Cpu("cortex-a710", "aarch64", "cortex-a710", _NO_SVE, ("cortex-a710", _MAX), _I8MM),
        Cpu("neoverse-n2", "aarch64", "neoverse-n2", _NO_SVE, ("neoverse-n2", _MAX), _I8MM),
        Cpu("generic-armv7", "armv7l", "generic", ("+v7", "+vfp3", "+neon"), ("cortex-a9", "cortex-a15"), frozenset({"neon", "vfpv3"})),
        Cpu("cortex-a7", "armv7l", "cortex-a7", ("+neon",), ("cortex-a7",), frozenset({"neon", "vfpv4"})),
        Cpu("cortex-a15", "armv7l", "cortex-a15", ("+neon",), ("cortex-a15",), frozenset({"neon", "vfpv4"})),
        Cpu("x86-64-v2", "x86_64", "x86-64-v2", flags=_V2),
        Cpu("x86-64-v3", "x86_64", "x86-64-v3", flags=_V3),
        Cpu("x86-64-v4", "x86_64", "x86-64-v4", flags=_V4),
        Cpu("haswell", "x86_64", "haswell", flags=_V3),
        Cpu("skylake-avx512", "x86_64", "skylake-avx512", flags=_V4),
        Cpu("cascadelake", "x86_64", "cascadelake", flags=_V4 | {"avx512_vnni"}),
        Cpu("znver4", "x86_64", "znver4", flags=_V4 | {"avx512_vnni", "avx512_bf16", "gfni", "avx512_vbmi2"}),
    )
}

TRIPLES = {
    triple.name: triple
    for triple in (
        Triple(
            "aarch64-linux-gnu",
            "aarch64",
            "aarch64-linux-gnu",
            "aarch64-linux-gnu.2.27",
            gnu="aarch64-linux-gnu",
            emulator="qemu-aarch64",
            sysroot="/usr/aarch64-linux-gnu",
            install="sudo apt-get install g++-aarch64-linux-gnu    (or: pip install ziglang)",
        ),
        Triple("aarch64-linux-android", "aarch64", "aarch64-linux-android", "aarch64-linux-android", stubs=("libm.so", "libc.so")),
        Triple(
            "arm-linux-gnueabihf",
            "armv7l",
            "armv7-linux-gnueabihf",
            "arm-linux-gnueabihf.2.27",
            gnu="arm-linux-gnueabihf",
            abi="hard",
            emulator="qemu-arm",
            sysroot="/usr/arm-linux-gnueabihf",
            install="sudo apt-get install g++-arm-linux-gnueabihf    (or: pip install ziglang)",
        ),
        Triple(
            "x86_64-linux-gnu",
            "x86_64",
            "x86_64-linux-gnu",
            "x86_64-linux-gnu.2.27",
            gnu="x86_64-linux-gnu",
            install="sudo apt-get install gcc    (or: pip install ziglang)",
        ),
    )
}


def machine(cpu: str, triple: str) -> Machine:
    """The machine of two names. Raises UsageError for one that is unknown, or two that do not fit each other."""
    chosen = Machine(_known("cpu", cpu, CPUS), _known("triple", triple, TRIPLES))
    if chosen.cpu.arch != chosen.triple.arch:
        fitting = next(t.name for t in TRIPLES.values() if t.arch == chosen.cpu.arch)
        raise UsageError(
            f"cpu {cpu} is {chosen.cpu.arch}, but triple {triple} is {chosen.triple.arch}", hint=f"triple={fitting} fits this cpu"
        )
    return chosen


def machine_of(target: str, architectures: tuple[str, ...], cpu: str, triple: str) -> Machine:
    """As `machine`, for a target that has these architectures only."""
    _known(f"cpu of {target}", cpu, {c.name: c for c in CPUS.values() if c.arch in architectures})
    _known(f"triple of {target}", triple, {t.name: t for t in TRIPLES.values() if t.arch in architectures})
    return machine(cpu, triple)


def host_machine() -> Machine | None:
    """The most capable portable machine that this one can stand for, None where TVM artifacts cannot run here at all."""
    portable = ("x86-64-v3", "x86_64-linux-gnu"), ("x86-64-v2", "x86_64-linux-gnu"), ("generic-armv8", "aarch64-linux-gnu")
    return next((m for m in (machine(cpu, triple) for cpu, triple in portable) if m.is_this_machine()), None)


def _known(what: str, name: str, table: Mapping[str, Entry]) -> Entry:
    if name not in table:
        raise UsageError(f"unknown {what}: {name!r}", hint=f"{nearest(name, table)} (all: {', '.join(table)})")
    return table[name]


def _flags() -> frozenset[str]:
    """CPU features of this machine as Linux names them."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    lines = (line.partition(":") for line in info.read_text().splitlines())
    return frozenset(word for key, _, words in lines if key.strip() in ("flags", "Features") for word in words.split())
