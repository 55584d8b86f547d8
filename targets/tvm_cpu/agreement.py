"""Agreement of a build with its integer program: what is made of integers alone is the same on every CPU, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgecc.ir.integer import is_integer
from edgecc.ir.program import Program
from edgecc.pipeline.context import Sample
from edgecc.pipeline.numerics import Distance, distance
from edgecc.quantization import reference
from edgecc.reference import to_numpy
from edgecc.targeting.agreement import Agreement, CallAgreement
from edgecc.targeting.base import Runner

#: The cosine to PyTorch's outputs where floating point stands between integers: an integer that falls into the next step moves
#: what follows (MiniLM on random tokens: 0.99996).
_ISLANDS = 0.99


def agreement(program: Program, runners: Sequence[Runner], samples: Sequence[Sample]) -> Agreement | None:
    """Compare the outputs on every runtime with the program in PyTorch, None where it has no integer arithmetic.

    Where floating point stands between the integers, a number on the edge of a step may fall into the next one: then the
    outputs are compared by their cosine. A runtime that emulates another processor runs the first sample only.
    """
    if not any(map(is_integer, program.calls())):
        return None
    exact = not reference.islands(program)
    want = [reference.run(program, sample).outputs for sample in samples]
    found, worst = [], Distance()
    for runner in runners:
        chosen = list(zip(samples, want, strict=True))[: 1 if runner.emulated else None]
        cases = [{s.name: to_numpy(t) for s, t in zip(program.signature.inputs, sample, strict=True)} for sample, _ in chosen]
        total, equal, cosine = 0, 0, 1.0
        for outputs, (_, expected) in zip(runner.run_many(cases), chosen, strict=True):
            got = [torch.from_numpy(outputs[s.name]) for s in program.signature.outputs]
            total += sum(t.numel() for t in expected)
            equal += sum(int((a == b).sum()) for a, b in zip(got, expected, strict=True))
            apart = distance(expected, got)
            worst, cosine = worst.worst(apart), min(cosine, apart.cosine)
        found.append(CallAgreement(f"the outputs on {runner.runtime}", total, equal / max(total, 1), 1.0, cosine, exact, _ISLANDS))
    return Agreement(found, worst, 1.0)
