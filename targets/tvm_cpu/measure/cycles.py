"""Estimate cycles on a CPU: the blocks that a program executes, each priced by llvm-mca as a loop over itself.

llvm-mca knows the CPU's ports and latencies (not that an accumulator is forwarded early), and assumes that every load
hits the cache and every branch is predicted: read the modelled cache misses beside it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecc.errors import ContractError, MissingToolError
from edgecc.targets.tvm_cpu.measure.counting import Block, Counts

OLDEST = 19  # older ones have one model for cortex-a72 and neoverse-n1
_ITERATIONS = 100
_COVERED = 0.995  # the blocks that make up this share of the instructions are priced; the rest runs a few times each
#: CPUs without a model of their own, and the one that is nearest.
STAND_INS = {"cortex-a76": "neoverse-n1", "cortex-a78": "neoverse-n1", "generic-armv8": "cortex-a53"}


@dataclass(frozen=True)
class Llvm:
    """Two programs of LLVM, of one version."""

    mc: str
    mca: str


def find_llvm(path: str | None = None) -> Llvm:
    """The newest llvm-mca of LLVM 19 or later and the llvm-mc beside it. Raises MissingToolError."""
    folders = [str(f) for f in Path("/usr/lib").glob("llvm-*/bin")] if path is None else []
    found = {}
    for folder in [path, *folders]:
        for mca in [shutil.which("llvm-mca", path=folder)]:
            mc = mca and shutil.which("llvm-mc", path=str(Path(mca).parent))
            if mca and mc:
                found[_version(mca)] = Llvm(mc, mca)
    if not found or max(found) < OLDEST:
        had = f", version {max(found)} is too old" if found else ""
        raise MissingToolError(f"llvm-mca of LLVM {OLDEST} or later was not found{had}", hint="sudo apt-get install llvm-19")
    return found[max(found)]


def _version(program: str) -> int:
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"LLVM version (\d+)", text)
    return int(match[1]) if match else 0


def estimate(counts: Counts, cpus: Sequence[str], llvm: Llvm) -> dict[str, float]:
    """Cycles on each of `cpus` (LLVM's names). Raises ContractError where llvm-mca fails."""
    chosen = _most(counts.blocks)
    text = _regions(list(chosen), _disassemble(list(chosen), llvm))
    return {cpu: sum(c * n for c, n in zip(_price(text, cpu, len(chosen), llvm), chosen.values(), strict=True)) for cpu in cpus}


def _most(blocks: Mapping[Block, float]) -> dict[Block, float]:
    """The blocks that take the most instructions, until they cover the share that is priced."""
    total = sum(len(block) * count for block, count in blocks.items())
    chosen: dict[Block, float] = {}
    covered = 0.0
    for block, count in sorted(blocks.items(), key=lambda item: (-len(item[0]) * item[1], item[0])):
        if covered >= _COVERED * total:
            break
        chosen[block] = count
        covered += len(block) * count
    return chosen


def _disassemble(blocks: Sequence[Block], llvm: Llvm) -> list[str]:
    """Each block as assembly text."""
    octets = " ".join(f"0x{octet:02x}" for block in blocks for word in block for octet in word.to_bytes(4, "little"))
    text = _run([llvm.mc, "--disassemble", "-triple=aarch64", "-mattr=+all"], octets)
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith(".text")]
    if len(lines) != sum(map(len, blocks)):
        raise ContractError(f"{llvm.mc} disassembled {len(lines)} of {sum(map(len, blocks))} instructions")
    rest = iter(lines)
    return ["\n".join(next(rest) for _ in block) for block in blocks]


def _regions(blocks: Sequence[Block], texts: Sequence[str]) -> str:
    return "".join(f"# LLVM-MCA-BEGIN {i}\n{text}\n# LLVM-MCA-END\n" for i, (_, text) in enumerate(zip(blocks, texts, strict=True)))


def _price(text: str, cpu: str, count: int, llvm: Llvm) -> list[float]:
    """Cycles of one run of each region, in a steady state."""
    with tempfile.NamedTemporaryFile("w", suffix=".s") as file:
        file.write(text)
        file.flush()
        flags = ["-mtriple=aarch64", f"-mcpu={STAND_INS.get(cpu, cpu)}", "-mattr=+all", f"-iterations={_ITERATIONS}"]
        report = _run([llvm.mca, *flags, "--skip-unsupported-instructions=any", "-instruction-info=0", "-resource-pressure=0", file.name])
    return parse_report(report, count)


def parse_report(report: str, count: int) -> list[float]:
    """Cycles of one iteration of each of `count` regions that llvm-mca reports on. One that it skipped is free."""
    cycles = [0.0] * count
    region = 0
    for line in report.splitlines():
        if match := re.match(r"\[\d+\] Code Region - (\d+)", line):
            region = int(match[1])
        elif match := re.match(r"Total Cycles:\s+(\d+)", line):
            cycles[region] = int(match[1]) / _ITERATIONS
    return cycles


def _run(command: Sequence[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise ContractError(f"{command[0]} failed with code {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout
