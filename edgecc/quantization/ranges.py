"""Ranges: run a program over calibration inputs in floating point and watch every value that is to be quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import fx

from edgecc.diagnostics import Progress
from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.ir.provenance import describe
from edgecc.pipeline.context import Sample
from edgecc.quantization import fake_quant

#: A number below this is what masks put where nothing may be read; a scale that covers it would leave nothing of the rest.
SENTINEL = -1e4
Watch = Callable[[fx.Node, torch.Tensor], None]


class FloatRun(fx.Interpreter):
    """Runs a program with its activations not quantized, and with the weights of `float_weights` not either; `watch` is
    called with each of `nodes` and its value.
    """

    def __init__(self, program: Program, nodes: Iterable[fx.Node], watch: Watch, *, float_weights: bool = False) -> None:
        program.recompile()
        super().__init__(program.module)
        self._nodes, self._watch = set(nodes), watch
        self._skipped = {fake_quant.ACTIVATION, fake_quant.WEIGHT} if float_weights else {fake_quant.ACTIVATION}

    def run_node(self, n: fx.Node) -> object:
        if n.target in self._skipped:
            value: object = self.env[n.args[0]]  # type: ignore[index]
        else:
            value = super().run_node(n)
        if n in self._nodes:
            assert isinstance(value, torch.Tensor)
            self._watch(n, value)
        return value


class QuantizedRun(fx.Interpreter):
    """Runs a program as it is and shows `watch` each of `nodes` with its value."""

    def __init__(self, program: Program, nodes: Iterable[fx.Node], watch: Watch) -> None:
        program.recompile()
        super().__init__(program.module)
        self._nodes, self._watch = set(nodes), watch

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n in self._nodes:
            assert isinstance(value, torch.Tensor)
            self._watch(n, value)
        return value


def run_all(runs: fx.Interpreter, samples: Iterable[Sample], progress: Progress, what: str) -> int:
    """Run every sample without gradients; how many there were. Raises UsageError where there is none."""
    count = 0
    with torch.no_grad():
        for sample in samples:
            runs.run(*sample)
            count += 1
            if count & (count - 1) == 0 or count % 32 == 0:
                progress.detail(f"{what}: {count} samples")
    if not count:
        raise UsageError("the calibration set is empty", hint="give at least one sample; 100 to 500 are usual")
    return count


def check_finite(node: fx.Node, value: torch.Tensor) -> None:
    """Raise UsageError that names the layer where a value is NaN or infinite; -inf is left to those who know masks."""
    if value.numel() and not bool(torch.isfinite(value).all()):
        kind = "NaN" if bool(value.isnan().any()) else "infinite numbers"
        raise UsageError(
            f"the activation %{node.name} ({describe(node) or 'no source line'}) has {kind} in the calibration data",
            hint="look at the calibration inputs and at the model in float32; edgecc verify compares them",
        )
