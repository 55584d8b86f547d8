"""Lets: values that an expression names become values on the stack, which LLVM keeps in registers.

TVM's code generator puts the value of every `Let` into those that use it to simplify them: the time doubles with each
use, and some three elementary functions of one another never end. It does not look into memory.
"""

from __future__ import annotations

from typing import Any


def without_lets(body: Any) -> Any:
    """The body of a function with a local buffer for each `Let` in the value of a store or of a variable.

    What is computed under a condition only, and what is no number, stays as it is.
    """
    import tvm_ffi
    from tvm import tirx

    def sequence(statements: Any) -> Any:
        """A variable is known to the statements after it, so what it needs comes into the same sequence."""
        flat = [part for s in statements.seq for part in (_bind(s) if isinstance(s, tirx.Bind) else [s])]
        return tirx.SeqStmt(flat) if len(flat) > len(statements.seq) else statements

    return tvm_ffi.structural_map(body, [(tirx.BufferStore, _store), (tirx.SeqStmt, sequence)], order="post")


def _store(store: Any) -> Any:
    from tvm import tirx

    before, value = _named(store.value)
    return tirx.SeqStmt([*before, tirx.BufferStore(store.buffer, value, list(store.indices))]) if before else store


def _bind(bind: Any) -> list[Any]:
    from tvm import tirx

    before, value = _named(bind.value)
    if not before and _conditional(value):  # as it is, but in memory, where nobody looks for it
        value = _place(bind, value, before)
    return [*before, tirx.Bind(bind.var, value)] if before else [bind]


def _named(value: Any) -> tuple[list[Any], Any]:
    """Statements that fill buffers with the values that the expression names, and the expression over them."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    if _conditional(value):
        return [], value
    before: list[Any] = []
    places: dict[Any, Any] = {}

    def named(value: Any) -> Any:
        return tvm_ffi.structural_map(value, (tirx.Let, body_of), order="pre")

    def body_of(let: Any) -> Any:
        """The outer values first: the inner ones use them."""
        while isinstance(let, tirx.Let) and not str(let.value.ty.dtype).startswith("bool"):
            if let.var not in places:
                place = _place(let, named(let.value), before)
                places[let.var] = place
            let = tvm_ffi.structural_map(let.body, (), (tvm.ir.Var, use))
        return let

    def use(variable: Any, defines: int) -> Any:
        """The same `Let` may stand in an operand again: there its variable is defined, not used."""
        return variable if int(defines) else places.get(variable, variable)

    value = named(value)
    return before, value


def _place(let: Any, value: Any, before: list[Any]) -> Any:
    """A load of the value of a `Let` from a buffer that the statements `before` fill."""
    import tvm
    from tvm import tirx

    of = tvm.DataType(str(value.ty.dtype))
    buffer = tirx.decl_buffer([tirx.IntImm("int32", of.lanes)], str(of).partition("x")[0], let.var.name, scope="local")
    zero = tirx.IntImm("int32", 0)
    index = zero if of.lanes == 1 else tirx.Ramp(zero, tirx.IntImm("int32", 1), of.lanes)
    before.append(tirx.AllocBuffer(buffer, annotations={"disable_lower_builtin": tirx.IntImm("bool", 1)}))
    before.append(tirx.BufferStore(buffer, value, [index]))
    return buffer[(index,)]


def _conditional(value: Any) -> bool:
    """Whether a `Let` stands under a condition."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    found: list[Any] = []

    def see(call: Any) -> None:
        if getattr(call.op, "name", "").endswith(".if_then_else"):
            tvm_ffi.structural_walk(call, (tirx.Let, found.append), order="post")

    tvm_ffi.structural_walk(value, (tvm.ir.Call, see), order="post")
    return bool(found)
