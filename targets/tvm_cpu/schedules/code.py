"""Code: loop nests under construction, as the generators of kernels write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Expr = Any  # tvm.ir.Expr, or a Python number where TVM takes one
Buffer = Any  # tvm.ir.Var of a buffer type
Stmt = Any  # tvm.tirx.Stmt

INDEX = "int64"


def index(value: Expr) -> Expr:
    """A number as TVM's index type; an expression as it is."""
    from tvm import tirx

    return tirx.const(value, INDEX) if isinstance(value, int) else value


class Code:
    """Statements in the order of the calls. Loops and conditions are `with` blocks."""

    def __init__(self) -> None:
        self._blocks: list[list[Stmt]] = [[]]

    def add(self, statement: Stmt) -> None:
        self._blocks[-1].append(statement)

    def statement(self) -> Stmt:
        """Everything so far as one statement."""
        return _sequence(self._blocks[0])

    # -- statements

    def store(self, buffer: Buffer, indices: Sequence[Expr], value: Expr) -> None:
        from tvm import tirx

        self.add(tirx.BufferStore(buffer, value, [_position(i) for i in indices]))

    def bind(self, name: str, value: Expr) -> Expr:
        """A value that is computed here, once."""
        from tvm import tirx

        if isinstance(value, (int, tirx.IntImm)):
            return index(int(value))
        variable = tirx.Var(name, value.ty.dtype if hasattr(value, "ty") else INDEX)
        self.add(tirx.Bind(variable, value))
        return variable

    def local(self, name: str, size: int, dtype: str) -> Buffer:
        """`size` elements on the stack; LLVM keeps them in registers where every index is a constant."""
        from tvm import tirx

        buffer = tirx.decl_buffer([index(size)], dtype, name, scope="local")
        self.add(tirx.AllocBuffer(buffer))
        return buffer

    def flat(self, buffer: Buffer, size: Expr) -> Buffer:
        """The same memory as one row of `size` elements."""
        from tvm import tirx

        view = tirx.decl_buffer([index(size)], str(buffer.ty.dtype), f"{buffer.name}_flat", data=buffer.data)
        self.add(tirx.DeclBuffer(view, data=buffer.data))
        return view

    # -- blocks

    @contextmanager
    def loop(self, name: str, extent: Expr, kind: str = "serial", start: Expr = 0) -> Iterator[Expr]:
        """A loop over `start .. start + extent`; of one iteration it is its body, of none it is nothing."""
        from tvm import tirx

        count = int(extent) if isinstance(extent, (int, tirx.IntImm)) else None
        if count == 1 and kind != "parallel":
            yield index(start)
            return
        variable = tirx.Var(name, INDEX)
        self._blocks.append([])
        yield variable
        body = self._blocks.pop()
        if count == 0 or not body:
            return
        kinds = {
            "serial": tirx.ForKind.SERIAL,
            "vector": tirx.ForKind.VECTORIZED,
            "unroll": tirx.ForKind.UNROLLED,
            "parallel": tirx.ForKind.PARALLEL,
        }
        self.add(tirx.For(variable, index(start), index(extent), kinds[kind], _sequence(body)))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        from tvm import tirx

        self._blocks.append([])
        yield
        body = self._blocks.pop()
        if body:
            self.add(tirx.IfThenElse(condition, _sequence(body), None))


def vector(base: Expr, lanes: int, stride: int = 1) -> Expr:
    """The index of `lanes` elements from `base` on."""
    from tvm import tirx

    return index(base) if lanes == 1 else tirx.Ramp(index(base), index(stride), lanes)


def splat(value: Expr, lanes: int) -> Expr:
    """One value in every lane."""
    from tvm import tirx

    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def _position(value: Expr) -> Expr:
    return index(value)


def _sequence(statements: Sequence[Stmt]) -> Stmt:
    from tvm import tirx

    if len(statements) == 1:
        return statements[0]
    return tirx.SeqStmt(list(statements)) if statements else tirx.Evaluate(tirx.const(0, "int32"))
