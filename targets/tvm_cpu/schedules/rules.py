"""The rules in the order in which they are asked, and functions that need several of them."""

from __future__ import annotations

from collections.abc import Callable

from edgecc.errors import InternalError
from edgecc.targets.tvm_cpu.schedules.contract import contract
from edgecc.targets.tvm_cpu.schedules.contract_integers import contract_integers
from edgecc.targets.tvm_cpu.schedules.contract_weights import contract_weights
from edgecc.targets.tvm_cpu.schedules.contraction import recognise
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.depthwise import depthwise
from edgecc.targets.tvm_cpu.schedules.lookup import lookup
from edgecc.targets.tvm_cpu.schedules.partition import plan_pieces, split
from edgecc.targets.tvm_cpu.schedules.plan import Plan
from edgecc.targets.tvm_cpu.schedules.pointwise import pointwise
from edgecc.targets.tvm_cpu.schedules.reduction import reduce
from edgecc.targets.tvm_cpu.schedules.stage import Kernel
from edgecc.targets.tvm_cpu.schedules.winograd import winograd

Rule = Callable[[Kernel, Core, frozenset[int]], Plan | None]

RULES: dict[str, tuple[Rule, ...]] = {
    "speed": (winograd, contract, contract_integers, contract_weights, depthwise, lookup, pointwise),
    "size": (
        contract,
        contract_integers,
        contract_weights,
        depthwise,
        lookup,
        pointwise,
    ),  # no rule that stores more weights than there are
}


def plan_kernel(kernel: Kernel, core: Core, constants: frozenset[int], prefer: str = "speed") -> Plan:
    """The plan of any function that is a list of stages.

    `constants`: which parameters are constants at the call; `prefer`: a key of RULES.
    """
    for rule in RULES[prefer]:
        plan = rule(kernel, core, constants)
        if plan is not None:
            return plan
    held = [kernel.params[i] for i in sorted(constants)]

    def plan_piece(piece: Kernel) -> Plan:
        return plan_kernel(piece, core, frozenset(i for i, p in enumerate(piece.params) if any(p.same_as(b) for b in held)), prefer)

    sums = [s.buffer for s in kernel.stages if recognise(kernel, s)]
    pieces = split(kernel, sums) if sums else []
    if len(pieces) > 1:
        return plan_pieces(kernel, pieces, plan_piece)
    plan = reduce(kernel, core, constants, plan_piece)
    if plan is None:
        raise InternalError(f"no schedule takes {kernel.name}")
    return plan
