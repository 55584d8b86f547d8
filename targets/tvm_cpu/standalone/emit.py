"""Emit: a planned program as C: descriptions of its inputs and outputs, one function a kernel call, and the table of calls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgecc.targets.tvm_cpu.interface import Interface
from edgecc.targets.tvm_cpu.interface import Port as Named
from edgecc.targets.tvm_cpu.standalone.program import NotStandaloneError, Port, Program, Step, Tensor
from edgecc.targets.tvm_cpu.standalone.sizes import HELPERS, Size, bounds, c_text

_DTYPES = {
    "float32": "FLOAT32",
    "float64": "FLOAT64",
    "float16": "FLOAT16",
    "bfloat16": "BFLOAT16",
    "int8": "INT8",
    "uint8": "UINT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
}
_AFFINE = re.compile(r"(?:(\d+)\*)?[A-Za-z_]\w*([+-]\d+)?")

# Below these a barrier, about a microsecond, costs more than a second thread saves.
_SMALL_WORK = 20_000  # scalar operations
_SMALL_BYTES = 16 << 10  # of all tensors of a call whose work is unknown


def model_source(program: Program, arena: int, interface: Interface, symbol: str) -> str:
    """The C file. `arena`: its bytes; `symbol`: the name of the model, and the start of every other global name."""
    names = {name: f"v[{i}]" for i, name in enumerate(program.variables)}
    calls = [_call(number, step, symbol, names) for number, step in enumerate(program.steps)]
    copies = [_copy(len(calls) + i, output, source, symbol, names) for i, (output, source) in enumerate(program.copies)]
    table = [_row(number, step) for number, step in enumerate(program.steps)]
    table += [f"    {{step_{len(calls) + i}, 1, 1}}," for i in range(len(copies))]
    ports = [*zip(program.inputs, interface.inputs, strict=True)], [*zip(program.outputs, interface.outputs, strict=True)]
    return "\n".join(
        [
            '#include "edgecc_internal.h"',
            "#include <stdint.h>",
            "extern void *memcpy(void *, const void *, size_t);",
            "extern double ceil(double), floor(double), trunc(double), sqrt(double), pow(double, double);",
            HELPERS,
            f"extern const char {symbol}_weights[] EDGECC_HIDDEN;",
            *_prototypes(program.steps),
            "",
            *calls,
            *copies,
            *_ports("input", ports[0], program),
            *_ports("output", ports[1], program),
            "static const edgecc_step steps[] = {",
            *table,
            "    {0, 0, 0}};",
            *_variables(program, interface),
            *_extents(program.steps, names),
            *_sizes([*program.inputs, *program.outputs], names),
            f"EDGECC_API extern const edgecc_model {symbol};",
            f"const edgecc_model {symbol} = {{EDGECC_ABI, {len(program.inputs)}, {len(program.outputs)}, {len(table)}, {len(program.variables)},",
            f"    inputs, outputs, steps, variables, extent, size, {arena}u}};",
            "",
        ]
    )


def loaded_source(symbol: str) -> str:
    """The C file that is in the shared library only: which model it holds."""
    return (
        f'#include "edgecc_model.h"\nextern const edgecc_model {symbol};\n'
        f"const edgecc_model *edgecc_model_loaded(void) {{ return &{symbol}; }}\n"
    )


def _prototypes(steps: Sequence[Step]) -> list[str]:
    found = {}
    for step in steps:
        pointers = ["void *"] * len(step.buffers) + ["int64_t"] * len(step.sizes) + ["void *"] * len(step.temporaries)
        found[step.kernel.name] = f"extern int32_t {step.kernel.name}({', '.join([*pointers, 'int64_t', 'int64_t'])}) EDGECC_HIDDEN;"
    return [found[name] for name in sorted(found)]


def _call(number: int, step: Step, symbol: str, names: dict[str, str]) -> str:
    pointers = [_address(t, symbol) for t in step.buffers]
    arguments = [*pointers, *(c_text(s, names) for s in step.sizes), *(_address(t, symbol) for t in step.temporaries), "begin", "end"]
    return _function(number, f"{step.kernel.name}({', '.join(arguments)});")


def _copy(number: int, output: int, source: Tensor, symbol: str, names: dict[str, str]) -> str:
    return _function(number, f"memcpy(f->outputs[{output}], {_address(source, symbol)}, (size_t){c_text(source.bytes, names)});")


def _function(number: int, body: str) -> str:
    unused = "(void)v, (void)begin, (void)end;"
    head = f"static void step_{number}(const edgecc_frame *f, int64_t begin, int64_t end) {{"
    return f"{head}\n  const int64_t *v = f->sizes; {unused}\n  {body}\n}}"


def _address(tensor: Tensor, symbol: str) -> str:
    match tensor.kind:
        case "input":
            return f"f->inputs[{tensor.index}]"
        case "output":
            return f"f->outputs[{tensor.index}]"
        case "weight":
            return f"(void *)({symbol}_weights + {tensor.offset}u)"
    return f"f->arena + {tensor.offset}u"


def _row(number: int, step: Step) -> str:
    extent = step.extent if isinstance(step.extent, int) else -1
    tensors = {id(t): t.upper for t in step.buffers}
    small = sum(tensors.values()) < _SMALL_BYTES if step.kernel.work is None else step.kernel.work < _SMALL_WORK
    return f"    {{step_{number}, {extent}, {int(small)}}},"


def _ports(kind: str, ports: Sequence[tuple[Port, Named]], program: Program) -> list[str]:
    lines, rows = [], []
    for number, (port, named) in enumerate(ports):
        if port.dtype not in _DTYPES:
            raise NotStandaloneError(f"{named.name} is {port.dtype}, which the C interface does not have")
        limits = [bounds(size, program.variables) for size in port.shape]
        fixed = [size if isinstance(size, int) else -1 for size in port.shape]
        words = ["" if isinstance(size, int) else text for size, text in zip(port.shape, named.sizes, strict=True)]
        own = f"{kind}{number}"
        lines.append(f"static const int64_t {own}_dims[] = {{{_list(fixed)}}};")
        lines.append(f"static const int64_t {own}_lower[] = {{{_list(int(low) for low, _ in limits)}}};")
        lines.append(f"static const int64_t {own}_upper[] = {{{_list(int(high) for _, high in limits)}}};")
        lines.append(f"static const char *const {own}_symbols[] = {{{_list(map(_string, words))}}};")
        size = 1
        for _, high in limits:
            size *= int(high)
        each = f"{own}_dims, {own}_lower, {own}_upper, {own}_symbols"
        rows.append(f"    {{{_string(named.name)}, EDGECC_{_DTYPES[port.dtype]}, {len(fixed)}, {each}, {size * _width(port.dtype)}u}},")
    return [*lines, f"static const edgecc_port {kind}s[] = {{", *rows, "    {0}};"]


def _width(dtype: str) -> int:
    return 1 if dtype == "bool" else int(re.sub(r"\D", "", dtype)) // 8


def _variables(program: Program, interface: Interface) -> list[str]:
    rows = []
    for name in program.variables:
        found = [
            (number, axis)
            for number, port in enumerate(program.inputs)
            for axis, size in enumerate(port.shape)
            if type(size).__name__ == "Var" and size.name == name
        ]
        if not found:
            raise NotStandaloneError(f"no input has the size {name} alone")
        number, axis = found[0]
        affine = _AFFINE.fullmatch(interface.inputs[number].sizes[axis])
        scale, offset = (affine[1] or 1, affine[2] or 0) if affine else (1, 0)
        rows.append(f"    {{{number}, {axis}, {int(scale)}, {int(offset)}}},")
    return ["static const edgecc_variable variables[] = {", *rows, "    {0, 0, 1, 0}};"]


def _extents(steps: Sequence[Step], names: dict[str, str]) -> list[str]:
    dynamic = [(n, s.extent) for n, s in enumerate(steps) if not isinstance(s.extent, int)]
    cases = [f"  case {number}: return {c_text(extent, names)};" for number, extent in dynamic]
    return ["static int64_t extent(const int64_t *v, int32_t step) {", "  (void)v;", "  switch (step) {", *cases, "  }", "  return 1;", "}"]


def _sizes(ports: Sequence[Port], names: dict[str, str]) -> list[str]:
    dynamic: list[tuple[int, int, Size]] = [
        (p, a, size) for p, port in enumerate(ports) for a, size in enumerate(port.shape) if not isinstance(size, int)
    ]
    cases = [f"  case INT64_C({p}) << 32 | {a}: return {c_text(size, names)};" for p, a, size in dynamic]
    head = "static int64_t size(const int64_t *v, int32_t port, int32_t axis) {"
    return [head, "  (void)v;", "  switch ((int64_t)port << 32 | axis) {", *cases, "  }", "  return -1;", "}"]


def _list(values: Iterable[object]) -> str:
    """C has no empty arrays."""
    return ", ".join(map(str, values)) or "0"


def _string(text: str) -> str:
    escaped = "".join(c if c.isprintable() and c.isascii() and c not in '"\\?' else "".join(f"\\{b:03o}" for b in c.encode()) for c in text)
    return f'"{escaped}"'
