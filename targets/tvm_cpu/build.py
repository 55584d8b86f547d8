"""Build: a Relax module to libraries for one machine, through scheduling, memory planning and LLVM.

`build` makes what TVM's virtual machine runs, `build_standalone` what runs by itself.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc.errors import EdgeccError, InternalError
from edgecc.targets.tvm_cpu.interface import Interface
from edgecc.targets.tvm_cpu.linker import Toolchain
from edgecc.targets.tvm_cpu.lowering import legalize
from edgecc.targets.tvm_cpu.machines import Machine
from edgecc.targets.tvm_cpu.schedule import fuse, schedule
from edgecc.targets.tvm_cpu.schedules.module import Choice
from edgecc.targets.tvm_cpu.standalone import library
from edgecc.targets.tvm_cpu.standalone.lets import without_lets
from edgecc.targets.tvm_cpu.standalone.program import NotStandaloneError

if TYPE_CHECKING:
    import tvm

_OBJECT_BYTES = 32 << 20  # more than the kernels of any model so far; weights are written otherwise
_PROGRAM = """\
.section .rodata,"a",%progbits
.globl {symbol}
.type {symbol}, %object
.p2align 6
{symbol}:
.incbin "{file}"
.size {symbol}, . - {symbol}
.section .note.GNU-stack,"",%progbits
"""


def legalize_once(module: tvm.IRModule) -> tvm.IRModule:
    """Turn every Relax operator into a call of a primitive function, compute what depends on weights only, and fuse.

    This is the same for every machine. TVM compiles each constant expression to fold it, so it is worth sharing.
    Raises InternalError where TVM cannot.
    """
    import tvm
    from tvm.relax.backend.cpu_generic import pipeline

    target = tvm.target.Target("llvm")
    with target, _tvm_errors("legalize the model"):
        dispatched = tvm.transform.Sequential(pipeline.library_dispatch_passes(target))(module)
        return fuse(tvm.relax.transform.FoldConstant()(legalize(dispatched)))


def build(module: tvm.IRModule, machine: Machine, tools: Toolchain, output: Path, prefer: str = "speed") -> list[Choice]:
    """Write the library that runs `main` of a legalized module on `machine`; return which rule made each kernel.

    The same module gives the same bytes. `prefer`: `speed` or `size`.

    Raises InternalError where TVM cannot build what the lowering made, OSError for a full disk.
    """
    with tempfile.TemporaryDirectory() as folder:
        with _tvm_errors(f"build the model for {machine.cpu.name}"):
            kernels, choices = schedule(module, machine, prefer)
            objects = compile_objects(kernels, machine, Path(folder))
        output.parent.mkdir(parents=True, exist_ok=True)
        tools.link_shared(objects, output)
    return choices


def build_standalone(
    module: tvm.IRModule,
    machine: Machine,
    tools: Toolchain,
    interface: Interface,
    symbol: str,
    output: Path,
    archive: Path | None = None,
    prefer: str = "speed",
) -> tuple[Mapping[str, int], list[Choice]]:
    """Write the library of `main` that needs no runtime, and the static one where `archive` names it.

    Returns the memory plan, and which rule made each kernel.

    `symbol`: the C name of the model; `prefer`: `speed` or `size`. Raises NotStandaloneError where the program needs a runtime; else as `build`.
    """
    import tvm

    target = tvm.target.Target(machine.llvm_target)
    with tempfile.TemporaryDirectory() as folder:
        _require_space(Path(folder))
        with _tvm_errors(f"build the model for {machine.cpu.name}"):
            kernels, choices = schedule(module, machine, prefer)
            built = library.compile_objects(kernels, target, interface, tools, symbol, Path(folder))
        library.link_shared(built, tools, output)
        if archive:
            library.link_static(built, tools, archive)
    return built.plan.facts(), choices


def compile_objects(module: tvm.IRModule, machine: Machine, folder: Path) -> list[Path]:
    """Write what the linker wants for a scheduled module: the kernels as objects, and the program with its weights as an assembly file.

    LLVM would make an object of the weights too, but holds them several times while it does.
    """
    import numpy as np
    import tvm
    from tvm.relax.backend.cpu_generic import pipeline

    target = tvm.target.Target(machine.llvm_target)
    lower = [p for p in pipeline.dataflow_lower_passes(target) if p.info.name != "RewriteDataflowReshape"]  # done before scheduling
    # What TVM names as a common subexpression may hold a `Let`, which its intrinsic lowering then binds twice. LLVM finds it too.
    with target, tvm.transform.PassContext(config={"tirx.disable_cse_tir": True}):
        planned = order_shape_functions(tvm.transform.Sequential(lower + pipeline.finalize_passes(target))(module))
        executable = tvm.compile(planned, target=target, relax_pipeline=None, tir_pipeline=_kernel_pipeline()).mod
    files = []
    for number, code in enumerate(m for m in executable.imports if m.kind == "llvm"):  # a program that computes nothing has none
        files.append(folder / f"kernels{number}.o")
        _require_space(folder)
        code.write_to_file(str(files[-1]))
    np.from_dlpack(tvm.get_global_func("runtime.ModulePackImportsToTensor")(executable)).tofile(folder / "program.bin")
    files.append(folder / "program.s")
    files[-1].write_text(_PROGRAM.format(symbol=tvm.get_global_func("runtime.ModuleImportsBlobName")(), file=folder / "program.bin"))
    return files


def _kernel_pipeline() -> str:
    """The name of TVM's own way from kernels to LLVM, with values in place of `Let` at its end."""
    from tvm import tirx
    from tvm.ir.transform import Sequential
    from tvm.s_tir import pipeline
    from tvm.tirx import compilation_pipeline

    def passes() -> Any:
        lower, finish, finish_device = pipeline.default_s_tir_pipeline()
        lets = tirx.transform.prim_func_pass(lambda function, module, context: function.with_body(without_lets(function.body)), opt_level=0)
        return lower, lambda: Sequential([finish(), lets]), finish_device

    compilation_pipeline.PIPELINE_MAP["edgecc"] = passes
    return "edgecc"


def order_shape_functions(module: tvm.IRModule) -> tvm.IRModule:
    """Sort the stores of the functions that compute dynamic sizes by the slot that they fill.

    TVM writes them in the order of a hash table over addresses, which differs from run to run. Each store reads the
    sizes of the inputs alone, so their order does not matter.
    """
    from tvm import tirx

    ordered = {}
    for name, function in module.functions_items():
        computes_sizes = isinstance(function, tirx.PrimFunc) and function.attrs and "tirx.is_host_func" in function.attrs
        if computes_sizes and isinstance(function.body, tirx.SeqStmt) and all(isinstance(s, tirx.BufferStore) for s in function.body.seq):
            stores = sorted(function.body.seq, key=lambda store: int(store.indices[0]))
            ordered[name] = function.with_body(tirx.SeqStmt(stores))
    for name, function in ordered.items():
        module.update_func(name, function)
    return module


def _require_space(folder: Path) -> None:
    """Raise OSError where objects may not fit: LLVM ends the whole process on a full disk, and leaves what was written."""
    if shutil.disk_usage(folder).free < _OBJECT_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextmanager
def _tvm_errors(doing: str) -> Iterator[None]:
    """Raise InternalError for whatever TVM throws; a full disk stays an OSError, and an error of ours what it is."""
    try:
        yield
    except (OSError, EdgeccError, NotStandaloneError):
        raise
    except Exception as error:  # TVM raises whatever its C++ code throws
        raise InternalError(f"TVM could not {doing}: {type(error).__name__}: {str(error).strip()[:2000]}") from error
