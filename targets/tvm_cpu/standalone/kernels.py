"""Kernels: primitive functions to one object file of plain C functions,

    int32 NAME(pointers.., int64 sizes.., temporary pointers.., int64 begin, int64 end)        (the result is always 0)

Pointers are in the order of the buffer parameters, sizes are the symbolic ones in the order of `Kernel.sizes`. A call runs
the iterations `begin .. end` of the outermost parallel loop; a function without one has one iteration, whatever the range.
A small local buffer is on the stack. A large one, or one of symbolic size, is a temporary that the caller provides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecc.errors import InternalError
from edgecc.targets.tvm_cpu.standalone.lets import without_lets
from edgecc.targets.tvm_cpu.standalone.ranges import outermost_parallel, ranged, serial
from edgecc.targets.tvm_cpu.standalone.sizes import Size, constant, variables

ALIGNMENT = 64  # bytes, of every buffer
STACK = 32 << 10  # bytes: the largest local buffer on the stack, and half of what a kernel takes there in all
_FOREIGN = re.compile(r"TVM|tvm_")


@dataclass(frozen=True)
class Kernel:
    """A primitive function with its C signature.

    `sizes`: the variables that are its int64 parameters. `extent`: iterations that may run in any order and on any
    thread, over `sizes`. `temporaries`: bytes of each, over `sizes`. `in_place` (attribute `edgecc.in_place`): parameters
    whose memory the first output may share; the author promises that an element is read before it is written, and never
    after. `work` (attribute `edgecc.work`): an estimate of the scalar operations of one call, None where unknown.
    """

    name: str
    function: Any  # tirx.PrimFunc over pointers
    sizes: tuple[Any, ...]
    extent: Size
    temporaries: tuple[Size, ...] = ()
    in_place: tuple[int, ...] = ()
    work: int | None = None


def lower_kernels(functions: Mapping[str, Any], target: Any, prefix: str) -> dict[str, Kernel]:
    """The kernel of each primitive function (tirx.PrimFunc) by name. `prefix`: what their C names start with."""
    import tvm

    split = {name: outermost_parallel(function) for name, function in functions.items()}
    module = tvm.IRModule({tvm.ir.GlobalVar(name): function for name, (function, _) in split.items()})
    module = tvm.ir.transform.Sequential(_passes(target))(module)
    lowered = {name.name_hint: function for name, function in module.functions_items()}
    kernels = {}
    for name in sorted(functions):
        symbol = prefix + re.sub(r"\W", "_", name)
        kernels[name] = _kernel(symbol, functions[name], lowered[name], split[name][1], target)
    if len({k.name for k in kernels.values()}) < len(kernels):
        raise InternalError(f"two kernels of one C name: {', '.join(sorted(k.name for k in kernels.values()))}")
    return kernels


def compile_kernels(kernels: Sequence[Kernel], target: Any, shared: frozenset[str], path: Path) -> None:
    """Write one object with these kernels; the same kernels give the same bytes.

    `shared`: C names of kernels that are called with an output in the memory of an input: they lose the promise that
    their pointers do not alias. Raises InternalError where a kernel would call TVM's runtime.
    """
    import tvm

    functions = {}
    for _, kernel in sorted({k.name: k for k in kernels}.items()):
        _require_plain(kernel)
        alone = kernel.name not in shared
        functions[tvm.ir.GlobalVar(kernel.name)] = kernel.function.with_attr("tirx.noalias", True) if alone else kernel.function
    tvm.get_global_func("target.build.llvm")(tvm.IRModule(functions), target).write_to_file(str(path), "o")


def _passes(target: Any) -> list[Any]:
    """TVM's own way from blocks to loops, vectors and flat buffers. Functions that are loops already pass most of it as they are."""
    from tvm import s_tir, tirx

    blocks, flat = s_tir.transform, tirx.transform
    return [
        flat.BindTarget(target.with_host(target)),
        blocks.CanonicalizeLoop(),
        blocks.LowerInitBlock(),
        blocks.PlanAndUpdateBufferAllocationLocation(),
        blocks.ConvertBlocksToOpaque(),
        blocks.LowerMatchBuffer(),
        blocks.StmtSimplify(),
        blocks.LowerOpaqueBlock(),
        flat.FlattenBuffer(),
        flat.BF16ComputeLegalize(),
        flat.NarrowDataType(32),
        blocks.LoopPartition(),
        flat.VectorizeLoop(True),
        flat.StorageRewrite(),
        blocks.HoistIfThenElse(),
        flat.UnrollLoop(),
        blocks.RenormalizeSplitPattern(),
        flat.StmtSimplify(),
        flat.RemoveNoOp(),
        blocks.RewriteUnsafeSelect(),
        flat.FP8ComputeLegalize(),
    ]


