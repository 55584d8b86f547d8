"""Depthwise convolutions, channels last: each output channel is a small window over one input channel.

Channels are the lanes. A tile of output rows and columns is summed in registers, so that an input element is loaded once
for all windows that it lies in, and the weights stay in registers along a row. Padding is never copied nor tested inside:
columns at the border have code of their own with only the taps that exist, and rows at the border loop over those.
The last block of channels starts early enough to be full, and computes some of the block before again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.depthwise_loops import Loops
from edgecc.targets.tvm_cpu.schedules.depthwise_match import Depthwise, match
from edgecc.targets.tvm_cpu.schedules.depthwise_tile import choose
from edgecc.targets.tvm_cpu.schedules.depthwise_weights import Weights
from edgecc.targets.tvm_cpu.schedules.plan import Operand, Packed, Param, Plan, Step, kernel_function
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, loads


def depthwise(kernel: Kernel, core: Core, constants: frozenset[int]) -> Plan | None:
    """The plan of a depthwise convolution [N, (D,) (H,) W, C] with its epilogue; None for any other function.

    `constants`: numbers of the parameters that are constants, whose layout may change.
    """
    conv = match(kernel)
    if conv is None:
        return None
    tile = choose(core, conv)
    number = next((i for i, p in enumerate(kernel.params) if p.same_as(conv.weight.source) and i in constants), None)
    packed = Weights(conv, tile.lanes) if number is not None else None
    code = Code()
    Loops(code, core, conv, tile, packed.buffer if packed else None).write()
    reads: list[Operand] = []
    buffers: list[Buffer] = []
    for i, param in enumerate(kernel.params):
        if kernel.is_output(param):
            continue
        moved = packed is not None and i == number
        reads.append(Packed(i, packed.pack) if packed and moved else Param(i))
        buffers.append(packed.buffer if packed and moved else param)
    function = kernel_function([*buffers, *kernel.outputs], kernel.sizes, code)
    own = _own_elements(kernel, conv) if conv.channels.extent % tile.lanes == 0 else []
    in_place = [n for n, r in enumerate(reads) if isinstance(r, Param) and r.index in own]
    step = Step(kernel.name, reads, kernel.outputs, function, list(range(len(kernel.outputs))), in_place)
    form = "unrolled" if tile.unrolled else "looped"
    return Plan(f"depthwise {tile.rows}x{tile.columns}x{tile.lanes} {form}", [step])


def _own_elements(kernel: Kernel, conv: Depthwise) -> list[int]:
    """Parameters of which each output element needs the element at its own place alone: the output may overwrite them."""
    output = kernel.outputs[0]
    axes = kernel.stage_of(output)
    if axes is None or axes.is_reduction or len(kernel.outputs) > 1:
        return []
    place = [a.var for a in axes.axes]
    value = kernel.element(output, place)
    found = []
    for number, param in enumerate(kernel.params):
        taken = [x for x in loads(value) if x.source.same_as(param)]
        used = any(param.same_as(b) for b in (conv.data.source, conv.weight.source)) or (
            conv.inside is not None and any(param.same_as(x.source) for x in loads(kernel.inline(conv.inside)))
        )
        alike = str(param.ty.dtype) == str(output.ty.dtype) and len(param.ty.shape) == len(place)
        if taken and not used and alike and all(_at(x.indices, place) for x in taken):
            found.append(number)
    return found


def _at(indices: Sequence[Any], place: Sequence[Any]) -> bool:
    return all(hasattr(i, "same_as") and i.same_as(p) for i, p in zip(indices, place, strict=True))
