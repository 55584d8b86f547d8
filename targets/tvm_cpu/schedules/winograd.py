"""The rule for convolutions of three taps: four outputs along a row from six products a channel instead of twelve.

The data is transformed along its last spatial axis, six products of matrices are added over the other taps and the
channels, and the outputs are made of the six sums. F(4, 3) of Winograd, "Arithmetic Complexity of Computations", 1980;
for convolutions: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4. One axis
and not both: it saves half of the products rather than three quarters, but the transformed tensors stay small, and the
rounding error stays that of the direct sum, which rounds more often.

An infinity or a NaN in the data spreads to the four outputs that are computed together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from edgecc.targets.tvm_cpu.schedules.code import Buffer, index
from edgecc.targets.tvm_cpu.schedules.contract import contract
from edgecc.targets.tvm_cpu.schedules.contraction import Contraction, recognise
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.epilogue import epilogue_of
from edgecc.targets.tvm_cpu.schedules.plan import Operand, Pack, Packed, Param, Plan, Step, Temp, kernel_function
from edgecc.targets.tvm_cpu.schedules.stage import Axis, Kernel, read
from edgecc.targets.tvm_cpu.schedules.winograd_data import DataTransform
from edgecc.targets.tvm_cpu.schedules.winograd_form import OUTPUTS, SUMS, TAPS, Form
from edgecc.targets.tvm_cpu.schedules.winograd_result import ResultTransform

# the transform of the weights for the points 0, +-1, +-2 and infinity
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], np.float64) / 24


def winograd(kernel: Kernel, core: Core, constants: frozenset[int]) -> Plan | None:
    """The plan of a function with one convolution of stride 1 by constant weights; None where it saves nothing."""
    found = [(s, c) for s in kernel.stages if (c := recognise(kernel, s))]
    if len(found) != 1:
        return None
    stage, contraction = found[0]
    number = next((i for i in constants if kernel.params[i].same_as(contraction.right.load.source)), None)
    form = _form(contraction)
    epilogue = epilogue_of(kernel, stage, contraction.column.var) if form and number is not None else None
    if form is None or number is None or epilogue is None or not _saves(form):
        return None
    data = DataTransform.of(form, kernel, core)
    if data is None:
        return None
    result = ResultTransform(form, epilogue, core)
    middle = contract(_products(form, f"{kernel.name}_products"), core, frozenset({1}))
    assert middle is not None, "a product of matrices is a contraction"
    transform = _weights(form)

    def param(buffer: Buffer) -> Operand:
        return Param(next(i for i, p in enumerate(kernel.params) if p.same_as(buffer)))

    def shifted(operand: Operand) -> Operand:
        """An operand of the products as one of this plan, whose first step makes the data."""
        if isinstance(operand, Temp):
            return Temp(operand.step + 1)
        return Packed(number, _then(transform, operand.pack)) if isinstance(operand, Packed) else Temp(0)

    inputs, operands = data.reads(), epilogue.operands()
    function = kernel_function([*inputs, data.made], kernel.sizes, data.code())
    steps = [Step(f"{kernel.name}_data", [param(b) for b in inputs], [data.made], function)]
    steps += [Step(s.name, [shifted(o) for o in s.reads], s.writes, s.function) for s in middle.steps]
    function = kernel_function([result.sums, *operands, *kernel.outputs], kernel.sizes, result.code())
    reads = [Temp(len(steps) - 1), *map(param, operands)]
    in_place = [1 + i for i in epilogue.in_place(operands)]
    steps.append(Step(kernel.name, reads, kernel.outputs, function, range(len(kernel.outputs)), in_place))
    return Plan(f"winograd F({OUTPUTS}, {TAPS}); {middle.rule}", steps)


def _form(contraction: Contraction) -> Form | None:
    """The convolution of three taps that a contraction is; None where it is none, or has strides, dilations or groups."""
    left, rows = contraction.left.place, contraction.rows
    everything = (*rows, *contraction.depth, contraction.column)
    dtypes = {str(b.ty.dtype) for b in (contraction.left.load.source, contraction.right.load.source, contraction.stage.buffer)}
    if not rows or contraction.batch or dtypes != {"float32"} or not all(isinstance(a.extent, int) for a in everything):
        return None
    free = list(contraction.depth)

    def partner(axis: Axis) -> Axis | None:
        """The taps that slide along an axis."""
        taps = next((d for d in free if left.stride(d) == left.stride(axis)), None)
        if taps is not None:
            free.remove(taps)
        return taps

    taps = partner(rows[-1])
    around = tuple((a, partner(a)) for a in rows[:-1])
    if taps is None or taps.extent != TAPS or len(free) != 1 or left.stride(free[0]) != 1:
        return None
    return Form(contraction, rows[-1], taps, around, free[0])


def _saves(form: Form) -> bool:
    """Whether the products that are saved are clearly more than what the transforms cost, in operations for one output of all channels."""
    channels, columns, other = form.channel.extent, form.contraction.column.extent, math.prod(form.other_taps)
    done = form.tiles * SUMS / form.x.extent  # of TAPS products
    saved = other * channels * columns * (TAPS - done)
    return form.tiles * math.prod(form.outer) >= 8 and saved > 16 * (channels + columns)


def _products(form: Form, name: str) -> Kernel:
    """`sums[t, .., tile, f] = sum over taps and channels of data[t, .. + taps, tile, c] weights[t, taps, c, f]`."""
    from tvm import te

    def sizes(*numbers: int) -> tuple[Any, ...]:
        return tuple(map(index, numbers))

    channels, columns = form.channel.extent, form.contraction.column.extent
    data = te.placeholder(sizes(SUMS, *form.data_rows, form.tiles, channels), name="data")
    weights = te.placeholder(sizes(SUMS, *form.other_taps, channels, columns), name="weights")
    taps = [te.reduce_axis((index(0), index(n)), f"taps{i}") for i, n in enumerate(form.other_taps)]
    channel = te.reduce_axis((index(0), index(channels)), "channel")

    def element(t: Any, *place: Any) -> Any:
        *rows, tile, column = place
        sliding = iter(taps)
        moved = [r + next(sliding) if d is not None else r for r, (_, d) in zip(rows, form.around, strict=True)]
        return te.sum(data(t, *moved, tile, channel) * weights(t, *taps, channel, column), axis=[*taps, channel])

    sums = te.compute(sizes(SUMS, *form.outer, form.tiles, columns), element, name="sums")
    return read(name, te.create_prim_func([data, weights, sums]))


def _weights(form: Form) -> Pack:
    """What makes the weights of the six products: an array of any shape to one [t, taps.., c, f]. Computed in float64."""
    place = form.contraction.right.place
    axes = [form.taps, *(d for _, d in form.around if d is not None), form.channel, form.contraction.column]

    def transform(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        flat = np.ascontiguousarray(array).reshape(-1)
        strides = [int(place.stride(a)) * flat.itemsize for a in axes]
        view = np.lib.stride_tricks.as_strided(flat[int(place.base) :], [a.extent for a in axes], strides, writeable=False)
        return np.tensordot(_G, view.astype(np.float64), 1).astype(np.float32)

    return transform


def _then(first: Pack, second: Pack) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    return lambda array: second(first(array))
