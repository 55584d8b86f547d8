"""calibrate: find the range of every activation that is to be quantized, on calibration data or, without any, on seeded inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.pipeline.base import LOSSY, Pass
from edgecc.pipeline.context import PassContext
from edgecc.quantization import fake_quant, observers
from edgecc.quantization.affine import affine
from edgecc.quantization.fake_quant import Activation
from edgecc.quantization.observers import Observer, Rule
from edgecc.quantization.ranges import SENTINEL, FloatRun, check_finite, run_all


@dataclass(frozen=True)
class Calibrate(Pass):
    """Set scale and zero point of each fake-quant node from what its value was in floating point.

    `method`: min-max, moving-average (Jacob et al. 2018, section 3.1), percentile (of the numbers, `percentile` percent are
    kept), entropy (Migacz 2017) or mse (least squared error over a histogram). `symmetric`: zero point 0.
    """

    name = "calibrate"
    numerics = LOSSY  # what the ranges were before says nothing; the report has the distance to the model

    method: str = "mse"
    percentile: float = 99.99
    symmetric: bool = False

    def run(self, program: Program, context: PassContext) -> int:
        """Raises UsageError for an empty calibration set, and for NaN or infinite activations, with the layer."""
        method = observers.method(self.method)
        if not 50 < self.percentile <= 100:
            raise UsageError(f"percentile is {self.percentile:g}, want more than 50 and at most 100")
        groups: dict[str, list[Activation]] = defaultdict(list)
        for found in fake_quant.activations(program):
            groups[found.key].append(found)
        if not groups:
            return 0
        if context.calibration is None:
            context.note(next(iter(groups.values()))[0].x, _DATA_FREE)
        seen = _observe(program, groups, context)
        changed = 0
        for key, nodes in groups.items():
            if seen[key].low < SENTINEL:
                _leave(program, nodes, seen[key], context)
                changed += 1
            elif seen[key].seen:
                rule = Rule(nodes[0].limits, self.symmetric, method, self.percentile)
                changed += _set(program, nodes[0], rule, seen[key])
        return changed


_DATA_FREE = (
    "no calibration data: ranges come from a few seeded random inputs, which real inputs may exceed or never reach;"
    " expect to lose accuracy, and give --calibration"
)


def _observe(program: Program, groups: dict[str, list[Activation]], context: PassContext) -> dict[str, Observer]:
    """Tied nodes share an observer, which sees the value that the first of them quantizes and those of the others."""
    seen = {key: Observer() for key in groups}
    keys = {found.x: key for key, nodes in groups.items() for found in nodes}

    def watch(node: fx.Node, value: torch.Tensor) -> None:
        shown = value.nan_to_num(float("nan"), float("inf"), torch.finfo(value.dtype).min) if value.numel() else value
        check_finite(node, shown)
        seen[keys[node]].see(shown)

    run_all(FloatRun(program, keys, watch), context.data, context.progress, "calibrate")
    return seen


def _leave(program: Program, nodes: Sequence[Activation], seen: Observer, context: PassContext) -> None:
    """Take the fake-quant nodes of a value that holds a mask's sentinels out again."""
    for found in nodes:
        context.missed(found.x, f"stays in floating point: {seen.low:.3g} is what masks hold, and a scale for it would leave nothing else")
        program.replace(found.node, found.x)


def _set(program: Program, found: Activation, rule: Rule, seen: Observer) -> bool:
    low, high = observers.extent(seen, rule)
    scale, zero_point = affine(torch.tensor([low]), torch.tensor([high]), rule.limits, symmetric=rule.symmetric)
    old = program.weight(found.scale), program.weight(found.zero_point)
    if torch.equal(old[0], scale) and torch.equal(old[1], zero_point):
        return False
    program.set_weight(found.scale, scale)
    program.set_weight(found.zero_point, zero_point)
    return True