def _kernel(symbol: str, original: Any, lowered: Any, extent: Size, target: Any) -> Kernel:
    """The lowered function over pointers."""
    import tvm
    from tvm import tirx

    body, temporaries = _temporaries(lowered.body)
    if temporaries:  # they are one for each call, not one for each thread
        extent, body = 1, serial(body)
    pointers, declarations, scalars = [], [], []
    for param in lowered.params:
        if not hasattr(param.ty, "shape"):
            scalars.append(param)
            continue
        pointers.append(_pointer(param))
        for variable in variables(param.ty.elem_offset) if param.ty.elem_offset is not None else ():
            declarations.append(tirx.Bind(variable, tirx.IntImm(str(variable.ty.dtype), 0)))  # a pointer is to the first element
        declarations.append(tirx.DeclBuffer(param, data=pointers[-1]))
    sizes = _ordered([*scalars, *(v for p in original.params for d in getattr(p.ty, "shape", ()) for v in variables(d))])
    extra = []
    for buffer, _ in temporaries:
        extra.append(_pointer(buffer))
        declarations.append(tirx.DeclBuffer(buffer, data=extra[-1]))
    bounds = tirx.Var("begin", "int64"), tirx.Var("end", "int64")
    whole = tirx.SeqStmt([*declarations, body])
    function = tirx.PrimFunc([*pointers, *sizes, *extra, *bounds], whole, ret_type=tvm.ir.PrimType("int32"))
    function = function.with_attr("global_symbol", symbol).with_attr("target", target)
    passes = [tirx.transform.FP8StorageLegalize(), tirx.transform.BF16StorageLegalize(), tirx.transform.LowerIntrin()]
    with target:  # the vector mathematics asks for its architecture
        (function,) = tvm.ir.transform.Sequential(passes)(tvm.IRModule({tvm.ir.GlobalVar(symbol): function})).functions.values()
    begin, end = function.params[-2:]
    attributes = dict(original.attrs or {})
    return Kernel(
        symbol,
        function.with_body(without_lets(ranged(function.body, begin, end))),
        tuple(sizes),
        extent,
        tuple(bytes_ for _, bytes_ in temporaries),
        tuple(int(i) for i in attributes.get("edgecc.in_place", ())),
        int(attributes["edgecc.work"]) if "edgecc.work" in attributes else None,
    )


def _temporaries(body: Any) -> tuple[Any, list[tuple[Any, Size]]]:
    """The body with its small buffers on the stack and without the others, which are returned with their bytes.

    TVM turns a local buffer into a call of its runtime unless it is told not to.
    """
    import tvm
    import tvm_ffi
    from tvm import tirx

    hoisted: list[tuple[Any, Size]] = []
    stack = 0

    def place(statement: Any) -> Any:
        nonlocal stack
        buffer = statement.buffer
        lanes = tvm.DataType(str(buffer.ty.dtype))
        size = constant(math.prod([*buffer.ty.shape], start=tirx.IntImm("int64", lanes.itemsize)))
        if isinstance(size, int) and size <= STACK and stack + size <= 2 * STACK:
            stack += size
            marked = {**dict(statement.annotations or {}), "disable_lower_builtin": tirx.IntImm("bool", 1)}
            return tirx.AllocBuffer(buffer, annotations=marked)
        hoisted.append((buffer, size))
        return tirx.Evaluate(tirx.const(0, "int32"))

    return tvm_ffi.structural_map(body, (tirx.AllocBuffer, place)), hoisted


def _pointer(buffer: Any) -> Any:
    import tvm
    from tvm import tirx

    return tirx.Var(f"{buffer.name}_pointer", tvm.ir.PointerType(tvm.ir.PrimType(str(buffer.ty.dtype))))


def _ordered(variables: Sequence[Any]) -> list[Any]:
    """Without those that occurred before."""
    found: list[Any] = []
    for variable in variables:
        if not any(variable.same_as(other) for other in found):
            found.append(variable)
    return found


def _require_plain(kernel: Kernel) -> None:
    import tvm
    import tvm_ffi

    foreign: list[str] = []

    def see(call: Any) -> None:
        name = getattr(call.op, "name", getattr(call.op, "name_hint", ""))
        if name == "tirx.call_extern":
            name = str(call.args[0].value)
        if _FOREIGN.search(name.removeprefix("tirx.")):
            foreign.append(name)

    tvm_ffi.structural_walk(kernel.function.body, (tvm.ir.Call, see), order="post")
    if foreign:
        raise InternalError(f"the kernel {kernel.name} calls {foreign[0]}, which needs TVM's runtime")
