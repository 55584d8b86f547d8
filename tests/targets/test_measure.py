"""Instructions, cycles and cache misses of aarch64 programs whose counts are known from how they are written."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgecc.errors import ContractError, MissingToolError
from edgecc.targets.tvm_cpu.measure import counting, cycles
from edgecc.targets.tvm_cpu.measure.instructions import kind_of

# As GNU as 2.40 assembles them.
KINDS = {
    "fma": [
        0x4E22CC20,  # fmla v0.4s, v1.4s, v2.4s
        0x4EA2CC20,  # fmls v0.4s, v1.4s, v2.4s
        0x4FBD1BDF,  # fmla v31.4s, v30.4s, v29.s[3]
        0x4FC21820,  # fmla v0.2d, v1.2d, v2.d[1]
    ],
    "vector": [
        0x4FA29020,  # fmul v0.4s, v1.4s, v2.s[1]
        0x1F020C20,  # fmadd s0, s1, s2, s3
        0x4E22D420,  # fadd v0.4s, v1.4s, v2.4s
        0x4EA1B820,  # fcvtzs v0.4s, v1.4s
    ],
    "dot": [
        0x4E829420,  # sdot v0.4s, v1.16b, v2.16b
        0x6FA2E020,  # udot v0.4s, v1.16b, v2.4b[1]
        0x4E829C20,  # usdot v0.4s, v1.16b, v2.16b
    ],
    "matmul": [
        0x4E82A420,  # smmla v0.4s, v1.16b, v2.16b
        0x4E82AC20,  # usmmla v0.4s, v1.16b, v2.16b
    ],
    "load": [
        0x3DC00020,  # ldr q0, [x1]
        0xAD410440,  # ldp q0, q1, [x2, #32]
        0x4CDF7800,  # ld1 {v0.4s}, [x0], #16
        0x4D40C800,  # ld1r {v0.4s}, [x0]
        0xBC627820,  # ldr s0, [x1, x2, lsl #2]
        0x9C000040,  # ldr q0, .+8
    ],
    "store": [
        0x3C810420,  # str q0, [x1], #16
        0x6DBF27E8,  # stp d8, d9, [sp, #-16]!
        0x4C00A800,  # st1 {v0.4s, v1.4s}, [x0]
    ],
    "load_integer": [
        0xF9400020,  # ldr x0, [x1]
        0xB9800020,  # ldrsw x0, [x1]
        0xA94007E0,  # ldp x0, x1, [sp]
        0x88DFFC20,  # ldar w0, [x1]
    ],
    "store_integer": [
        0xB9000020,  # str w0, [x1]
        0xA9BF7BFD,  # stp x29, x30, [sp, #-16]!
        0x8800FC41,  # stlxr w0, w1, [x2]
    ],
    "integer": [
        0x91000420,  # add x0, x1, #1
        0x9B020C20,  # madd x0, x1, x2, x3
        0x9A820020,  # csel x0, x1, x2, eq
    ],
    "branch": [
        0x14000000,  # b .
        0x54000001,  # b.ne .
        0xB4000000,  # cbz x0, .
        0xD61F0020,  # br x1
        0xD65F03C0,  # ret
    ],
    "call": [
        0x94000000,  # bl .
        0xD63F0000,  # blr x0
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_instruction_has_the_kind_of_its_mnemonic(kind: str) -> None:
    assert [kind_of(word) for word in KINDS[kind]] == [kind] * len(KINDS[kind])


@pytest.fixture(scope="module")
def qemu() -> list[str]:
    program = shutil.which("qemu-aarch64")
    if program is None or shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("qemu-aarch64 or aarch64-linux-gnu-gcc is not installed")
    return [program, "-cpu", "cortex-a72"]


def assemble(folder: Path, body: str) -> list[str]:
    """A program of this body alone, between the marks, before which it sets nothing but x8. It ends with code 0."""
    mark = f"mov w8, #{counting.MARK & 0xFFFF}\n movk w8, #{counting.MARK >> 16}, lsl #16\n svc #0\n"
    end = "mov x0, #0\n mov x8, #93\n svc #0\n"
    text = f".global _start\n_start:\n {mark} {body}\n {mark} {end} .bss\n .balign 4096\nbuffer: .skip 1048576\n"
    (folder / "program.s").write_text(text)
    subprocess.run(["aarch64-linux-gnu-gcc", "-nostdlib", "-static", "program.s", "-o", "program"], cwd=folder, check=True)
    return [str(folder / "program")]


LOOP = "mov x1, #1000\n1: fmla v0.4s, v2.4s, v3.4s\n fmla v1.4s, v2.4s, v3.4s\n subs x1, x1, #1\n b.ne 1b"
MARK_LENGTH = 3


def test_every_instruction_between_the_marks_counts_once(qemu, tmp_path) -> None:
    found = counting.count(qemu, assemble(tmp_path, LOOP))
    assert found.instructions == 1 + 4 * 1000 + MARK_LENGTH
    kinds = found.by_kind()
    assert kinds["fma"] == 2000
    assert kinds["integer"] == 1 + 1000 + 2
    assert kinds["branch"] == 1000 + 1  # the second mark's svc


# Every line of a buffer is read 5 times, in order. An LRU cache that is smaller than the buffer keeps nothing of use.
@pytest.mark.parametrize(("kilobytes", "l1", "l2"), [(16, 256, 256), (64, 5 * 1024, 1024)])
def test_a_sweep_misses_what_does_not_fit(qemu, tmp_path, kilobytes: int, l1: int, l2: int) -> None:
    lines = kilobytes * 16
    body = (
        f"mov x2, #5\n2: ldr x0, =buffer\n mov x1, #{lines}\n1: ldr w3, [x0], #64\n subs x1, x1, #1\n b.ne 1b\n subs x2, x2, #1\n b.ne 2b"
    )
    found = counting.count(qemu, assemble(tmp_path, body))
    literal = 5, 1  # the address of the buffer is read 5 times from one line
    assert found.lines == 5 * lines + literal[0]
    assert l1 <= found.l1_misses <= l1 + literal[0]
    assert l2 <= found.l2_misses <= l2 + literal[1]


def test_without_the_cache_nothing_is_said_of_it(qemu, tmp_path) -> None:
    found = counting.count(qemu, assemble(tmp_path, LOOP), cache=False)
    assert (found.lines, found.l1_misses, found.l2_misses) == (0, 0, 0)


def test_a_program_that_fails_is_an_error_with_its_code(qemu) -> None:
    with pytest.raises(ContractError, match="code 1"):
        counting.count(qemu, ["/nonexistent/program"])


def test_an_emulator_without_plugins_is_a_missing_tool(tmp_path) -> None:
    script = tmp_path / "qemu-aarch64"
    script.write_text("#!/bin/sh\necho \"qemu: unknown option 'plugin'\" >&2\nexit 1\n")  # as qemu-user built without them says
    script.chmod(0o755)
    with pytest.raises(MissingToolError, match="takes no plugins"):
        counting.count([str(script)], ["program"])


def test_the_difference_of_two_runs_is_the_cost_of_one() -> None:
    start, loop = (0xD503201F,), (0x4E22CC20, 0x54000001)
    once = counting.Counts({start: 7, loop: 10}, lines=3, l1_misses=2, l2_misses=1)
    thrice = counting.Counts({start: 7, loop: 30}, lines=9, l1_misses=4, l2_misses=1)
    found = thrice.per_run(once, 2)
    assert found.blocks == {loop: 10}
    assert (found.instructions, found.lines, found.l1_misses, found.l2_misses) == (20, 3, 1, 0)


def test_cycles_are_read_by_region() -> None:
    report = """
