"""Depthwise convolutions: what makes a fused function one, and where its operands are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Expr, index
from edgecc.targets.tvm_cpu.schedules.contraction import narrow
from edgecc.targets.tvm_cpu.schedules.epilogue import Epilogue, epilogue_of
from edgecc.targets.tvm_cpu.schedules.stage import Axis, Kernel, Stage, extent_of, replace, variables


@dataclass(frozen=True)
class Window:
    """One axis of the output, and the input positions that it reads: `axis * stride + tap * dilation + offset`.

    `taps`: the reduction axis, None where the window is one element. `dim`: the input's dimension, None for an axis of
    one element that the input lacks. A position outside of `low .. high` is padding; None: every position is inside.
    """

    axis: Axis
    taps: Axis | None
    stride: int
    dilation: int
    offset: Expr
    dim: int | None
    low: Expr | None = None
    high: Expr | None = None

    @property
    def count(self) -> int:
        """Taps."""
        return int(self.taps.extent) if self.taps else 1

    @property
    def bounded(self) -> bool:
        """Whether a position may be padding."""
        return self.low is not None or self.high is not None

    def position(self, at: Expr, tap: Expr) -> Expr:
        return at * self.stride + tap * self.dilation + self.offset


@dataclass(frozen=True)
class Depthwise:
    """`out[.., c] = epilogue(sum over taps of data[window.., c // multiplier] * weight[taps.., c])`.

    `windows`: one for each output axis but the channels. `pad`: the stage that pads, where `inside` is the value of an
    element that is not padding, in the axes of `pad`.
    """

    kernel: Kernel
    stage: Stage
    epilogue: Epilogue
    windows: tuple[Window, ...]
    channels: Axis
    multiplier: int
    data: Any
    weight: Any
    pad: Stage | None
    inside: Expr | None

    @property
    def dtype(self) -> str:
        return str(self.stage.buffer.ty.dtype)

    @property
    def factors(self) -> str:
        """The dtype of what is multiplied: of the sums, or a shorter integer."""
        return str(self.weight.source.ty.dtype)

    def element(self, positions: Sequence[Expr], channel: Expr) -> Expr:
        """An input element that is not padding. `positions`: along each window."""
        at = {w.dim: p for w, p in zip(self.windows, positions, strict=True)}
        indices = [at.get(d, channel) for d in range(len(self.data.indices))]
        if self.pad is None:
            return self.kernel.element(self.data.source, indices)
        return self.kernel.inline(replace(self.inside, {a.var: i for a, i in zip(self.pad.axes, indices, strict=True)}))

    def factor(self, taps: Sequence[Expr], channel: Expr) -> Expr:
        """A weight, read where the function has it. `taps`: along each window."""
        return self.kernel.inline(replace(self.weight, self.factor_at(taps, channel)))

    def factor_at(self, taps: Sequence[Expr], channel: Expr) -> dict[Any, Expr]:
        at: dict[Any, Expr] = {w.taps.var: t for w, t in zip(self.windows, taps, strict=True) if w.taps}
        return {**{a.var: 0 for a in self.stage.reduction}, **at, self.channels.var: channel}


def match(kernel: Kernel) -> Depthwise | None:
    """The depthwise convolution that a function is, channels last; None where it is not one."""
    import tvm
    from tvm import tirx

    reductions = [s for s in kernel.stages if s.is_reduction]
    if len(reductions) != 1:
        return None
    stage = reductions[0]
    if stage.combine != "sum" or len(stage.axes) < 2 or not isinstance(stage.term, tirx.Mul) or not _is_zero(stage.init):
        return None
    channels = stage.axes[-1]
    if channels.extent == 1 or not isinstance(channels.extent, int):
        return None
    short = str(stage.buffer.ty.dtype) == "int32"
    loads = [_without(stage, narrow(x) if short else x) for x in (stage.term.a, stage.term.b)]
    if not all(isinstance(x, tvm.ir.TensorLoad) and _uses(x, channels.var) for x in loads):
        return None
    spatial = [a.var for a in stage.axes[:-1]]
    weights = [x for x in loads if not any(_uses(x, v) for v in spatial)]
    if len(weights) != 1:
        return None
    weight = weights[0]
    data = loads[0] if loads[1] is weight else loads[1]
    found = _windows(stage, data)
    epilogue = epilogue_of(kernel, stage, channels.var)
    if found is None or epilogue is None:
        return None
    windows, multiplier = found
    pad = kernel.stage_of(data.source)
    bounds = _bounds(pad) if pad is not None else None
    if pad is None or bounds is None:
        return Depthwise(kernel, stage, epilogue, windows, channels, multiplier, data, weight, None, None)
    limits, inside = bounds
    if any(d not in [w.dim for w in windows] for d in limits):
        return None
    windows = tuple(Window(w.axis, w.taps, w.stride, w.dilation, w.offset, w.dim, *limits.get(w.dim, (None, None))) for w in windows)
    return Depthwise(kernel, stage, epilogue, windows, channels, multiplier, data, weight, pad, inside)


def _without(stage: Stage, load: Any) -> Any:
    """A load with every reduction axis of one element at 0."""
    return replace(load, {a.var: 0 for a in stage.reduction if a.extent == 1})


def _uses(load: Any, variable: Any) -> bool:
    return any(v.same_as(variable) for i in load.indices for v in variables(i))


def _is_zero(value: Any) -> bool:
    return float(getattr(value, "value", 1)) == 0.0


def _windows(stage: Stage, data: Any) -> tuple[tuple[Window, ...], int] | None:
    """The windows in the order of the output's axes, and the channel multiplier."""
    from tvm import sym, tirx

    analyzer = sym.Analyzer()
    spatial, channel = list(stage.axes[:-1]), stage.axes[-1]
    taps = [a for a in stage.reduction if a.extent != 1]
    found: dict[int, Window] = {}
    loose: list[tuple[int, Axis, int, Expr]] = []  # dimensions that move with a tap alone: the output has one element there
    multiplier = 0
    for dim, position in enumerate(data.indices):
        position = analyzer.simplify(index(position))
        if any(v.same_as(channel.var) for v in variables(position)):
            each = position.b if isinstance(position, tirx.FloorDiv) else index(1)
            whole = position.a if isinstance(position, tirx.FloorDiv) else position
            if multiplier or not whole.same_as(channel.var) or not isinstance(extent_of(each), int):
                return None
            multiplier = int(each)
            continue
        axes = [a for a in [*spatial, *taps] if any(v.same_as(a.var) for v in variables(position))]
        factors = sym.detect_linear_equation(position, [a.var for a in axes])
        if not factors or not all(isinstance(extent_of(f), int) for f in factors[:-1]):
            return None
        step = {a.var: int(f) for a, f in zip(axes, factors, strict=False)}
        moved, summed = [a for a in axes if a in spatial], [a for a in axes if a in taps]
        if len(moved) > 1 or len(summed) > 1 or any(s <= 0 for s in step.values()):
            return None
        tap = summed[0] if summed else None
        dilation = step[tap.var] if tap else 1
        if moved:
            number = spatial.index(moved[0])
            if number in found:
                return None
            found[number] = Window(moved[0], tap, step[moved[0].var], dilation, _plain(factors[-1]), dim)
        elif tap:
            loose.append((dim, tap, dilation, _plain(factors[-1])))
        elif extent_of(position) != 0:
            return None
    free = [n for n, a in enumerate(spatial) if n not in found and a.extent == 1]
    for number, (dim, tap, dilation, offset) in zip(free[len(free) - len(loose) :], loose, strict=False):
        found[number] = Window(spatial[number], tap, 1, dilation, offset, dim)
    used = [w.taps.var for w in found.values() if w.taps]
    if not multiplier or len(found) + len(free) - len(loose) != len(spatial) or len(loose) > len(free) or len(used) != len(taps):
        return None
    if any(not isinstance(a.extent, int) for a in taps):
        return None
    return tuple(found.get(n, Window(a, None, 1, 1, 0, None)) for n, a in enumerate(spatial)), multiplier


