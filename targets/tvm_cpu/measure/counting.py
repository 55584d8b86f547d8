"""Count what an aarch64 program executes under qemu-user: blocks of instructions, and misses of a data cache model.

The counts do not depend on the machine they are taken on. The cache is that of a Cortex-A72 (32 KB in 2 ways, 1 MB in
16 ways, 64-byte lines, least recently used out first, no prefetch).
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecc.errors import ContractError, MissingToolError
from edgecc.targets.tvm_cpu.device_runtime import cache_root
from edgecc.targets.tvm_cpu.measure.instructions import kind_of

SOURCE = Path(__file__).parent / "counter.c"
MARK = 0x65646765  # the system call that counter.c looks for

Block = tuple[int, ...]


@dataclass(frozen=True)
class Counts:
    """`blocks`: how often each block ran, by its machine code. `lines`: cache lines touched; misses of the two levels."""

    blocks: Mapping[Block, float]
    lines: float = 0
    l1_misses: float = 0
    l2_misses: float = 0

    @property
    def instructions(self) -> float:
        return sum(len(block) * count for block, count in self.blocks.items())

    def by_kind(self) -> dict[str, float]:
        """Instructions of each kind that occurs, the most frequent first."""
        kinds: Counter[str] = Counter()
        for block, count in self.blocks.items():
            for word, times in Counter(block).items():
                kinds[kind_of(word)] += times * count  # type: ignore[assignment]
        return dict(kinds.most_common())

    def per_run(self, fewer: Counts, runs: int) -> Counts:
        """The cost of one of the `runs` that this count has more than `fewer`: start-up cancels out."""
        more = {block: (count - fewer.blocks.get(block, 0)) / runs for block, count in self.blocks.items()}
        return Counts(
            {block: count for block, count in more.items() if count > 0},
            (self.lines - fewer.lines) / runs,
            (self.l1_misses - fewer.l1_misses) / runs,
            (self.l2_misses - fewer.l2_misses) / runs,
        )


def mark() -> None:
    """Start the count at the first call, end it at the second. For Python programs that run under the emulator."""
    ctypes.CDLL(None).syscall(ctypes.c_long(MARK))


def count(emulator: Sequence[str], command: Sequence[str], *, cache: bool = True, seconds: float = 1800.0) -> Counts:
    """Run `command` under `emulator` (qemu-aarch64 and its flags) and count what it executes, in one thread.

    Without `cache` it is twice as fast. Raises MissingToolError where qemu takes no plugins or no C compiler is there
    to build ours, ContractError where the program fails.
    """
    plugin = plugin_library()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "counts"
        flags = ["-plugin", f"{plugin},out={file}{',cache=on' if cache else ''}"]
        try:
            done = subprocess.run(
                [*emulator, *flags, *command], capture_output=True, text=True, errors="replace", timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ContractError(f"{command[0]} did not finish under {emulator[0]} within {seconds:g} s") from error
        if "unknown option 'plugin'" in done.stderr:
            raise MissingToolError(f"{emulator[0]} takes no plugins: {done.stderr.strip()[:200]}", hint="sudo apt-get install qemu-user")
        if done.returncode or not file.exists():
            raise ContractError(f"{command[0]} ended with code {done.returncode} under {emulator[0]}: {done.stderr.strip()[-2000:]}")
        return read(file.read_text())


def read(text: str) -> Counts:
    """The counts of a file that counter.c wrote."""
    blocks: Counter[Block] = Counter()
    totals: Counter[str] = Counter()
    for line in text.splitlines():
        key, number, *words = line.split()
        if key == "block":
            blocks[tuple(int(word, 16) for word in words)] += int(number)
        else:
            totals[key] = int(number)
    return Counts(blocks, totals["lines"], totals["l1"], totals["l2"])


def plugin_library(path: str | None = None) -> Path:
    """counter.c as a library for qemu, built the first time and kept in the user's cache. Raises MissingToolError."""
    key = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = cache_root() / f"counter-{key}.so"
    if library.exists():
        return library
    compiler = shutil.which("cc", path=path) or shutil.which("gcc", path=path)
    if compiler is None:
        raise MissingToolError("no C compiler for this machine was found", hint="sudo apt-get install gcc")
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / "counter.so"
        command = [compiler, "-O2", "-shared", "-fPIC", "-fvisibility=hidden", str(SOURCE), "-o", str(built)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise MissingToolError(f"{compiler} could not build {SOURCE.name}:\n{done.stderr.strip()[-2000:]}")
        built.replace(library)
    return library
