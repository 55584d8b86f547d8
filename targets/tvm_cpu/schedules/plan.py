"""Plans: the kernels that compute one fused function, and where each takes its operands from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr

Pack = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Param:
    """A parameter of the fused function."""

    index: int


@dataclass(frozen=True)
class Packed:
    """A parameter that is a constant, in the layout that the kernel reads."""

    index: int
    pack: Pack = field(compare=False)


@dataclass(frozen=True)
class Temp:
    """What step number `step` of the plan made."""

    step: int


Operand = Param | Packed | Temp


@dataclass(frozen=True)
class Step:
    """One kernel. Its parameters are `reads`, then one buffer for each of `writes`, then the sizes of the fused function.

    `writes`: the kernel's output buffers. `outputs`: the outputs of the fused function that they are, in order; empty
    for a temporary, which later steps name by `Temp`. `in_place`: positions in `reads` that `writes[0]` may overlap
    exactly, because each element is read before it is written, and by nothing afterwards.
    """

    name: str
    reads: Sequence[Operand]
    writes: Sequence[Buffer]
    function: Any  # tvm.tirx.PrimFunc
    outputs: Sequence[int] = ()
    in_place: Sequence[int] = ()


@dataclass(frozen=True)
class Plan:
    """`rule`: which rule made the plan and with what tiles, for people."""

    rule: str
    steps: Sequence[Step]


def kernel_function(buffers: Sequence[Buffer], sizes: Sequence[Expr], code: Code) -> Any:
    """The function of a kernel: parameters are buffers, then symbolic sizes."""
    from tvm import tirx

    return tirx.PrimFunc([*buffers, *sizes], code.statement()).with_attr("tirx.noalias", True)


def single(rule: str, kernel: Any, code: Code, in_place: Sequence[int] = ()) -> Plan:
    """The plan of one kernel with the parameters of the fused function.

    `in_place`: numbers of the input parameters that the first output may overlap.
    """
    inputs = [p for p in kernel.params if not kernel.is_output(p)]
    number = [i for i, p in enumerate(kernel.params) if not kernel.is_output(p)]
    function = kernel_function([*inputs, *kernel.outputs], kernel.sizes, code)
    reads = [Param(i) for i in number]
    return Plan(rule, [Step(kernel.name, reads, kernel.outputs, function, list(range(len(kernel.outputs))), in_place)])
