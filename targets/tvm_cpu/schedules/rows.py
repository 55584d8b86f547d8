"""Rows: reading a kernel with reductions as a nest over the rows of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as changed
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import equal
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Expr, index
from edgecc.targets.tvm_cpu.schedules.invariant import hoisted
from edgecc.targets.tvm_cpu.schedules.nest import Nest, Result, Views, Write, offset
from edgecc.targets.tvm_cpu.schedules.order import ordered
from edgecc.targets.tvm_cpu.schedules.stage import Axis, Kernel, Stage, loads, substitute, variables
from edgecc.targets.tvm_cpu.schedules.windows import inside

_COSTLY = frozenset("tirx." + n for n in ("exp", "erf", "gelu", "tanh", "sigmoid", "log", "log1p", "expm1", "pow", "sin", "cos"))


class NotRowsError(Exception):
    """The outputs are no rows over the reductions. `at`: where to split the kernel; None where its outputs differ."""

    def __init__(self, at: Buffer | None) -> None:
        super().__init__("rows of another kind")
        self.at = at


class _NotKeptError(Exception):
    """The elements of the stage to keep are not those of the output."""


def read_rows(kernel: Kernel) -> Nest:
    """The nest of a kernel. Raises NotRowsError."""
    for stage in reversed(kernel.stages):
        if (
            not stage.is_reduction
            and not kernel.is_output(stage.buffer)
            and len(kernel.readers(stage.buffer)) > 1
            and is_costly(stage.update)
        ):
            try:
                return _Reader(kernel, stage).nest()
            except _NotKeptError:
                break
    return _Reader(kernel, None).nest()


def is_costly(value: Expr) -> bool:
    """Whether an expression calls functions of many instructions."""
    import tvm
    import tvm_ffi

    names: list[str] = []
    tvm_ffi.structural_walk(value, (tvm.ir.Call, lambda call: names.append(getattr(call.op, "name", ""))), order="post")
    return any(n in _COSTLY or "extern" in n for n in names)


class _Reader:
    """`kept`: a stage whose elements are stored in the output once, and loaded from there."""

    def __init__(self, kernel: Kernel, kept: Stage | None) -> None:
        self.kernel, self.kept = kernel, kept
        self.views = Views()
        self.results: list[Result] = []
        self.places: list[tuple[Buffer, list[Expr]]] = []  # where each result is read, beside `results`
        self.moderate: set[Any] = set()
        self.position: list[Expr] = []

    def nest(self) -> Nest:
        stages = [self._stage(o) for o in self.kernel.outputs]
        main = max(stages, key=lambda s: sum(a.extent != 1 for a in s.axes))
        self.position = [a.var if a.extent != 1 else index(0) for a in main.axes]
        axes = [a for a in main.axes if a.extent != 1]
        alike = [s for s in stages if _same_sizes(s.axes, main.axes)]
        values = [(s.buffer, self.position, self._element(s.buffer, self.position)) for s in alike]
        rows, inner = self._divided(axes)
        for stage in stages:
            if stage not in alike:
                place = self._row_place(stage, rows)
                values.append((stage.buffer, place, self._element(stage.buffer, place)))
        self._require_rows(rows)
        if self.kept is not None and not any(r.kept for r in self.results):
            raise _NotKeptError
        results = [self._finished(r, rows) for r in self.results]
        writes = [self._write(*v, {a.var for a in inner}) for v in values]
        return ordered(Nest(tuple(rows), tuple(inner), tuple(results), tuple(writes), self.views))

    def _stage(self, buffer: Buffer) -> Stage:
        stage = self.kernel.stage_of(buffer)
        assert stage is not None, "an output that no stage makes"
        return stage

    def _divided(self, axes: Sequence[Axis]) -> tuple[list[Axis], list[Axis]]:
        """Rows are the axes that tell one result from another; of a kernel without results, all but the last."""
        if not self.results:
            return list(axes[:-1]), list(axes[-1:])
        used = {v for _, place in self.places for i in place for v in variables(i)}
        return [a for a in axes if a.var in used], [a for a in axes if a.var not in used]

    def _row_place(self, stage: Stage, rows: Sequence[Axis]) -> list[Expr]:
        """The position of a row in an output that has the sizes of the rows alone."""
        sizes = [a for a in stage.axes if a.extent != 1]
        if not _same_sizes(sizes, rows):
            raise NotRowsError(None)
        variable = iter(rows)
        return [next(variable).var if a.extent != 1 else index(0) for a in stage.axes]

    def _require_rows(self, rows: Sequence[Axis]) -> None:
        """A result that is the same in several rows would be computed for each of them."""
        from tvm import sym

        own = {a.var for a in rows}
        for buffer, place in self.places:
            used = [sorted(own & variables(i), key=lambda v: str(v.name)) for i in place]
            if {v for vs in used for v in vs} != own or any(
                vs and not sym.detect_linear_equation(i, vs) for i, vs in zip(place, used, strict=True)
            ):
                raise NotRowsError(buffer)

    # -- expressions

    def _element(self, buffer: Buffer, position: Sequence[Expr]) -> Expr:
        if self._stage(buffer).is_reduction:
            return self._settled(buffer[tuple(position)] if position else buffer[()], ())
        return self._settled(self.kernel.element(buffer, position, self._is_kept), ())

    def _is_kept(self, buffer: Buffer) -> bool:
        return self.kept is not None and buffer.same_as(self.kept.buffer)

    def _settled(self, value: Expr, axes: Sequence[Axis], itself: tuple[Buffer, Any] | None = None) -> Expr:
        """The expression with variables for results, and loads of the output for what is kept there."""
        import tvm
        import tvm_ffi

        refusals: list[NotRowsError | _NotKeptError] = []  # TVM would turn an exception in a callback into another

        def load(node: Any) -> Any:
            try:
                return put(node)
            except (NotRowsError, _NotKeptError) as refusal:
                refusals.append(refusal)
                return node

        def put(node: Any) -> Any:
            if itself is not None and node.source.same_as(itself[0]):
                return itself[1]
            if self._is_kept(node.source):
                return self._output_view()[(self._kept_offset(list(node.indices), axes),)]
            stage = self.kernel.stage_of(node.source)
            return node if stage is None or not stage.is_reduction else self._result(stage, list(node.indices), axes)

        settled = tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, load))
        if refusals:
            raise refusals[0]
        return settled

    def _result(self, stage: Stage, place: list[Expr], around: Sequence[Axis]) -> Any:
        """The variable that stands for a reduction at a place."""
        import tvm_ffi
        from tvm import tirx

        inner = {a.var for a in around}
        if any(inner & variables(i) for i in place):
            raise NotRowsError(stage.buffer)
        for result, (buffer, other) in zip(self.results, self.places, strict=True):
            if buffer.same_as(stage.buffer) and all(tvm_ffi.structural_equal(a, b) for a, b in zip(place, other, strict=True)):
                return result.value
        dtype = str(stage.buffer.ty.dtype)
        fresh = [Axis(tirx.Var(f"k{n}", "int64"), a.extent) for n, a in enumerate(stage.reduction)]
        indices = [*place, *(a.var if a.extent != 1 else index(0) for a in fresh)]
        axes = [a for a in fresh if a.extent != 1]
        itself = tirx.Var("itself", dtype)
        plain = substitute(stage.update if stage.combine is None else stage.term, (*stage.axes, *stage.reduction), indices)
        kept = self._kept_write(plain, axes)
        term = self._settled(self.kernel.inline(plain, self._is_kept), axes, (stage.buffer, itself))
        value = tirx.Var(stage.buffer.name, dtype)
        self.results.append(Result(value, dtype, tuple(axes), _start(stage), stage.combine, itself, term, kept=kept))
        self.places.append((stage.buffer, place))
        if stage.combine == "sum" and self._is_relative(self._settled(self.kernel.inline(plain), axes, (stage.buffer, itself))):
            self.moderate.add(value)
        return value

    def _is_relative(self, term: Expr) -> bool:
        """Whether a term is exp(x - m) with a maximum m."""
        import tvm
        from tvm import tirx

        largest = {r.value for r in self.results if r.combine == "max"}
        is_exp = isinstance(term, tvm.ir.Call) and getattr(term.op, "name", "") == "tirx.exp"
        return is_exp and isinstance(term.args[0], tirx.Sub) and bool(largest & variables(term.args[0].b))

    # -- what is kept in the output

    def _output_view(self) -> Buffer:
        return self.views.of(self.kernel.outputs[0])

    def _kept_offset(self, place: Sequence[Expr], axes: Sequence[Axis]) -> Expr:
        """Where an element of the kept stage lies in the output. Raises _NotKeptError where it has no place there."""
        output, kept = self.kernel.outputs[0], self.kept
        assert kept is not None, "a place of what is not kept"
        alike = len(self.kernel.outputs) == 1 and str(output.ty.dtype) == str(kept.buffer.ty.dtype)
        if not alike or not _same_sizes(kept.axes, self._stage(output).axes):
            raise _NotKeptError
        for own, found, axis in zip(self.position, place, kept.axes, strict=True):
            walked = any(found.same_as(a.var) and equal(a.extent, axis.extent) for a in axes)
            if axis.extent != 1 and not found.same_as(own) and not walked:
                raise _NotKeptError
        return offset(output, place)

    def _kept_write(self, plain: Expr, axes: Sequence[Axis]) -> Write | None:
        """What the first result that needs the kept stage stores."""
        value = self.kernel.inline(plain, self._is_kept)
        read = next((x for x in loads(value) if self._is_kept(x.source)), None)
        if self.kept is None or read is None or any(r.kept for r in self.results):
            return None
        place = list(read.indices)
        walked = [a for a in axes if any(i.same_as(a.var) for i in place)]
        if len(walked) != len(axes) or not all(self._is_kept_place(x, place) for x in loads(value) if self._is_kept(x.source)):
            raise _NotKeptError
        made = self.kernel.inline(substitute(self.kept.update, self.kept.axes, place))
        return Write(self._output_view(), self._kept_offset(place, axes), self._settled(made, axes))

    @staticmethod
    def _is_kept_place(load: Any, place: Sequence[Expr]) -> bool:
        return all(a.same_as(b) for a, b in zip(load.indices, place, strict=True))

    # -- the nest

    def _finished(self, result: Result, rows: Sequence[Axis]) -> Result:
        """The result with bounds for its conditions, flat loads, and what does not vary taken out."""
        term, bounds = inside(result.term, result.combine, result.axes, rows)
        varying = {a.var for a in result.axes} | {result.itself}
        term, before = hoisted(self.views.flatten(term), varying, self.moderate)
        kept = result.kept
        if kept is not None:
            value, more = hoisted(self.views.flatten(kept.value), varying, self.moderate)
            kept, before = Write(kept.view, kept.offset, value), before + more
        return changed(result, term=term, bounds=bounds, before=before, kept=kept)

    def _write(self, buffer: Buffer, place: Sequence[Expr], value: Expr, inner: set[Any]) -> Write:
        value, before = hoisted(self.views.flatten(value), inner, self.moderate) if inner else (self.views.flatten(value), ())
        return Write(self.views.of(buffer), offset(buffer, place), value, before)


def _start(stage: Stage) -> Expr:
    """What a reduction starts from; of a float's extreme the infinity, which TVM's smallest number is not."""
    from tvm import tirx

    dtype = str(stage.buffer.ty.dtype)
    if stage.combine in ("max", "min") and dtype.startswith("float"):
        return tirx.const(float("-inf") if stage.combine == "max" else float("inf"), dtype)
    return stage.init


def _same_sizes(a: Sequence[Axis], b: Sequence[Axis]) -> bool:
    return len(a) == len(b) and all(equal(x.extent, y.extent) for x, y in zip(a, b, strict=True))
