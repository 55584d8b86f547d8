"""Of the architectures that a model is not written as, the nearest ones are named first."""

from __future__ import annotations

from tests.targets.gguf.decoders import DECODERS, decoder
from tests.targets.gguf.parity_host import ids, lowered, plan_of


def test_what_differs_in_the_fewest_places_is_named_first():
    plan = plan_of(lowered(decoder(DECODERS["gpt"][0]), ids()))
    refused = [(a.norm, a.activation, a.gated) for a, _ in plan.choice.refused]
    own = ("layer", "gelu_tanh", False)
    assert refused[:3] == [own] * 3  # these have rotary positions instead of a table
    assert ("rms", "silu", True) in refused[-4:]
