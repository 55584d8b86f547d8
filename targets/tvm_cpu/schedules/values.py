"""Values: what the elements of elementwise outputs are, where something that is needed twice is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import buffer_strides
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Expr, index
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, loads, replace, substitute


@dataclass(frozen=True)
class Values:
    """`results`: one value for each output. `shared`: variables that they use, in the order of computation.

    Loads are of parameters only. What is computed under a condition alone is not shared.
    """

    results: tuple[Expr, ...]
    shared: tuple[tuple[Any, Expr], ...]

    @property
    def expressions(self) -> list[Expr]:
        return [*(value for _, value in self.shared), *self.results]

    def mapped(self, change: Callable[[Expr], Expr]) -> Values:
        """These values with every expression changed."""
        return Values(tuple(map(change, self.results)), tuple((x, change(v)) for x, v in self.shared))

    def with_loads(self, loads: Sequence[Any], instead: Sequence[Expr]) -> Values:
        """These values with other expressions in place of some loads."""
        import tvm
        import tvm_ffi

        def put(load: Any) -> Any:
            return next((e for x, e in zip(loads, instead, strict=True) if _same(x, load)), load)

        return self.mapped(lambda value: tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, put))) if loads else self


def values_of(kernel: Kernel, outputs: Sequence[Buffer], place: Sequence[Expr], simplify: Callable[[Expr], Expr]) -> Values:
    """The values of one element of each output. `simplify` may know more of the place: it decides conditions."""
    graph = _Graph(kernel, simplify)
    results = [graph.element(output, place) for output in outputs]
    return _shared(graph.nodes, results)


class _Graph:
    """The elements of stages that a place needs, each once."""

    def __init__(self, kernel: Kernel, simplify: Callable[[Expr], Expr]) -> None:
        self.kernel, self.simplify = kernel, simplify
        self.nodes: list[tuple[Any, Expr]] = []
        self._known: list[tuple[Buffer, list[Expr], Any]] = []

    def element(self, buffer: Buffer, place: Sequence[Expr]) -> Expr:
        import tvm
        import tvm_ffi

        stage = self.kernel.stage_of(buffer)
        assert stage is not None and not stage.is_reduction
        value = self.decide(substitute(stage.update, stage.axes, place))
        return tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, self._load))

    def decide(self, value: Expr) -> Expr:
        """The value without the conditions whose result is known at this place."""
        import tvm
        import tvm_ffi
        from tvm import tirx

        def choose(condition: Expr, a: Expr, b: Expr, node: Expr) -> Expr:
            if list(loads(condition)):
                return node
            known = self.simplify(condition)
            if isinstance(known, tirx.IntImm):
                return a if int(known) else b
            return node

        def call(node: Any) -> Any:
            return choose(node.args[0], node.args[1], node.args[2], node) if is_condition(node) else node

        def select(node: Any) -> Any:
            return choose(node.condition, node.true_value, node.false_value, node)

        return tvm_ffi.structural_map(value, [(tvm.ir.Call, call), (tirx.Select, select)])

    def _load(self, load: Any) -> Any:
        from tvm import tirx

        stage = self.kernel.stage_of(load.source)
        place = [self.simplify(i) for i in load.indices]
        if stage is None or stage.is_reduction:
            return _flattened(load.source, place, self.simplify)
        for buffer, known, variable in self._known:
            if buffer.same_as(load.source) and all(_same(a, b) for a, b in zip(known, place, strict=True)):
                return variable
        value = self.element(load.source, place)
        variable = tirx.Var(load.source.name, str(load.source.ty.dtype))
        self.nodes.append((variable, value))
        self._known.append((load.source, place, variable))
        return variable


def _flattened(buffer: Buffer, place: Sequence[Expr], simplify: Callable[[Expr], Expr]) -> Expr:
    """A load; one that is at quotients and remainders of what is one number in memory is at that number."""
    from tvm import sym

    if not any(map(_divides, place)) or any(list(loads(i)) for i in place):
        return buffer[tuple(place)] if place else buffer[()]
    offset: Expr = index(0)
    for position, step in zip(place, buffer_strides(buffer), strict=True):
        offset = offset + position * step
    offset = sym.Analyzer().simplify(simplify(offset))
    if _divides(offset):
        return buffer[tuple(place)]
    at = [*[index(0)] * (len(place) - 1), offset]
    return buffer[tuple(at)]


def _divides(value: Expr) -> bool:
    import tvm_ffi
    from tvm import tirx

    found: list[Any] = []
    tvm_ffi.structural_walk(value, ((tirx.FloorDiv, tirx.FloorMod), found.append))
    return bool(found)


def _shared(nodes: Sequence[tuple[Any, Expr]], results: Sequence[Expr]) -> Values:
    """Put nodes in where they are used once, or under a condition only."""
    values = list(results)
    shared: list[tuple[Any, Expr]] = []
    for variable, value in reversed(nodes):
        uses = [_uses(v, variable) for v in values]
        total, always = sum(u[0] for u in uses), sum(u[1] for u in uses)
        if total == 0:
            continue
        if total > 1 and always:
            shared.insert(0, (variable, value))
            values.append(value)
            continue
        by = {variable: value}
        values = [replace(v, by) if u[0] else v for v, u in zip(values, uses, strict=True)]
        names = [name for name, _ in reversed(shared)]
        shared = list(zip(reversed(names), reversed(values[len(results) :]), strict=True))
    return Values(tuple(values[: len(results)]), tuple(shared))


def _uses(value: Expr, variable: Any) -> tuple[int, int]:
    """How often a value has a variable, and how often not under a condition."""
    import tvm
    import tvm_ffi

    counts = [0, 0]

    def count(at: int) -> Callable[[Any], None]:
        def see(v: Any) -> None:
            counts[at] += bool(v.same_as(variable))

        return see

    def skip(call: Any) -> Any:
        if not is_condition(call):
            return None
        tvm_ffi.structural_walk(call.args[0], [(tvm.ir.Call, skip), (tvm.ir.Var, count(1))], order="pre")
        return tvm_ffi.WalkResult.SKIP

    tvm_ffi.structural_walk(value, (tvm.ir.Var, count(0)))
    tvm_ffi.structural_walk(value, [(tvm.ir.Call, skip), (tvm.ir.Var, count(1))], order="pre")
    return counts[0], counts[1]


def is_condition(call: Any) -> bool:
    """Whether a call is `if_then_else`, which computes the value that it takes alone."""
    return str(getattr(call.op, "name", "")).endswith(".if_then_else")


def conditions(value: Expr) -> list[Expr]:
    """The conditions of every `if_then_else`, and of every selection by position."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    found: list[Expr] = []

    def see(call: Any) -> None:
        if is_condition(call):
            found.append(call.args[0])

    tvm_ffi.structural_walk(value, [(tvm.ir.Call, see), (tirx.Select, lambda s: found.append(s.condition))])
    return found


def _same(a: Expr, b: Expr) -> bool:
    import tvm_ffi

    return bool(tvm_ffi.structural_equal(a, b))
