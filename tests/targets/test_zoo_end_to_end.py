"""Every model of the zoo compiles for arm_cpu, runs, and gives what PyTorch gives.

The compile itself compares the artifact with the model on each runtime of this machine, the emulated ARM processor
included where there is one, and raises where they differ by more than 1e-4 of the largest output.
"""

from __future__ import annotations

import re

import pytest

import edgecc
from edgecc.compiler import Job, compile_job
from edgecc.ir import capture
from edgecc.recipe import Recipe
from edgecc.registry import Registry
from tests.models import ZOO, build

# Recurrences: their loops are written as they run, the innermost along the vector. TVM's own running sums.
WRITTEN_AS_LOOPS = {"lstm_scan", "gru_scan", "tanh_scan", "relu_scan", "cumsum", "cumprod"}


@pytest.fixture(scope="module")
def registry():
    return Registry.create()


def compile_model(name, registry, output, *, dynamic):
    model, args, kwargs = build(name)
    program = capture.trace(model, args, kwargs, dims=ZOO[name].dims if dynamic else None)
    target = registry.create_target("arm_cpu", {"cpu": "cortex-a72"})
    recipe = Recipe(target="arm_cpu", options=edgecc.CompileOptions())
    return compile_job(Job(program, capture.eager(model, args, kwargs), target, recipe, registry, output))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_model_of_the_zoo_compiles_and_matches_pytorch(name, registry, tmp_path):
    result = compile_model(name, registry, tmp_path / "out", dynamic=bool(ZOO[name].dims))
    checks = result.report.checks
    assert {c.runtime.split()[0] for c in checks} >= {"host"} or checks[0].runtime.startswith("native")
    rules = {r.node: r.message for r in result.report.remarks.of("arm_cpu", "note") if r.message.startswith("scheduled by")}
    by_hand = {re.sub(r"\d*$", "", node) for node, rule in rules.items() if rule == "scheduled by: by hand"}
    assert rules and by_hand <= WRITTEN_AS_LOOPS
    assert all(c.distance.relative <= 1e-4 for c in checks)  # 1e-4: float32 rounding through some dozen layers
