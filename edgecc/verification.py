"""Verification: run the artifact on its real runtime, compare it with the original model, and find the node that differs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

from edgecc.errors import ContractError
from edgecc.ir.program import Program
from edgecc.ir.provenance import describe
from edgecc.ir.signature import Dim, Signature, TensorSpec
from edgecc.pipeline.base import Lossy, Numerics, Reordered
from edgecc.pipeline.blame import values
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.numerics import distance
from edgecc.reference import read, run_cases, to_numpy
from edgecc.report import RuntimeCheck
from edgecc.targeting.base import Arrays, Runner, Target


def run_checks(runners: Sequence[Runner], directory: Path) -> list[RuntimeCheck]:
    """Run every stored case on every runtime; one that emulates another processor runs only the first case."""
    cases = read(directory / "reference")
    return [check_cases(runner, cases[:1] if runner.emulated else cases) for runner in runners]


def check_cases(runner: Runner, cases: Sequence[tuple[Arrays, Arrays]]) -> RuntimeCheck:
    """Run inputs on one runtime and compare with the outputs that stand beside them."""
    return RuntimeCheck(runner.runtime, len(cases), run_cases(runner, cases))


def broken(checks: Sequence[RuntimeCheck], tolerance: float, min_sqnr_db: float = 0.0) -> list[str]:
    """One line for each runtime whose outputs are too far from the original model.

    `min_sqnr_db`: what they must have besides, where the tolerance alone says little; 0 asks for nothing.
    """
    promises: list[Numerics] = [Reordered(tolerance), *([Lossy(min_sqnr_db)] if min_sqnr_db else [])]
    found = [(c.runtime, next(filter(None, (c.distance.broken(p) for p in promises)), "")) for c in checks]
    return [f"on {runtime}: {why}" for runtime, why in found if why]


def locate(program: Program, target: Target, sample: Sequence[torch.Tensor], tolerance: float) -> str:
    """Name the first node that the target's runtime computes differently from PyTorch, with its source line.

    The program is lowered once more with every float value as an output.
    """
    probe = program.snapshot()
    want = values(program, tuple(sample))
    nodes = [n for n in probe.calls() if n.name in want and want[n.name].is_floating_point() and want[n.name].numel()]
    probe.graph.output_node().args = (tuple(nodes),)
    probe.recompile()
    specs = tuple(TensorSpec(n.name, want[n.name].dtype, tuple(want[n.name].shape)) for n in nodes)
    probe.signature = Signature(program.signature.inputs, specs, program.signature.dims)
    with tempfile.TemporaryDirectory() as folder:
        lowered = target.lower(probe, Path(folder), PassContext())
        runner = target.runners(Path(folder), describe_interface(probe.signature) | {"facts": dict(lowered.facts)})[0]
        got = runner.run({s.name: to_numpy(t) for s, t in zip(program.signature.inputs, sample, strict=True)})
    for node in nodes:
        why = distance((want[node.name],), (torch.from_numpy(got[node.name]),)).broken(Reordered(tolerance))
        if why:
            return f"first node that differs: %{node.name} {_source(node)}: {why}"
    return "each node agrees when it is an output by itself: the fault is in how the target joins or stores them"


def _source(node: fx.Node) -> str:
    return f"({describe(node) or 'no source line'})"


def describe_interface(signature: Signature) -> dict[str, Any]:
    """Inputs, outputs and dynamic dimensions as manifest.json has them."""

    def one(spec: TensorSpec) -> dict[str, Any]:
        return {"name": spec.name, "dtype": str(spec.dtype).removeprefix("torch."), "shape": list(spec.shape)}

    return {
        "inputs": [one(s) for s in signature.inputs],
        "outputs": [one(s) for s in signature.outputs],
        "dims": [{"name": d.name, "lower": d.lower, "upper": d.upper} for d in signature.dims],
    }


def signature_of(manifest: Mapping[str, Any]) -> Signature:
    """The interface of a manifest, to check inputs against."""

    def one(spec: Mapping[str, Any]) -> TensorSpec:
        return TensorSpec(spec["name"], getattr(torch, spec["dtype"]), tuple(spec["shape"]))

    dims = tuple(Dim(d["name"], d["lower"], d["upper"]) for d in manifest["dims"])
    return Signature(tuple(map(one, manifest["inputs"])), tuple(map(one, manifest["outputs"])), dims)


def mismatch(lines: Sequence[str], place: str, target: str) -> ContractError:
    return ContractError(
        f"the compiled model differs from the PyTorch model {'; '.join(lines)}\n  in the lowering of {target}: {place}",
        hint="--verify numerics shows whether a pass is to blame; --verify off --dump-ir keeps the programs for a bug report",
    )


def disagreement(lines: Sequence[str], target: str) -> ContractError:
    """The lines are those of `Agreement.broken`; the first call is where it begins."""
    more = [f"and {len(lines) - 5} more"] if len(lines) > 5 else []
    return ContractError(
        f"{target} computes other integers than PyTorch from the same integers before:\n  " + "\n  ".join([*lines[:5], *more]),
        hint="the fault is between the last call that quantizes and this one; --verify off --dump-ir keeps the programs for a bug report",
    )


def interface_of(manifest: Mapping[str, Any]) -> list[str]:
    """`x: float32[1, 3, 32, 32]` for each input of a manifest."""
    return [f"{i['name']}: {i['dtype']}{i['shape']}" for i in manifest["inputs"]]