[0] Code Region - 0

Iterations:        100
Instructions:      400
Total Cycles:      250

[1] Code Region - 2

Total Cycles:      1203
"""
    assert cycles.parse_report(report, 3) == [2.5, 0.0, 12.03]


@pytest.fixture(scope="module")
def llvm() -> cycles.Llvm:
    try:
        return cycles.find_llvm()
    except MissingToolError as error:
        pytest.skip(error.message)


# Eight independent multiply-adds of 4 lanes: a Cortex-A72 starts one a cycle, a Neoverse N1 two (Arm's software
# optimization guides). A chain of them on one register
# takes the latency of 4: LLVM's models do not know that an accumulator is forwarded earlier.
@pytest.mark.parametrize(("registers", "cpu", "cycles_each"), [(8, "cortex-a72", 1.0), (8, "neoverse-n1", 0.5), (1, "neoverse-n1", 4.0)])
def test_cycles_are_those_of_the_ports_and_latencies(llvm, registers: int, cpu: str, cycles_each: float) -> None:
    block = tuple(0x4E3FCFC0 | i % registers for i in range(8))  # fmla vI.4s, v30.4s, v31.4s
    found = cycles.estimate(counting.Counts({block: 1000}), [cpu], llvm)
    assert found[cpu] / 8000 == pytest.approx(cycles_each, rel=0.05)  # the pipeline fills once in 100 iterations


def test_a_missing_llvm_is_named_with_its_install_line(tmp_path) -> None:
    with pytest.raises(MissingToolError, match="llvm-mca of LLVM 19"):
        cycles.find_llvm(str(tmp_path))


def test_a_missing_compiler_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(counting, "cache_root", lambda: tmp_path)
    with pytest.raises(MissingToolError, match="no C compiler"):
        counting.plugin_library(str(tmp_path))
