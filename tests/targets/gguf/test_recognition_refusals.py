"""What no architecture of llama.cpp computes is refused, with the layer, the node and the line of the source where it begins."""

from __future__ import annotations

import linecache
import re

import pytest
import torch
from torch import nn

from edgecc.errors import UnsupportedError
from tests.targets.gguf import mutations
from tests.targets.gguf.decoders import Spelling
from tests.targets.gguf.mutations import mutated
from tests.targets.gguf.parity_host import ids, lowered, plan_of

#: Mutation: what the message says of the last layer, and what stands in the line of the source that it names.
CASES: dict[str, tuple[str, str]] = {
    "norm of the attention's result": (r"%rms_norm_\d = .* is added to the stream, want what a layer gives", "rsqrt"),
    "norm of the network's result": (r"%rms_norm_\d = .* is added to the stream, want what a layer gives", "rsqrt"),
    "a constant in a branch": (r"%add_\d+ = .* the number 0.1 is added to the stream", "self.function(self.inner"),
    "relu of a branch": (r"%relu = .* is added to the stream", "self.function(self.inner"),
    "soft caps of the logits": (r"the result is that of aten.mul.Tensor, want that of a layer", "self.function(self.inner"),
    "log of the logits": (r"the result is that of aten.log_softmax", "self.function(self.inner"),
    "logits and a number": (r"%\w+, which does not depend on the tokens, is added to the stream", "self.function(self.inner"),
    "embeddings and a vector": (r"made of 0 stored tables", "self.function(self.inner"),
    "tanh of the embeddings": (r"aten.tanh stands between the rows of the tokens and the first layer", "self.function(self.inner"),
    "reversed tokens": (r"aten.flip stands between the rows", "self.function(self.inner"),
    "norm of the embeddings": (r"nearest is llama: %embedding: a norm of the embeddings", "self.p(ids)"),
    "relu of the attention's heads": (r"%relu = .* stands between a layer and its use", "self.inner(self.function"),
    "clamp of the attention's heads": (r"%clamp = .* stands between a layer and its use", "self.inner(self.function"),
    "mixed tokens before a layer": (r"%roll = .* its tokens are not those of", "self.inner(self.function"),
    "heads of the result scaled": (r"the result of the attention is multiplied by a factor", "self.inner(self.function"),
    "relu of what is gated": (r"%relu = .* stands between a layer and its use", "self.function(self.inner"),
    "a number before the activation": (r"something is added between %linear_11 and its use", "self.function(self.inner"),
    "window": (r"hides tokens that came before: the last of 12 sees 5 \(a sliding window", "self._attend("),
    "own slopes": (r"nearest is llama: layer 1, %scaled\w+: a bias by distance", "self._attend("),
    "bias of positions": (r"adds a bias that is no slope of the distance", "self._attend("),
    "no token sees itself but the first": (r"hides tokens that came before", "self._attend("),
    "all tokens": (r"nearest is llama: layer 1, %scaled\w+: full attention, want causal", "self._attend("),
    "heads with masks of their own": (r"sees 5 \(a sliding window", "self._attend("),
    "eps of the last norm": (r"nearest is llama: %rms_norm\w*: eps 0.1, want 1e-06", "self.z(self.y(x))"),
    "another base": (r"nearest is llama: layer 1, %scaled\w+: other rotary frequencies", "self._attend("),
    "no rope in a layer": (r"nearest is llama: layer 1, %scaled\w+: no rotary positions", "self._attend("),
    "another stretch": (r"nearest is llama: layer 1, %scaled\w+: other rotary frequencies", "self._attend("),
    "partial rope in a layer": (r"nearest is llama: layer 1, %scaled\w+: rotary positions over 4 dim", "self._attend("),
    "queries turned twice": (r"turned by different angles", "self._attend("),
    "keys in other pairs": (r"turned by different angles", "mix._attend("),
    "dimensions of keys scaled": (r"no rotary positions", "self._attend("),
    "queries scaled by position": (r"no rotary positions", "self._attend("),
    "clamped queries": (r"%clamp = .* stands between a layer and its use", "self._attend("),
    "a number on keys": (r"something is added between %linear_8 and its use", "self._attend("),
    "relu of values": (r"%relu = .* stands between a layer and its use", "self._attend("),
    "values of the token before": (r"its tokens are not those of %linear_9", "self._attend("),
    "normed queries": (r"stands between a layer and its use", "self._attend("),
    "no norm before the attention": (r"nearest is llama: layer 1, %scaled\w+: no norm, want one before", "self._attend("),
    "no last norm": (r"nearest is llama: %linear_14: no norm before the logits", "self.z(self.y(x))"),
    "values of the stream": (r"made of 2 inputs, want one \(no cross attention\)", "self._attend("),
    "tokens that are not seen": (r"depends on which tokens are given \(a mask of padding", "self._attend("),
    "a value of an earlier layer": (r"added to 2 values .* want one stream", "x + self.w(self.o(x))"),
    "doubled stream": (r"added to 2 values .* want one stream", "step(x)"),
    "the last token alone": (r"has shape \[1, 97\], want numbers for each of 1 x 12 tokens", "self.z(self.y(x))"),
}
_FRAME = re.compile(r"(decoders|mutations)\.py:(\d+)")


