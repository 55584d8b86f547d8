"""Ranges: the loop of a kernel whose iterations may run on any thread.

It stays a parallel loop with its whole extent as long as passes run, so that they can prove what holds for each
iteration, and becomes a loop over `begin .. end` at last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgecc.targets.tvm_cpu.standalone.sizes import Size, constant


def outermost_parallel(function: Any) -> tuple[Any, Size]:
    """The function with at most one parallel loop, the outermost, and that loop's extent over the function's sizes.

    A loop that is not all that the function does becomes serial, and so does one in another. The extent of none is 1.
    """
    found = _outermost(function.body)
    extent = 1 if found is None else constant(_without_bindings(found.extent, function.body))
    kept = None if found is None else found.loop_var
    return function.with_body(
        _replace_parallel(function.body, lambda loop: loop if kept is not None and loop.loop_var.same_as(kept) else _serial(loop))
    ), extent


def serial(body: Any) -> Any:
    """The body with its parallel loop as it is, on one thread."""
    return _replace_parallel(body, _serial)


def ranged(body: Any, begin: Any, end: Any) -> Any:
    """The body with the iterations `begin .. end` (int64 variables) of its parallel loop."""
    from tvm import tirx

    def part(loop: Any) -> Any:
        of = str(loop.loop_var.ty.dtype)
        first, count = (tirx.Cast(of, b) if of != "int64" else b for b in (begin, end - begin))
        zero = isinstance(loop.min, tirx.IntImm) and int(loop.min) == 0
        return tirx.For(loop.loop_var, first if zero else loop.min + first, count, tirx.ForKind.SERIAL, loop.body)

    return _replace_parallel(body, part)


def _serial(loop: Any) -> Any:
    from tvm import tirx

    return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)


def _replace_parallel(body: Any, by: Callable[[Any], Any]) -> Any:
    import tvm_ffi
    from tvm import tirx

    return tvm_ffi.structural_map(body, (tirx.For, lambda loop: by(loop) if loop.kind == tirx.ForKind.PARALLEL else loop))


def _outermost(body: Any) -> Any:
    """The parallel loop that is all that a function does, besides declarations; None where there is none."""
    from tvm import tirx

    while isinstance(body, tirx.AttrStmt):
        body = body.body
    *before, last = body.seq if isinstance(body, tirx.SeqStmt) else [body]
    if not before and isinstance(last, (tirx.AttrStmt, tirx.SeqStmt)):
        return _outermost(last)
    declarations = all(isinstance(s, (tirx.Bind, tirx.DeclBuffer)) for s in before)
    return last if declarations and isinstance(last, tirx.For) and last.kind == tirx.ForKind.PARALLEL else None


def _without_bindings(expression: Any, body: Any) -> Any:
    """The expression with the values of the function's own scalar variables put in."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    values: dict[Any, Any] = {}
    tvm_ffi.structural_walk(body, (tirx.Bind, lambda s: values.update({s.var: s.value})), order="post")

    def value(variable: Any) -> Any:
        return _without_bindings(values[variable], body) if variable in values else variable

    return tvm_ffi.structural_map(expression, (tvm.ir.Var, value)) if values else expression
