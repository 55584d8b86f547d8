"""The first layer that llama.cpp computes differently from PyTorch.

A GGUF file holds a whole model, so no value inside of it is an output. But a model of the first layers alone, with the norm and the
head of the whole one, is a file of its own: the fewest layers for which llama.cpp gives something else end with the layer at fault.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import fx

from edgecc.ir.program import Program
from edgecc.ir.provenance import describe
from edgecc.pipeline.base import Reordered
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.numerics import distance
from edgecc.reference import to_numpy
from edgecc.targets.gguf.recognition.description import LanguageModel
from edgecc.targets.gguf.recognition.model import read_model
from edgecc.verification import describe_interface

if TYPE_CHECKING:
    from edgecc.targets.gguf.target import Gguf


def locate(program: Program, target: Gguf, sample: Sequence[torch.Tensor]) -> str:
    """The layer that differs, with its source line, found by halving: the file is written and run log2(layers) times."""
    plain = replace(target, tensor_types=(), imatrix="", compensate="none", tokenizer="none", shard_bytes=0)
    model = read_model(program)
    low, high = 0, len(model.layers)
    known = {high: _difference(program, plain, sample, high)}
    if not known[high]:
        return "a file of the same weights without its tokenizer and its own formats agrees: the fault is in these, or in the shards"
    while high - low > 1:
        middle = (low + high) // 2
        known[middle] = _difference(program, plain, sample, middle)
        low, high = (low, middle) if known[middle] else (middle, high)
    layer = model.layers[high - 1]
    before = "the model of those before agrees" if low else "what comes before the layers may be at fault too"
    place = describe(layer.node) or "no source line"
    return f"the first layer that differs is layer {high - 1} of {len(model.layers)}, %{layer.node.name} ({place}): {known[high]}; {before}"


def _difference(program: Program, target: Gguf, sample: Sequence[torch.Tensor], layers: int) -> str:
    """How llama.cpp differs on the first layers alone, `""` where it agrees."""
    probe = program.snapshot()
    _cut(probe, read_model(probe), layers)
    with tempfile.TemporaryDirectory() as folder:
        lowered = target.lower(probe, Path(folder), PassContext())
        manifest = {**describe_interface(probe.signature), "facts": dict(lowered.facts), "deployable": lowered.deployable}
        names = [spec.name for spec in probe.signature.inputs]
        got = target.runners(Path(folder), manifest)[0].run({n: to_numpy(t) for n, t in zip(names, sample, strict=True)})
        wanted = probe(*sample)[:1]
    found = torch.from_numpy(got[probe.signature.outputs[0].name])
    return distance(wanted, (found,)).broken(Reordered(lowered.tolerance or 0.0))


def _cut(program: Program, model: LanguageModel, layers: int) -> None:
    """Let what follows the last layer read the stream after the first `layers`."""
    if layers == len(model.layers):
        return
    stream = _stream(model, layers)
    if model.head is None:
        program.graph.output_node().args = ((stream, *program.outputs()[1:]),)
    else:
        after = model.norm.node if model.norm is not None else model.head.call
        after.replace_input_with(after.args[0], stream)  # type: ignore[arg-type]
    program.graph.eliminate_dead_code()
    program.recompile()


def _stream(model: LanguageModel, layers: int) -> fx.Node:
    """The value that layers add to, after the first `layers`."""
    layer, following = model.layers[layers - 1], model.layers[layers]
    norm = layer.after_feed_forward or layer.after_attention
    if norm is not None:
        return norm.node
    before = following.before_attention or following.before_feed_forward
    assert before is not None
    node = before.node.args[0]
    assert isinstance(node, fx.Node)
    return node