@pytest.mark.parametrize("name", CASES)
def test_the_message_says_what_and_where(name):
    message, code = CASES[name]
    program = lowered(mutated(Spelling(), name), ids())
    with pytest.raises(UnsupportedError, match=message) as raised:
        plan_of(program)
    text = str(raised.value)
    file, line = _FRAME.search(text).groups()
    assert code in linecache.getline(mutations.__file__.replace("mutations", file), int(line))
    (node,) = re.findall(r"(?:runs: |nearest is \w+: (?:layer \d+, )?)%(\w+)", text)
    assert node in {n.name for n in program.graph.nodes}


def test_heads_normed_before_and_after_their_turn_are_told_apart():
    program = lowered(mutated(Spelling(query_norm=True), "queries turned before their norm"), ids())
    with pytest.raises(UnsupportedError, match=r"tokens get other channels of %linear_\d than token 0"):
        plan_of(program)


@pytest.mark.parametrize("name", ["eps of the keys' norm", "layer norm of keys"])
def test_norms_of_heads_are_of_one_kind(name):
    program = lowered(mutated(Spelling(query_norm=True), name), ids())
    with pytest.raises(UnsupportedError, match=r"eps 0.1, want 1e-06|a norm of heads with a bias or a mean"):
        plan_of(program)


def test_an_activation_that_no_architecture_has_is_named():
    program = lowered(mutated(Spelling(activation="relu"), "none"), ids())
    with pytest.raises(UnsupportedError, match=r"nearest is llama: layer 0, %relu: relu, want silu"):
        plan_of(program)


@pytest.mark.parametrize(
    ("model", "example", "reason"),
    [
        (nn.Conv2d(3, 4, 3), torch.ones(1, 3, 8, 8), "no input indexes a table of tokens"),
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(3, 4), "no input indexes a table of tokens"),
        (nn.Sequential(nn.Embedding(97, 8), nn.Linear(8, 97)), ids(), "nothing is before it but the embeddings"),
        (nn.Sequential(nn.Embedding(97, 8), nn.Linear(8, 97)), ids(length=1), r"shape \[1, 1\], want .* at least two tokens"),
        (nn.Sequential(nn.Embedding(97, 8), nn.Linear(8, 97)), ids(length=3, batch=3), "want two different numbers"),
        (nn.Sequential(nn.Embedding(97, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 97)), ids(), "aten.relu stands in the stream"),
    ],
)
def test_what_is_no_language_model_is_refused(model, example, reason):
    with pytest.raises(UnsupportedError, match=reason):
        plan_of(lowered(model.eval(), example))


class Translator(nn.Module):
    """PyTorch's own decoder, of what an encoder would give."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.d = nn.Embedding(97, 32), nn.Embedding(50, 32), nn.LayerNorm(32)
        self.c = nn.TransformerDecoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.e = nn.Linear(32, 97)

    def forward(self, ids, source):
        return self.e(self.d(self.c(self.a(ids), self.b(source))))


def test_an_encoder_with_a_decoder_is_refused():
    program = lowered(Translator().eval(), ids(), source=ids(vocabulary=50, length=7))
    with pytest.raises(UnsupportedError, match=r"%linear_2 = .* its weight is computed, want a stored one\n    c.multihead_attn"):
        plan_of(program)
