"""Agreement of a written model with PyTorch, call by call, where activations are quantized.

A sum that float32 rounds otherwise falls into the next step now and then, and moves every number after it: PyTorch differs from
itself so. Therefore the real file runs in ONNX Runtime with the integers of each call that quantizes as outputs too, PyTorch
runs the program with these integers in place of its own, and each call is compared on what both were given alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from edgecc.ir.program import Program
from edgecc.ir.provenance import describe
from edgecc.ir.quantized import FLOAT8, is_float8, is_quantize
from edgecc.pipeline.context import Sample
from edgecc.pipeline.numerics import Distance, distance
from edgecc.reference import to_numpy
from edgecc.targeting.agreement import Agreement, CallAgreement
from edgecc.targeting.base import Runner
from edgecc.targets.onnx_common.lowering.dialect import is_constant, parameters


def agreement(
    program: Program, file: Path, samples: Sequence[Sample], tolerance: float, load: Callable[[Path], Runner]
) -> Agreement | None:
    """Compare a model with the program that was lowered, None where it quantizes no activation.

    The quantized dtypes of the program are those of the file. `tolerance`: of a float32 number, over the largest magnitude.
    `load` makes the runner of a file, which stands beside the model for as long as this takes.
    """
    calls = [n for n in program.calls() if (is_quantize(n) or is_float8(n)) and not is_constant(n.args[0])]
    if not calls:
        return None
    exposed = file.with_name("exposed.onnx")
    try:
        present = _expose(program, calls, file, exposed)
        runner, deployed = load(exposed), load(file)
    finally:
        exposed.unlink(missing_ok=True)
    tallies = {name: _Tally() for name in present}
    outputs, as_deployed = Distance(), True
    for sample in samples:
        given = {s.name: to_numpy(t) for s, t in zip(program.signature.inputs, sample, strict=True)}
        found, real = runner.run(given), deployed.run(given)
        as_deployed &= all(np.array_equal(found[name], real[name], equal_nan=real[name].dtype.kind == "f") for name in real)
        forced = _Forced(program, {n.name: _tensor(found[present[n.name]], n) for n in calls if n.name in present}, tolerance, tallies)
        with torch.no_grad():
            results = forced.run(*sample)
        got = [torch.from_numpy(found[s.name]) for s in program.signature.outputs]
        outputs = outputs.worst(distance([r.to(g.dtype) for r, g in zip(results, got, strict=True)], got))
    places = {n.name: f"%{n.name} of %{n.args[0]} ({describe(n.args[0]) or describe(n) or 'no source line'})" for n in calls}  # type: ignore[arg-type]
    made = [tally.summed_up(places[name]) for name, tally in tallies.items()]
    return Agreement(made, outputs, tolerance, len(calls) - len(present), as_deployed)


def _expose(program: Program, calls: Sequence[fx.Node], file: Path, exposed: Path) -> Mapping[str, str]:
    """Write the model with the integers of these calls as outputs; give the names of their values by those of the calls."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    ends = {node.name: spec.name for node, spec in zip(program.outputs(), program.signature.outputs, strict=True)}
    values = {name for node in model.graph.node for name in node.output}
    found = {n.name: name for n in calls if (name := ends.get(n.name, n.name)) in values}
    outputs = {v.name for v in model.graph.output}
    for node in calls:
        if node.name in found and found[node.name] not in outputs:
            empty = None if is_float8(node) else to_numpy(torch.empty(0, dtype=node.meta["val"].dtype))
            kind = onnx.TensorProto.FLOAT8E4M3FN if empty is None else onnx.helper.np_dtype_to_tensor_dtype(empty.dtype)
            model.graph.output.append(onnx.helper.make_tensor_value_info(found[node.name], kind, None))
    onnx.save(model, exposed)
    return found


def _tensor(found: np.ndarray[Any, Any], call: fx.Node) -> torch.Tensor:
    """The integers that a runtime gives, FP8 by its bits."""
    return torch.from_numpy(found.view(np.uint8)).view(FLOAT8) if is_float8(call) else torch.from_numpy(found)


def _steps(numbers: torch.Tensor) -> torch.Tensor:
    """Numbers as a count of steps: integers as they are, FP8 by its place among all of FP8, whose bits go by magnitude."""
    if numbers.dtype is not FLOAT8:
        return numbers.int()
    bits = numbers.view(torch.uint8).int()
    return torch.where(bits < 128, bits, 128 - bits)


@dataclass
class _Tally:
    """What the integers of one call add up to."""

    integers: int = 0
    equal: int = 0
    near: int = 0
    cosine: float = 1.0

    def add(self, want: torch.Tensor, got: torch.Tensor, ends: tuple[torch.Tensor, torch.Tensor], zero: torch.Tensor) -> None:
        """`ends`: between which a number counts as equal."""
        explained = got.float().clamp(*ends)
        self.integers += got.numel()
        self.equal += int((got.float() == want.float()).sum())
        self.near += int((((_steps(got) - _steps(want)).abs() <= 1) | (got.float() == explained)).sum())
        self.cosine = min(self.cosine, distance((explained - zero.float(),), (got.float() - zero.float(),)).cosine)

    def summed_up(self, place: str) -> CallAgreement:
        return CallAgreement(place, self.integers, self.equal / max(self.integers, 1), self.near / max(self.integers, 1), self.cosine)


class _Forced(fx.Interpreter):
    """Runs a program; what reads the call that quantizes gets the integers given for it, which are compared with its own."""

    def __init__(self, program: Program, integers: Mapping[str, torch.Tensor], tolerance: float, tallies: Mapping[str, _Tally]) -> None:
        super().__init__(program.module)
        self._integers, self._tolerance, self._tallies = integers, tolerance, tallies

    def run_node(self, n: fx.Node) -> Any:
        if n.name not in self._integers:
            return super().run_node(n)
        (x, *options), named = self.fetch_args_kwargs_from_env(n)

        def quantize(x: torch.Tensor) -> torch.Tensor:
            assert callable(n.target)
            made: torch.Tensor = n.target(x, *options, **named)
            return made

        moved = self._tolerance * x.abs().max() if x.numel() else 0.0
        step = 1 if isinstance(parameters(n)[1], fx.Node) and not is_constant(parameters(n)[1]) else 0  # z, computed, rounds too
        ends = quantize(x - moved).float() - step, quantize(x + moved).float() + step
        got = self._integers[n.name]
        self._tallies[n.name].add(quantize(x), got, ends, quantize(torch.zeros_like(x)))
        return got
