"""Library: a scheduled module as model.so, model.a and the header, built from kernels, weights and generated C."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecc.targets.tvm_cpu.interface import Interface
from edgecc.targets.tvm_cpu.linker import Toolchain
from edgecc.targets.tvm_cpu.standalone.emit import loaded_source, model_source
from edgecc.targets.tvm_cpu.standalone.kernels import compile_kernels, lower_kernels
from edgecc.targets.tvm_cpu.standalone.plan import Plan, plan
from edgecc.targets.tvm_cpu.standalone.program import called_functions, read_program

SOURCES = Path(__file__).parent / "c"
_WEIGHTS = """\
.section .rodata.{symbol}_weights,"a",%progbits
.globl {symbol}_weights
.hidden {symbol}_weights
.type {symbol}_weights, %object
.p2align 6
{symbol}_weights:
.incbin "weights.bin"
.size {symbol}_weights, . - {symbol}_weights
.section .note.GNU-stack,"",%progbits
"""


@dataclass(frozen=True)
class Built:
    """Objects of one model: `model`, what defines it; `runtime`, the same for every model; `loaded`, for model.so alone."""

    symbol: str
    model: tuple[Path, ...]
    runtime: Path
    loaded: Path
    plan: Plan


def compile_objects(module: Any, target: Any, interface: Interface, tools: Toolchain, symbol: str, folder: Path) -> Built:
    """Compile a scheduled module into objects in `folder`.

    `interface`: names and sizes of the inputs and outputs as the user knows them. Raises NotStandaloneError where the
    module needs a runtime, MissingToolError where the compiler fails.
    """
    kernels = lower_kernels(called_functions(module), target, f"{symbol}_k_")
    program = read_program(module, kernels)
    planned = plan(program)
    compile_kernels([s.kernel for s in program.steps], target, planned.shared, folder / "kernels.o")
    (folder / "model.c").write_text(model_source(program, planned.arena, interface, symbol))
    (folder / "loaded.c").write_text(loaded_source(symbol))
    (folder / "weights.bin").write_bytes(program.weights)
    (folder / "weights.S").write_text(_WEIGHTS.format(symbol=symbol))
    for name in ("edgecc_model.h", "edgecc_internal.h", "edgecc_runtime.c"):
        shutil.copyfile(SOURCES / name, folder / name)
    for source in ("model.c", "loaded.c", "weights.S", "edgecc_runtime.c"):
        tools.compile_c(source, folder)
    objects = tuple(folder / name for name in ("model.o", "kernels.o", "weights.o"))
    return Built(symbol, objects, folder / "edgecc_runtime.o", folder / "loaded.o", planned)


def link_shared(built: Built, tools: Toolchain, output: Path) -> None:
    """Write model.so, which needs the C library only."""
    output.parent.mkdir(parents=True, exist_ok=True)
    tools.link_shared([*built.model, built.runtime, built.loaded], output, f"edgecc_*; {built.symbol};")


def link_static(built: Built, tools: Toolchain, output: Path) -> None:
    """Write model.a; two of them with models of different names can be in one program."""
    tools.archive([*built.model, built.runtime], output)