def _plain(value: Any) -> Any:
    return extent_of(value)


def _bounds(pad: Stage) -> tuple[Mapping[int | None, tuple[Expr | None, Expr | None]], Expr] | None:
    """For a stage that is 0 outside of a box: the box's range along each dimension that it limits, and the value inside."""
    import tvm
    from tvm import sym, tirx

    value = pad.update
    if not (isinstance(value, tvm.ir.Call) and getattr(value.op, "name", "") == "prim.if_then_else" and _is_zero(value.args[2])):
        return None
    analyzer = sym.Analyzer()
    limits: dict[int | None, tuple[Expr | None, Expr | None]] = {}
    pending = [value.args[0]]
    while pending:
        condition = pending.pop()
        if isinstance(condition, tirx.And):
            pending += [condition.a, condition.b]
            continue
        if isinstance(condition, (tirx.LT, tirx.LE)):
            small, large = condition.a, condition.b
        elif isinstance(condition, (tirx.GT, tirx.GE)):
            small, large = condition.b, condition.a
        else:
            return None
        room = large - small - (1 if isinstance(condition, (tirx.LT, tirx.GT)) else 0)  # inside where this is not negative
        hit = [d for d, a in enumerate(pad.axes) if any(v.same_as(a.var) for v in variables(room))]
        factors = sym.detect_linear_equation(room, [pad.axes[hit[0]].var]) if len(hit) == 1 else []
        if len(factors) != 2 or extent_of(factors[0]) not in (1, -1):
            return None
        low, high = limits.get(hit[0], (None, None))
        rest = factors[1]
        if extent_of(factors[0]) == 1 and low is None:
            low = extent_of(analyzer.simplify(-rest))
        elif extent_of(factors[0]) == -1 and high is None:
            high = extent_of(analyzer.simplify(rest + 1))
        else:
            return None
        limits[hit[0]] = low, high
    return limits, value.args[1]
