"""The rule for tables of 256 bytes: each element of the output is the entry that an element of the input names.

Where the CPU permutes bytes by the bytes of a register the whole table stays in registers: TBL and TBX of AArch64 take 64
entries at once, VPERMI2B of AVX-512 VBMI takes 128. Elsewhere the rule for elementwise functions loads each entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgecc.targets.tvm_cpu.schedules.access import size_of
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, splat, vector
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.plan import Operand, Packed, Param, Plan, Step, kernel_function
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, Stage, shape

_ENTRIES = 256
_TASKS = 16
_BYTES = ("int8", "uint8")


def lookup(kernel: Kernel, core: Core, constants: frozenset[int]) -> Plan | None:
    """The plan of a function that looks up every element of its input in a constant table; None for any other function."""
    found = _match(kernel, constants)
    permute = _tbl if core.arch == "aarch64" else _vpermi2b if core.permutes else None
    if found is None or permute is None:
        return None
    codes, table, output = found
    size = size_of(output)
    if not isinstance(size, int):
        return None
    width = 16 if core.arch == "aarch64" else 64
    code = Code()
    whole = size // width
    share = -(-whole // _TASKS)
    with code.loop("task", _TASKS, "parallel") as task:
        flat, out, entries = (code.flat(b, size_of(b)) for b in (codes, output, table))
        entry_of = permute(code, entries)
        first = code.bind("first", task * share)
        with code.loop("i", code.bind("count", _within(share, whole - first))) as i:
            place = vector((first + i) * width, width)
            code.store(out, [place], entry_of(flat[place], str(output.ty.dtype)))
        with code.when(task == _TASKS - 1), code.loop("i", size - whole * width) as i:
            at = whole * width + i
            code.store(out, [at], entries[_as_index(flat[at])])
    number = {p: i for i, p in enumerate(kernel.params)}
    reads: list[Operand] = [Param(number[codes]), Packed(number[table], _by_bytes(str(codes.ty.dtype)))]
    function = kernel_function([codes, table, output], kernel.sizes, code)
    same = str(codes.ty.dtype) == str(output.ty.dtype)
    return Plan("lookup in registers", [Step(kernel.name, reads, kernel.outputs, function, [0], [0] if same else [])])


def _match(kernel: Kernel, constants: frozenset[int]) -> tuple[Buffer, Buffer, Buffer] | None:
    """The codes, the table and the output."""
    import tvm

    if len(kernel.stages) != 1 or len(kernel.params) != 3 or kernel.stages[0].is_reduction:
        return None
    (stage,) = kernel.stages
    entry = stage.update
    if not isinstance(entry, tvm.ir.TensorLoad) or shape(entry.source) != [_ENTRIES] or str(entry.ty.dtype) not in _BYTES:
        return None
    load = _code(entry.indices[0])
    if load is None or not _at_axes(load, stage):
        return None
    held = any(kernel.params[i].same_as(entry.source) for i in constants)
    return (load.source, entry.source, stage.buffer) if held else None


def _code(position: Expr) -> Any | None:
    """The load of a code in `int64(code) - smallest`."""
    import tvm
    from tvm import tirx

    low = 0
    if isinstance(position, (tirx.Sub, tirx.Add)) and isinstance(position.b, tirx.IntImm):
        low = int(position.b) if isinstance(position, tirx.Sub) else -int(position.b)
        position = position.a
    load = position.value if isinstance(position, tirx.Cast) else None
    if not isinstance(load, tvm.ir.TensorLoad) or str(load.ty.dtype) not in _BYTES:
        return None
    return load if low == (-128 if str(load.ty.dtype) == "int8" else 0) else None


def _at_axes(load: Any, stage: Stage) -> bool:
    same = len(load.indices) == len(stage.axes) and shape(load.source) == [a.extent for a in stage.axes]
    return same and all(a.extent == 1 or i.same_as(a.var) for i, a in zip(load.indices, stage.axes, strict=True))


def _by_bytes(dtype: str) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """The table in the order of the codes as unsigned bytes."""
    return lambda table: np.roll(table, 128) if dtype == "int8" else table


EntryOf = Callable[[Expr, str], Expr]


def _tbl(code: Code, entries: Buffer) -> EntryOf:
    held = [code.bind("t", _bytes(entries[vector(k * 16, 16)], 16)) for k in range(16)]

    def entry_of(codes: Expr, dtype: str) -> Expr:
        x = code.bind("x", _bytes(codes, 16))
        result = _call("int8x16", "llvm.aarch64.neon.tbl4.v16i8", *held[:4], x)
        for k in range(1, 4):
            moved = x - splat(_const(64 * k - (256 if k > 1 else 0)), 16)
            result = _call("int8x16", "llvm.aarch64.neon.tbx4.v16i8", code.bind("r", result), *held[4 * k : 4 * k + 4], moved)
        return _reinterpret(f"{dtype}x16", result)

    return entry_of


def _vpermi2b(code: Code, entries: Buffer) -> EntryOf:
    from tvm import tirx

    held = [code.bind("t", _bytes(entries[vector(k * 64, 64)], 64)) for k in range(4)]
    name = "llvm.x86.avx512.vpermi2var.qi.512"

    def entry_of(codes: Expr, dtype: str) -> Expr:
        x = code.bind("x", _bytes(codes, 64))
        low, high = (_call("int8x64", name, held[k], x, held[k + 1]) for k in (0, 2))
        return _reinterpret(f"{dtype}x64", tirx.Select(x >= splat(_const(0), 64), low, high))

    return entry_of


def _as_index(code: Expr) -> Expr:
    """A code as an unsigned byte, widened."""
    from tvm import tirx

    return tirx.Cast("int64", tirx.reinterpret("uint8", code))


def _bytes(value: Expr, lanes: int) -> Expr:
    return _reinterpret(f"int8x{lanes}", value)


def _reinterpret(dtype: str, value: Expr) -> Expr:
    from tvm import tirx

    return value if str(value.ty.dtype) == dtype else tirx.reinterpret(dtype, value)


def _const(value: int) -> Expr:
    from tvm import tirx

    return tirx.const(value, "int8")


def _call(dtype: str, name: str, *operands: Expr) -> Expr:
    from tvm import tirx

    return tirx.call_llvm_pure_intrin(dtype, name, *operands)


def _within(share: int, left: Expr) -> Expr:
    """How many of a share are left, at least 0."""
    from tvm import tirx

    return tirx.max(tirx.min(index(share), left), index(0))
