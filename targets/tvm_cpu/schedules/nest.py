"""Nests: kernels with reductions as values of a row and elements that follow from them.

A row is one point of the row axes. In a row the results are computed one after another, each by a walk over its own
axes, and then the writes, which may walk over the inner axes. Softmax over the last axis of x [n, m]: the row axis n;
results max(x) and sum(exp(x - max)) with an axis of m; the write exp / sum with the inner axis of m.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import buffer_strides, size_of
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index
from edgecc.targets.tvm_cpu.schedules.stage import Axis, extent_of, replace, variables
from edgecc.targets.tvm_cpu.schedules.windows import Bound

Definition = tuple[Any, Expr]  # a variable and its value


@dataclass(frozen=True)
class Write:
    """`view[offset] = value`, after the definitions `before`, which depend on the row alone."""

    view: Buffer
    offset: Expr
    value: Expr
    before: tuple[Definition, ...] = ()


@dataclass(frozen=True)
class Result:
    """A reduction in a row; `value` stands for it in the expressions of what comes after.

    `term` is combined with what was found so far by `combine`; where that is None, it is the next value in terms of
    `itself`. Points of the axes outside of `bounds` are left out. `kept`: what is stored beside, because `term` and
    later expressions load it.
    """

    value: Any
    dtype: str
    axes: tuple[Axis, ...]
    start: Expr
    combine: str | None
    itself: Any
    term: Expr
    bounds: tuple[Bound, ...] = ()
    before: tuple[Definition, ...] = ()
    kept: Write | None = None

    def values(self) -> Iterator[Expr]:
        yield self.term
        yield from (e for _, e in self.before)
        if self.kept is not None:
            yield self.kept.value


@dataclass
class Views:
    """Every buffer of a kernel as one row of elements."""

    pairs: list[tuple[Buffer, Buffer, Expr]] = field(default_factory=list)

    def of(self, buffer: Buffer) -> Buffer:
        from tvm import tirx

        for known, view, _ in self.pairs:
            if known.same_as(buffer):
                return view
        size = index(size_of(buffer))
        view = tirx.decl_buffer([size], str(buffer.ty.dtype), f"{buffer.name}_flat", data=buffer.data)
        self.pairs.append((buffer, view, size))
        return view

    def declare(self, code: Code) -> None:
        from tvm import tirx

        for buffer, view, _ in self.pairs:
            code.add(tirx.DeclBuffer(view, data=buffer.data))

    def flatten(self, value: Expr) -> Expr:
        """The expression with loads from the views."""
        import tvm
        import tvm_ffi

        def load(node: Any) -> Any:
            if any(node.source.same_as(view) for _, view, _ in self.pairs):
                return node
            return self.of(node.source)[(offset(node.source, node.indices),)]

        return tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, load))


@dataclass(frozen=True)
class Nest:
    rows: tuple[Axis, ...]
    inner: tuple[Axis, ...]
    results: tuple[Result, ...]
    writes: tuple[Write, ...]
    views: Views

    def values(self) -> Iterator[Expr]:
        """Everything that is computed."""
        for result in self.results:
            yield from result.values()
        for write in self.writes:
            yield from (write.value, *(e for _, e in write.before))

    def places(self) -> Iterator[Expr]:
        """Where something is stored."""
        yield from (r.kept.offset for r in self.results if r.kept is not None)
        yield from (w.offset for w in self.writes)


def offset(buffer: Buffer, indices: Sequence[Expr]) -> Expr:
    """The place of an element in its buffer, in elements."""
    from tvm import sym

    place: Expr = index(0)
    for position, step in zip(indices, buffer_strides(buffer), strict=True):
        place = place + index(position) * step
    return sym.Analyzer().simplify(place)


def step(place: Expr, variable: Any) -> Any:
    """Elements from one value of the variable to the next: an int where it is static; None where it is not constant."""
    from tvm import sym

    if variable not in variables(place):
        return 0
    found = sym.detect_linear_equation(place, [variable])
    return extent_of(sym.Analyzer().simplify(found[0])) if found else None


# -- the same with other variables


def substituted(result: Result, by: Mapping[Any, Expr]) -> Result:
    return changed(
        result,
        term=replace(result.term, by),
        before=tuple((v, replace(e, by)) for v, e in result.before),
        bounds=tuple(changed(b, value=replace(b.value, by)) for b in result.bounds),
        kept=None if result.kept is None else moved(result.kept, by),
    )


def moved(write: Write, by: Mapping[Any, Expr]) -> Write:
    before = tuple((v, replace(e, by)) for v, e in write.before)
    return Write(write.view, replace(write.offset, by), replace(write.value, by), before)
