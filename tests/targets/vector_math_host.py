"""Compare a kernel of one function of vector_math with the C library's in double, on this machine or an emulated one.

`python -m tests.targets.vector_math_host 1 exp tanh` does so for all 2^32 operands (a minute or two a function and CPU;
the emulated ones take every 16th).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgecc.targets.tvm_cpu.linker import find_toolchain
from edgecc.targets.tvm_cpu.machines import Machine, machine
from edgecc.targets.tvm_cpu.runners import emulator

MACHINES = {
    "x86-64-v3": machine("x86-64-v3", "x86_64-linux-gnu"),
    "x86-64-v2": machine("x86-64-v2", "x86_64-linux-gnu"),
    "cortex-a72": machine("cortex-a72", "aarch64-linux-gnu"),
}
LANES = {"x86-64-v3": 8, "x86-64-v2": 4, "cortex-a72": 4}
BLOCK = 1 << 14  # elements of one call of a kernel
EXACT = {
    "exp": "exp(x)",
    "expm1": "expm1(x)",
    "sigmoid": "x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x))",
    "tanh": "tanh(x)",
    "erf": "erf(x)",
    "gelu": "0.5 * x * erfc(-x * 0.70710678118654752)",
    "log": "log(x)",
    "log1p": "log1p(x)",
}
_DRIVER = r"""
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int32_t kernel(float*, float*);
static float x[BLOCK] __attribute__((aligned(64))), y[BLOCK] __attribute__((aligned(64)));
static double exact(double x) { return EXACT; }
int main(int argc, char** argv) {
  uint64_t bits = strtoull(argv[1], 0, 10), step = strtoull(argv[2], 0, 10), end = strtoull(argv[3], 0, 10);
  double positive = 0, negative = 0, largest = 0, at = 0;
  long wrong = 0, signs = 0, outside = 0;
  float bad = 0;
  while (bits < end) {
    int count = 0;
    for (; count < BLOCK && bits < end; ++count, bits += step) { uint32_t word = (uint32_t)bits; memcpy(&x[count], &word, 4); }
    kernel(x, y);
    for (int i = 0; i < count; ++i) {
      double want = exact(x[i]), size = fabs(want);
      float near = (float)want;
      outside += fabsf(y[i]) > 1;
      if (near != near || y[i] != y[i] || isinf(near) || isinf(y[i])) {
        int same = near != near ? y[i] != y[i] : near == y[i];
        if (!same) { wrong++; bad = x[i]; }
        continue;
      }
      signs += near == 0 && y[i] == 0 && !signbit(near) != !signbit(y[i]);
      double error = fabs(y[i] - want), ulps = ldexp(error, 23 - ilogb(fmax(size, 0x1p-126)));
      if (error > largest) largest = error;
      if (x[i] < 0 && ulps > negative) negative = ulps;
      if (x[i] >= 0 && ulps > positive) { positive = ulps; at = x[i]; }
    }
  }
  printf("%.9g %.9g %.9g %ld %ld %ld %.9g %.9g\n", negative, positive, largest, wrong, signs, outside, bad, at);
  return 0;
}
"""


@dataclass(frozen=True)
class Errors:
    """`negative`, `positive`: the largest error in units in the last place for operands of this sign. `absolute`: the
    largest error. `wrong`: results that should be NaN or infinite and are not, or the reverse; `example` is an operand
    of one. `signs`: zeros of the wrong sign. `outside`: results beyond [-1, 1]."""

    negative: float
    positive: float
    absolute: float
    wrong: int
    signs: int
    outside: int
    example: float
    at: float

    @property
    def ulps(self) -> float:
        return max(self.negative, self.positive)


def build(name: str, cpu: str, folder: Path) -> list[str]:
    """The command that measures a function on a CPU. Skips where this machine can neither build nor run it."""
    here = MACHINES[cpu]
    tools = find_toolchain(here.triple)
    if tools is None:
        pytest.skip(f"no linker for {here.triple.name}")
    prefix: list[str] = []
    if not here.is_this_machine():
        if not here.triple.emulator:
            pytest.skip(f"this machine is no {cpu}")
        program, model = emulator(here)
        prefix = [program, "-L", here.triple.sysroot, "-cpu", model]
    _kernel(name, here, LANES[cpu], folder / "kernel.o")
    (folder / "driver.c").write_text(_DRIVER.replace("BLOCK", str(BLOCK)).replace("EXACT", EXACT[name]))
    subprocess.run([*tools.cc, "-O2", "driver.c", "kernel.o", "-o", "program", "-lm"], cwd=folder, check=True)
    return [*prefix, str(folder / "program")]


def measure(command: list[str], step: int, begin: int = 0, end: int = 2**32) -> Errors:
    """The errors for every step-th float32 whose bits are in `begin .. end`."""
    done = subprocess.run([*command, str(begin), str(step), str(end)], capture_output=True, text=True, check=True)
    negative, positive, absolute, wrong, signs, outside, example, at = done.stdout.split()
    return Errors(float(negative), float(positive), float(absolute), int(wrong), int(signs), int(outside), float(example), float(at))


def _kernel(name: str, here: Machine, lanes: int, path: Path) -> None:
    import tvm
    from tvm import tirx

    from edgecc.targets.tvm_cpu.vector_math.intrinsics import call

    target = tvm.target.Target(here.llvm_target)
    pointers = [tirx.Var(n, tvm.ir.PointerType(tvm.ir.PrimType("float32"))) for n in "xy"]
    buffers = [tirx.decl_buffer([tirx.const(BLOCK, "int32")], "float32", n) for n in "xy"]
    i = tirx.Var("i", "int32")
    where = tirx.Ramp(i * lanes, 1, lanes)
    store = tirx.BufferStore(buffers[1], call(name, tirx.BufferLoad(buffers[0], [where])), [where])
    loop = tirx.For(i, tirx.const(0, "int32"), tirx.const(BLOCK // lanes, "int32"), tirx.ForKind.SERIAL, store)
    body = tirx.SeqStmt([*(tirx.DeclBuffer(b, data=p) for b, p in zip(buffers, pointers, strict=True)), loop])
    function = (
        tirx.PrimFunc(pointers, body, ret_type=tvm.ir.PrimType("int32")).with_attr("global_symbol", "kernel").with_attr("target", target)
    )
    with target:
        lowered = tirx.transform.LowerIntrin()(tvm.IRModule({"kernel": function}))
        tvm.get_global_func("target.build.llvm")(lowered, target).write_to_file(str(path), "o")


def main(step: int, names: list[str]) -> None:
    for name in names or EXACT:
        for cpu, here in MACHINES.items():
            with tempfile.TemporaryDirectory() as folder:
                found = measure(build(name, cpu, Path(folder)), step if here.is_this_machine() else 16 * step)
                sys.stdout.write(f"{name} {cpu} {found}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
