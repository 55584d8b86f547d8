"""One block of columns: vectors of sums in registers, and the walk over what is reduced around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any

from edgecc.targets.tvm_cpu.schedules.accumulate import accumulate, fill
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.invariant import computed, hoisted
from edgecc.targets.tvm_cpu.schedules.nest import Nest, Result, Write
from edgecc.targets.tvm_cpu.schedules.rows import is_costly
from edgecc.targets.tvm_cpu.schedules.stage import Axis, replace, variables
from edgecc.targets.tvm_cpu.schedules.windows import guarded, holds_throughout, run_of

_UNROLLED = 8  # taps of a window that are written one after another


@dataclass
class Block:
    """The code of `unroll` vectors of columns from `start` on. Each value is one buffer with an element for each column."""

    core: Core
    column: Axis
    code: Code
    nest: Nest
    place: dict[Any, Expr]
    start: Expr
    lanes: int
    unroll: int

    def write(self) -> None:
        self.values: list[tuple[Any, Buffer]] = []
        self.scalars: dict[Any, Expr] = dict(self.place)
        for result in self.nest.results:
            self._define(result.before)
            self._reduce(result)
        for write in self.nest.writes:
            self._define(write.before)
        inner = {a.var for a in self.nest.inner}
        self._store([w for w in self.nest.writes if not inner & variables(w.offset)], ())
        self._store([w for w in self.nest.writes if inner & variables(w.offset)], self.nest.inner)

    def _each(self, body: Callable[[Expr, dict[Any, Expr]], None]) -> None:
        """`body(place in the block, values there)` for every column of the block."""
        for i in range(self.unroll):
            with self.code.loop("l", self.lanes, "vector") as lane:
                at = index(i * self.lanes) + lane
                where = {**self.scalars, self.column.var: self.start + at}
                body(at, {**where, **{v: b[(at,)] for v, b in self.values}})

    def _local(self, dtype: str) -> Buffer:
        return self.code.local("columns", self.unroll * self.lanes, dtype)

    def _define(self, definitions: Sequence[tuple[Any, Expr]]) -> None:
        for variable, value in definitions:
            self._add(variable, value, self._local(str(variable.ty.dtype)))

    def _add(self, variable: Any, value: Expr, known: Buffer) -> None:
        self._each(lambda at, where: self.code.store(known, [at], replace(value, where)))
        self.values.append((variable, known))

    # -- results

    def _reduce(self, result: Result) -> None:
        code, sums, held = self.code, self._local(result.dtype), self._local(result.dtype)
        fill(code, sums, self.unroll, self.lanes, result.start)
        inner = {a.var for a in result.axes}
        result = changed(result, term=self._scalar(result.term, inner | {result.itself}))

        def step() -> None:
            def one(at: Expr, where: dict[Any, Expr]) -> None:
                if result.kept is not None:
                    code.store(result.kept.view, [replace(result.kept.offset, where)], replace(result.kept.value, where))
                term = replace(result.term, {**where, result.itself: sums[(at,)]})
                accumulate(code, result.combine, sums, at, term, (held, at), self.core)

            self._each(one)

        def walk(axis: Axis, rest: Sequence[Axis]) -> None:
            first, extent = run_of(code, axis, result.bounds, self._at_start())
            with code.loop("k", extent, start=first) as k:
                self.scalars[axis.var] = k
                nest(rest)

        def nest(axes: Sequence[Axis]) -> None:
            if not axes:
                step()
                return
            axis, *rest = axes
            if rest or not isinstance(axis.extent, int) or axis.extent > _UNROLLED or is_costly(result.term):
                walk(axis, rest)
                return
            self._branch(
                [replace(v, self._at_start()) >= 0 for v in holds_throughout(axis, result.bounds)],
                lambda: self._unrolled(axis, step),
                lambda: walk(axis, rest),
            )

        with guarded(code, result.bounds, self._at_start()):
            nest(result.axes)
        self.values.append((result.value, sums))

    def _at_start(self) -> dict[Any, Expr]:
        """Values for bounds: of one column, or the same for all."""
        return {**self.scalars, self.column.var: self.start}

    def _branch(self, conditions: Sequence[Expr], inside: Callable[[], None], across: Callable[[], None]) -> None:
        from tvm import tirx

        if not conditions:
            inside()
            return
        whole = self.code.bind("whole", tirx.all(*conditions))
        with self.code.when(whole):
            inside()
        with self.code.when(tirx.Not(whole)):
            across()

    def _unrolled(self, axis: Axis, step: Callable[[], None]) -> None:
        for k in range(axis.extent):
            self.scalars[axis.var] = index(k)
            step()

    # -- writes

    def _store(self, writes: Sequence[Write], axes: Sequence[Axis]) -> None:
        if not writes:
            return
        if axes:
            with self.code.loop("i", axes[0].extent) as i:
                self.scalars[axes[0].var] = i
                self._store(writes, axes[1:])
            return
        inner = {a.var for a in self.nest.inner}
        ready = [changed(w, value=self._scalar(w.value, inner)) for w in writes]

        def one(at: Expr, where: dict[Any, Expr]) -> None:
            for write in ready:
                self.code.store(write.view, [replace(write.offset, where)], replace(write.value, where))

        self._each(one)

    def _scalar(self, value: Expr, varying: set[Any]) -> Expr:
        """The expression with what is the same for all columns computed once."""
        known = {v for v, _ in self.values}
        value, before = hoisted(value, varying | known | {self.column.var}, frozenset())
        for variable, expression in before:
            self.scalars[variable] = computed(self.code, replace(expression, self.scalars))
        return value
