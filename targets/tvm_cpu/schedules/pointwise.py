"""Functions without reductions: elementwise arithmetic, copies, layouts, concatenation, padding, gathers.

Each output is divided into regions where no condition on positions is left, each region is walked in the order of its
memory, and the elements of a row are vectors. Threads share every region alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import equal
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.partition import piece, plan_pieces
from edgecc.targets.tvm_cpu.schedules.plan import Plan, single
from edgecc.targets.tvm_cpu.schedules.region import Region, regions
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, replace, shape
from edgecc.targets.tvm_cpu.schedules.temporaries import temporaries
from edgecc.targets.tvm_cpu.schedules.transpose import transposes
from edgecc.targets.tvm_cpu.schedules.walk import Axis, Walk

_SMALL = 1 << 14  # elements that are not worth a second thread
_TASKS = 16


def pointwise(kernel: Kernel, core: Core, constants: frozenset[int]) -> Plan | None:
    """The plan of a function without reductions; None where there is one. `constants` make no difference."""
    if any(s.is_reduction for s in kernel.stages):
        return None
    groups = [*([b] for b in temporaries(kernel)), *_alike(kernel.outputs)]
    if len(groups) == 1:
        return _plan(kernel, core)
    made: list[Buffer] = []
    pieces = []
    for number, group in enumerate(groups):
        pieces.append(piece(kernel, group, list(made), kernel.name if number == len(groups) - 1 else f"{kernel.name}_{group[0].name}"))
        made += group
    return plan_pieces(kernel, pieces, lambda part: _plan(part, core))


def _alike(outputs: Sequence[Buffer]) -> list[list[Buffer]]:
    """Outputs by shape."""
    groups: list[list[Buffer]] = []
    for output in outputs:
        mine = next((g for g in groups if _same_shape(g[0], output)), None)
        if mine is None:
            groups.append([output])
        else:
            mine.append(output)
    return groups


def _same_shape(a: Buffer, b: Buffer) -> bool:
    return len(a.ty.shape) == len(b.ty.shape) and all(equal(x, y) for x, y in zip(shape(a), shape(b), strict=True))


def _plan(kernel: Kernel, core: Core) -> Plan:
    from edgecc.targets.tvm_cpu.vector_math.extremes import select_to_max

    parts = regions(kernel, kernel.outputs)
    walks = [Walk(Region(r.space, r.values.mapped(lambda v: select_to_max(v, core.arch))), kernel.outputs) for r in parts]
    code = Code()
    total = 1
    for size in shape(kernel.outputs[0]):
        total = total * size
    if isinstance(total, int) and total < _SMALL:
        for walk in walks:
            _Loops(code, walk, core, 1, None).write()
    else:
        with code.loop("task", _TASKS, "parallel") as task:
            for walk in walks:
                _Loops(code, walk, core, _TASKS, task).write()
    own = [
        number
        for number, p in enumerate(kernel.params)
        if not kernel.is_output(p)
        and len(kernel.outputs) == 1
        and str(p.ty.dtype) == str(kernel.outputs[0].ty.dtype)
        and _same_shape(p, kernel.outputs[0])
        and all(w.in_place(p) for w in walks)
    ]
    return single(f"pointwise {len(walks)} region{'s' * (len(walks) > 1)}", kernel, code, own)


class _Loops:
    """The loops over one region, of which a task has its share along one axis."""

    def __init__(self, code: Code, walk: Walk, core: Core, tasks: int, task: Expr | None) -> None:
        self.code, self.walk, self.tasks, self.task = code, walk, tasks, task
        self.width = core.lanes * 4
        self.axes = walk.axes
        self.shared = _shared_axis(self.axes, tasks) if task is not None else -1

    def write(self) -> None:
        if not self.axes:
            self._last(lambda: self.walk.emit(self.code, {}))
            return
        blocks = transposes(self.walk)
        if blocks is not None:
            outer = [a for a in self.axes if a is not blocks.rows and a is not blocks.columns]
            shared = self.axes[self.shared] if self.shared >= 0 else None
            self._outer(outer, {}, lambda where: blocks.write(self.code, where, shared, self._share, self._last))
            return
        self._outer(self.axes[:-1], {}, self._row)

    def _outer(self, axes: Sequence[Axis], where: dict[Any, Expr], body: Callable[[dict[Any, Expr]], None]) -> None:
        if not axes:
            body(where)
            return
        start, count = self._share(axes[0], axes[0].extent)
        with self.code.loop("i", count, start=start) as i:
            self._outer(axes[1:], {**where, **axes[0].where(i)}, body)

    def _share(self, axis: Axis, count: Expr) -> tuple[Expr, Expr]:
        """Start and count of a task's share of `count` steps along an axis."""
        from tvm import tirx

        if self.task is None or self.shared < 0 or axis is not self.axes[self.shared]:
            return 0, count
        each = -(-count // self.tasks) if isinstance(count, int) else tirx.floordiv(count + (self.tasks - 1), index(self.tasks))
        start = self.code.bind("start", self.task * each)
        return start, self.code.bind("count", tirx.max(tirx.min(index(each), index(count) - start), index(0)))

    def _last(self, body: Callable[[], None]) -> None:
        """What is done once: by the last task."""
        if self.task is None:
            body()
            return
        with self.code.when(self.task == self.tasks - 1):
            body()

    def _row(self, where: dict[Any, Expr]) -> None:
        """The innermost axis."""
        from tvm import tirx

        code, axis, walk = self.code, self.axes[-1], self.walk
        found = walk.gathers(axis)
        values = walk.region.values.with_loads(found, [code.bind("at", replace(x, where)) for x in found])
        mine = self.task is not None and self.shared == len(self.axes) - 1

        def elements(start: Expr, lanes: int) -> None:
            walk.emit_vector(code, lambda v: {**where, **axis.where(start + v)}, lanes, values)

        lanes = walk.lanes(self.width) if walk.vectorizes(axis) else 1
        if lanes == 1:
            start, count = self._share(axis, axis.extent)
            with code.loop("i", count, start=start) as i:
                walk.emit(code, {**where, **axis.where(i)}, values)
            return
        done: Expr = 0
        for size in (lanes * walk.at_once(), lanes):
            left = axis.extent - done
            steps = left // size if isinstance(left, int) else tirx.floordiv(left, index(size))
            start, count = self._share(axis, steps) if isinstance(done, int) and done == 0 else (0, steps)
            if isinstance(steps, int) and steps == 0:
                continue

            def vectors(done: Expr = done, size: int = size, start: Expr = start, count: Expr = count) -> None:
                with code.loop("i", count, start=start) as i:
                    elements(done + i * size, size)

            if mine and not (isinstance(done, int) and done == 0):
                self._last(vectors)
            else:
                vectors()
            done = done + steps * size

        def rest() -> None:
            left = axis.extent - done
            if not isinstance(left, int):
                with code.loop("i", left, start=done) as i:
                    walk.emit(code, {**where, **axis.where(i)}, values)
                return
            at = done
            while left:
                size = 1 << (left.bit_length() - 1)
                elements(at, size)
                at, left = at + size, left - size

        if mine:
            self._last(rest)
        else:
            rest()


def _shared_axis(axes: Sequence[Axis], tasks: int) -> int:
    """The axis that tasks divide: the first of enough positions, else the longest; of unknown ones the first."""
    sizes = [a.extent if isinstance(a.extent, int) else 2 * tasks for a in axes]
    enough = [n for n, s in enumerate(sizes) if s >= tasks]
    return enough[0] if enough else max(range(len(sizes)), key=lambda n: sizes[n], default=-1)
