"""The bytes of every tensor of a file, rounded by what calibration data say of the inputs of each layer.

The samples go through the program together, and stop before each layer: it is rounded by the inputs that arrive, written, and from
there on the samples see it as the file has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from edgecc.diagnostics import Progress
from edgecc.ir.lazy import read
from edgecc.ir.program import Program
from edgecc.pipeline.context import Sample
from edgecc.targets.gguf.architectures.tensors import Tensor
from edgecc.targets.gguf.blocks import FORMATS, decode
from edgecc.targets.gguf.encode import encode_tensor
from edgecc.targets.gguf.inputs import roles
from edgecc.targets.gguf.plan import Plan
from edgecc.targets.gguf.restore import put_back
from edgecc.targets.gguf.rounding.compensation import round_compensated
from edgecc.targets.gguf.rounding.derivatives import sensitivity
from edgecc.targets.gguf.rounding.moments import Moments
from edgecc.targets.gguf.rounding.observation import Step, observe

_FINE = 8  # bits of a weight from which on the outputs hardly move with an embedding


@dataclass
class Calibration:
    """What rounding goes by. `compensates`: weights make up for the rounding of others, else their errors are weighed alone.

    `seen`: the moments of each tensor that was rounded, by its name, without products.
    """

    program: Program
    plan: Plan
    samples: Sequence[Sample]
    compensates: bool
    progress: Progress
    masks: Sequence[torch.Tensor] | None = None
    seen: dict[str, Moments] = field(default_factory=dict)

    def format(self, tensor: Tensor) -> str:
        return self.plan.formats[tensor.name].format

    def rounds(self, tensor: Tensor) -> bool:
        """Whether there is anything to choose: a matrix in blocks."""
        return FORMATS[self.format(tensor)].block > 1 and (bool(tensor.pieces) or tensor.stored is self.plan.model.embeddings.tokens)


def calibration(program: Program, plan: Plan, samples: Iterable[Sample], *, compensates: bool, progress: Progress) -> Calibration:
    """Of samples as they are; tokens that an input of the program masks are left out of what is counted."""
    given = list(samples)
    meant = list(roles(program).values())
    masks = [sample[meant.index("mask")] != 0 for sample in given] if "mask" in meant else None
    return Calibration(program, plan, given, compensates, progress, masks)


def calibrated(by: Calibration) -> Iterator[torch.Tensor]:
    """The bytes of each tensor of the plan, in its order. Raises UsageError for data that are not finite, or none."""
    layers = [t for t in by.plan.tensors if t.pieces and not t.bias and by.rounds(t)]
    ready: dict[str, torch.Tensor] = {}
    steps: Iterator[Step] | None = None
    rounded: dict[fx.Node, torch.Tensor] = {}
    for tensor in by.plan.tensors:
        if not by.rounds(tensor):
            yield encode_tensor(by.program, by.plan, tensor)
        elif not tensor.pieces:
            data = _embedding(by, tensor)
            rounded[by.plan.model.embeddings.tokens] = data
            yield data
        else:
            steps = steps or _steps(by, layers, rounded)
            while tensor.name not in ready:
                ready |= _round(by, next(steps), layers)
            yield ready.pop(tensor.name)


def _embedding(by: Calibration, tensor: Tensor) -> torch.Tensor:
    """The table of tokens, by how much the outputs move with its rows."""
    if not by.compensates or FORMATS[by.format(tensor)].bits >= _FINE:
        return encode_tensor(by.program, by.plan, tensor)
    by.progress.detail("how much the outputs move with the embeddings")
    model = by.plan.model
    moments = sensitivity(by.program, by.samples, model.embeddings.node, logits=model.head is not None, masks=by.masks)
    return round_compensated(tensor.read(by.program), moments, by.format(tensor))


def _steps(by: Calibration, layers: Sequence[Tensor], rounded: dict[fx.Node, torch.Tensor]) -> Iterator[Step]:
    calls = list(dict.fromkeys(piece.linear.call for tensor in layers for piece in tensor.pieces))
    table = next(t for t in by.plan.tensors if t.stored is by.plan.model.embeddings.tokens)

    def decoded() -> torch.Tensor:
        found = decode(rounded[by.plan.model.embeddings.tokens], by.format(table), table.shape[1])
        return found if table.factor is None else found / table.factor

    known = {by.plan.model.embeddings.tokens: decoded} if by.compensates and rounded else None
    return observe(by.program, by.samples, calls, masks=by.masks, rounded=known, products=by.compensates)


def _round(by: Calibration, step: Step, layers: Sequence[Tensor]) -> dict[str, torch.Tensor]:
    """The bytes of the tensors of the layers that read one input, by name."""
    by.progress.detail(f"rounding what reads %{step.nodes[0].args[0]}")
    found: dict[str, torch.Tensor] = {}
    replaced: dict[fx.Node, torch.Tensor] = {}
    for tensor in [t for t in layers if t.pieces[0].linear.call in step.nodes]:
        first = tensor.pieces[0]
        moments = step.moments if first.linear.columns is None else step.moments.columns(first.linear.columns)
        moments = _padded(moments, first.columns)
        by.seen[tensor.name] = Moments(moments.count, moments.squares)
        if not by.compensates:
            found[tensor.name] = encode_tensor(by.program, by.plan, tensor, moments.importance)
            continue
        data = round_compensated(tensor.read(by.program), moments, by.format(tensor))
        _put_back(by.program, tensor, decode(data, by.format(tensor), tensor.shape[1]), replaced)
        found[tensor.name] = data
    for call, weight in replaced.items():
        step.replace(call, weight)
    return found


def _put_back(program: Program, tensor: Tensor, values: torch.Tensor, replaced: dict[fx.Node, torch.Tensor]) -> None:
    """Let each call multiply by what the file has of its weight."""
    first = 0
    for piece in tensor.pieces:
        call = piece.linear.call
        if call not in replaced:
            replaced[call] = read(program.weight(piece.linear.weight)).float().clone()
        put_back(replaced[call], piece, values[first : first + piece.rows])
        first += piece.rows


def _padded(moments: Moments, columns: int) -> Moments:
    """With zeros for columns that the file has and the layer has not."""
    more = columns - len(moments.squares)
    if not more:
        return moments
    pad = torch.nn.functional.pad
    products, drift = (None if m is None else pad(m, (0, more, 0, more)) for m in (moments.products, moments.drift))
    return Moments(moments.count, pad(moments.squares, (0, more)), products, drift)
