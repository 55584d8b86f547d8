"""Choose the architecture whose semantics equal a model's, or say where the nearest ones begin to differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecc.targets.gguf.architectures.difference import Difference
from edgecc.targets.gguf.architectures.differences import differences
from edgecc.targets.gguf.architectures.table import ARCHITECTURES, Architecture
from edgecc.targets.gguf.recognition.description import LanguageModel

Refused = Sequence[tuple[Architecture, Difference]]
"""Where each architecture begins to differ from a model, the nearest first: that with the fewest differences, of equal ones that which
begins to differ the furthest into the graph."""


@dataclass(frozen=True)
class Choice:
    """`architecture` computes what the model does once the `approximations` are made; `refused`: all others that differ."""

    architecture: Architecture
    approximations: Sequence[Difference]
    refused: Refused


def choose(model: LanguageModel) -> Choice | Refused:
    """An architecture without a difference, else one with small ones alone, else why all are refused.

    Of several, that for which the fewest biases are made up, then the narrowest.
    """
    found = [(architecture, list(differences(model, architecture))) for architecture in ARCHITECTURES]
    fitting = [entry for entry in found if all(d.small for d in entry[1])]
    if not fitting:
        return _nearest_first(model, found)
    chosen, small = min(fitting, key=lambda entry: (len(entry[1]), _made_up(model, entry[0])))
    return Choice(chosen, small, _nearest_first(model, [(a, ds) for a, ds in found if ds and a is not chosen]))


def _nearest_first(model: LanguageModel, found: Sequence[tuple[Architecture, Sequence[Difference]]]) -> Refused:
    """With the first difference of each that is more than small, where there is one."""
    order = {node: i for i, node in enumerate(model.output.graph.nodes)}
    counted = [(len(large := [d for d in ds if not d.small]), (a, [*large, *ds][0])) for a, ds in found]
    return [entry for _, entry in sorted(counted, key=lambda c: (c[0], -order[c[1][1].node]))]


def _made_up(model: LanguageModel, want: Architecture) -> int:
    """How many groups of biases the file has and the first layer of the model has not."""
    layer = model.layers[0]
    norm, a, f = layer.before_attention or layer.after_attention, layer.attention, layer.feed_forward
    biases = {"norm": norm and norm.bias, "attention": a and a.query.bias, "output": a and a.output.bias, "network": f and f.up.bias}
    return sum(want.biases[group] == "always" and bias is None for group, bias in biases.items())
