"""Changes to decoders, most of which no architecture of llama.cpp has."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.targets.gguf import decoders
from tests.targets.gguf.decoders import RMS, Decoder, Mix, Spelling, Step

Mutation = Callable[[Decoder], nn.Module]


class After(nn.Module):
    """A function of what a module gives."""

    def __init__(self, inner: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.inner, self.function, self.parts = inner, function, nn.ModuleList(parts)

    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        return self.function(self.inner(*x))


class Before(nn.Module):
    """A module of a function."""

    def __init__(self, inner: nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.function(x))


def _last(model: Decoder, kind: type[nn.Module] = Step) -> Any:
    return [m for m in model.modules() if isinstance(m, kind)][-1]


def _wrap(owner: nn.Module, name: str, function: Callable[[torch.Tensor], torch.Tensor], *parts: nn.Module) -> None:
    setattr(owner, name, After(getattr(owner, name), function, *parts))


def _on(part: str, function: Callable[[torch.Tensor], torch.Tensor], kind: type[nn.Module] = Step) -> Mutation:
    """A function of what `part` of the last such module gives."""

    def change(model: Decoder) -> nn.Module:
        owner = model if kind is Decoder else _last(model, kind)
        if getattr(owner, part, None) is not None:
            _wrap(owner, part, function)
        return model

    return change


def _on_heads(function: Callable[[torch.Tensor], torch.Tensor]) -> Mutation:
    """A function of what the last attention gives its layer."""

    def change(model: Decoder) -> nn.Module:
        mix = _last(model, Mix)
        mix.e = Before(mix.e, function)
        return model

    return change


def _norm_of_embeddings(model: Decoder) -> nn.Module:
    model.p = nn.Sequential(model.p, RMS(model.s.width))
    return model


def _norm_after(part: str) -> Mutation:
    def change(model: Decoder) -> nn.Module:
        step = _last(model)
        norm = RMS(model.s.width)
        if getattr(step, part) is not None:
            _wrap(step, part, norm, norm)
        return model

    return change


def _respelled(**changes: Any) -> Mutation:
    """The last attention is spelled differently."""

    def change(model: Decoder) -> nn.Module:
        mix = _last(model, Mix)
        mix.s = replace(mix.s, **changes)
        return model

    return change


def _attended(change_inputs: Callable[..., tuple[torch.Tensor, ...]]) -> Mutation:
    """Queries, keys and values of the last attention are changed where they meet."""

    def change(model: Decoder) -> nn.Module:
        mix = _last(model, Mix)
        attend = mix._attend
        mix._attend = lambda q, k, v, scale: attend(*change_inputs(q, k, v), scale)
        return model

    return change


def _masked(bias: Callable[[int, int], torch.Tensor]) -> Mutation:
    """The last attention has another mask: of heads and length."""

    def change(model: Decoder) -> nn.Module:
        mix = _last(model, Mix)

        def attend(q, k, v, scale):
            groups = q.shape[1] // k.shape[1]
            k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias(q.shape[1], q.shape[2])[None], scale=scale)

        mix._attend = attend
        return model

    return change


def _causal(scores: torch.Tensor, diagonal: int = 0) -> torch.Tensor:
    n = scores.shape[-1]
    return scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(diagonal), -torch.inf)


def _window(heads: int, n: int) -> torch.Tensor:
    return _causal(torch.zeros(heads, n, n)).masked_fill(torch.ones(n, n, dtype=torch.bool).tril(-5), -torch.inf)


def _slopes(heads: int, n: int) -> torch.Tensor:
    distance = (torch.arange(n)[None] - torch.arange(n)[:, None]).float()
    return _causal(distance * torch.linspace(0.1, 0.7, heads)[:, None, None])


def _bias_of_positions(heads: int, n: int) -> torch.Tensor:
    return _causal(torch.linspace(-1, 1, n * n).view(n, n).sin().expand(heads, n, n))


def _eps(model: Decoder) -> nn.Module:
    model.y = nn.RMSNorm(model.s.width, eps=0.1) if model.s.norm == "rms" else nn.LayerNorm(model.s.width, eps=0.1)
    return model


def _eps_of_heads(model: Decoder) -> nn.Module:
    mix = _last(model, Mix)
    if model.s.query_norm:
        mix.g = nn.RMSNorm(model.s.head, eps=0.1)
    return model


def _layer_norm_of_heads(model: Decoder) -> nn.Module:
    mix = _last(model, Mix)
    if model.s.query_norm:
        mix.g = nn.LayerNorm(model.s.head)
    return model


def _shared(model: Decoder) -> nn.Module:
    if model.s.heads[0] == model.s.heads[-1] and model.s.kv_heads[0] == model.s.kv_heads[-1] and not model.s.missing:
        model.t[-1] = model.t[0]
    return model


def _no_norm(part: str) -> Mutation:
    def change(model: Decoder) -> nn.Module:
        setattr(_last(model), part, nn.Identity())
        return model

    return change


def _no_last_norm(model: Decoder) -> nn.Module:
    model.y = nn.Identity()
    return model


def _shifted_rope(model: Decoder) -> nn.Module:
    mix = _last(model, Mix)
    if model.s.rope:
        mix._attend, attend = None, mix._attend
        mix._attend = lambda q, k, v, scale: attend(decoders._turn(mix.s, q), k, v, scale)
    return model


def _turn_before_norm(model: Decoder) -> nn.Module:
    mix = _last(model, Mix)
    if model.s.query_norm and model.s.rope:
        mix.f = Before(mix.f, lambda q: decoders._turn(mix.s, q))
    return model


def _keys_in_pairs(model: Decoder) -> nn.Module:
    """Queries turn in other pairs than keys."""
    mix = _last(model, Mix)
    other = replace(model.s, rope={"halves": "pairs"}.get(model.s.rope, "halves"), query_norm=False)
    if model.s.rope and not model.s.fused and not model.s.query_norm:

        def forward(x):
            b, n, _ = x.shape
            q, k, v = (m(x).view(b, n, -1, model.s.head).transpose(1, 2) for m in (mix.b, mix.c, mix.d))
            q, k = decoders._turn(model.s, q), decoders._turn(other, k)
            return mix.e(mix._attend(q, k, v, 0.3).transpose(1, 2).reshape(b, n, -1))

        mix.forward = forward
    return model


def _values_of_the_stream(model: Decoder) -> nn.Module:
    """Values are made of the stream and not of its norm."""
    step = _last(model)
    mix = step.m
    if mix is not None and not model.s.fused and not model.s.parallel:
        kept: list[torch.Tensor] = []
        step.n = Before(step.n, lambda x: (kept.append(x), x)[1])
        mix.d = Before(mix.d, lambda x: kept.pop())
    return model


def _hidden_ids(model: Decoder) -> nn.Module:
    """Tokens 0 are not seen."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, ids):
            mix = _last(model, Mix)

            def attend(q, k, v, scale):
                groups = q.shape[1] // k.shape[1]
                k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
                n = ids.shape[1]
                seen = torch.ones(n, n, dtype=torch.bool).tril() & (ids != 0)[:, None, None, :] | torch.eye(n, dtype=torch.bool)
                return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)

            mix._attend = attend
            return model(ids)

    return Padded()


def _earlier(model: Decoder) -> nn.Module:
    """A value of the first layer is added to the last one's network."""
    kept: list[torch.Tensor] = []
    model.t[0].o = After(model.t[0].o, lambda x: (kept.append(x), x)[1])
    if model.t[0].w is not None and model.t[-1].w is not None and not model.s.parallel:
        _wrap(model.t[-1], "w", lambda x: x + kept.pop())
    return model


def _last_token(model: Decoder) -> nn.Module:
    model.y = Before(model.y, lambda x: x[:, -1])
    return model


def _swapped_halves(model: Decoder) -> nn.Module:
    """The last network's activation is on the other half."""
    wide = _last(model, decoders.Wide)
    if model.s.gated and not model.s.fused_gate:
        wide.a, wide.b = wide.b, wide.a
    return model


def _doubled(model: Decoder) -> nn.Module:
    step = model.t[-1]
    forward = step.forward
    step.forward = lambda x: forward(x) + x
    return model


MUTATIONS: dict[str, Mutation] = {
    "none": lambda model: model,
    "norm of the attention's result": _norm_after("m"),
    "norm of the network's result": _norm_after("w"),
    "half the attention's result": _on("m", lambda x: x * 0.5),
    "half the network's result": _on("w", lambda x: x / 2),
    "channels of a result scaled": _on("m", lambda x: x * torch.linspace(0.5, 2, x.shape[-1])),
    "half the stream": _on("n", lambda x: x * 0.5),
    "a constant in a branch": _on("w", lambda x: x + 0.1),
    "relu of a branch": _on("m", torch.relu),
    "soft caps of the logits": _on("z", lambda x: 3 * torch.tanh(x / 3), Decoder),
    "scaled logits": _on("z", lambda x: x * 0.25, Decoder),
    "logits and a number": _on("z", lambda x: x + 1.0 * torch.arange(x.shape[-1]) / 10, Decoder),
    "log of the logits": _on("z", lambda x: x.log_softmax(-1), Decoder),
    "scaled embeddings": _on("p", lambda x: x * math.sqrt(x.shape[-1]), Decoder),
    "divided embeddings": _on("p", lambda x: x / 3, Decoder),
    "embeddings and a vector": _on("p", lambda x: x + torch.linspace(-1, 1, x.shape[-1]), Decoder),
    "tanh of the embeddings": _on("p", torch.tanh, Decoder),
    "embeddings in other places": _on("p", lambda x: x.roll(1, 1), Decoder),
    "reversed tokens": _on("p", lambda x: x.flip(1), Decoder),
    "norm of the embeddings": _norm_of_embeddings,
    "scaled norm": _on("o", lambda x: x * 0.7),
    "relu of the attention's heads": _on_heads(torch.relu),
    "clamp of the attention's heads": _on_heads(lambda x: x.clamp(-0.2, 50)),
    "mixed tokens before a layer": _on_heads(lambda x: x.roll(1, 1)),
    "heads of the result scaled": _on_heads(lambda x: x * torch.linspace(0.5, 1, x.shape[-1])),
    "relu of what is gated": _on("b", torch.relu, decoders.Wide),
    "what is gated halved": _on("b", lambda x: x * 0.5, decoders.Wide),
    "half of what is activated": _on("a", lambda x: x * 0.5, decoders.Wide),
    "a number before the activation": _on("a", lambda x: x + 0.5, decoders.Wide),
    "swapped halves": _swapped_halves,
    "window": _masked(_window),
    "own slopes": _masked(_slopes),
    "bias of positions": _masked(_bias_of_positions),
    "no token sees itself but the first": _masked(
        lambda h, n: torch.cat([torch.zeros(h, n, 1), _causal(torch.zeros(h, n, n), -1)[..., 1:]], -1)
    ),
    "all tokens": _masked(lambda h, n: torch.zeros(h, n, n)),
    "causal with an offset": _masked(lambda h, n: _causal(torch.full((h, n, n), 2.0))),
    "heads with masks of their own": _masked(lambda h, n: torch.cat([_window(1, n), _causal(torch.zeros(h - 1, n, n))])),
    "eps of the last norm": _eps,
    "eps of the keys' norm": _eps_of_heads,
    "layer norm of keys": _layer_norm_of_heads,
    "another base": _respelled(base=500.0),
    "another scale": _respelled(scale=0.1),
    "no rope in a layer": _respelled(rope=""),
    "another stretch": _respelled(stretch=3.0),
    "partial rope in a layer": _respelled(rope_width=4),
    "queries turned twice": _shifted_rope,
    "queries turned before their norm": _turn_before_norm,
    "keys in other pairs": _keys_in_pairs,
    "queries of heads scaled": _attended(lambda q, k, v: (q * torch.linspace(0.5, 1.5, q.shape[1])[:, None, None], k, v)),
    "keys of heads scaled": _attended(lambda q, k, v: (q, k * torch.linspace(0.5, 1.5, k.shape[1])[:, None, None], v)),
    "values of heads scaled": _attended(lambda q, k, v: (q, k, v * torch.linspace(0.5, 1.5, v.shape[1])[:, None, None])),
    "dimensions of keys scaled": _attended(lambda q, k, v: (q, k * torch.linspace(0.5, 1.5, k.shape[-1]), v)),
    "queries scaled by position": _attended(lambda q, k, v: (q * torch.linspace(0.5, 1.5, q.shape[2])[:, None], k, v)),
    "clamped queries": _attended(lambda q, k, v: (q.clamp(-1, 1), k, v)),
    "a number on keys": _attended(lambda q, k, v: (q, k + 0.3, v)),
    "relu of values": _attended(lambda q, k, v: (q, k, v.relu())),
    "values of the token before": _attended(lambda q, k, v: (q, k, v.roll(1, 2))),
    "heads in another order": _attended(lambda q, k, v: (q.flip(1), k, v)),
    "keys in another order": _attended(lambda q, k, v: (q, k.flip(1), v)),
    "keys and values in another order": _attended(lambda q, k, v: (q, k.flip(1), v.flip(1))),
    "dimensions of values reversed": _attended(lambda q, k, v: (q, k, v.flip(-1))),
    "normed queries": _attended(lambda q, k, v: (F.normalize(q, dim=-1) * 3, k, v)),
    "shared layers": _shared,
    "no norm before the attention": _no_norm("n"),
    "no norm before the network": _no_norm("o"),
    "no last norm": _no_last_norm,
    "values of the stream": _values_of_the_stream,
    "tokens that are not seen": _hidden_ids,
    "a value of an earlier layer": _earlier,
    "the last token alone": _last_token,
    "doubled stream": _doubled,
}


def mutated(spelling: Spelling, mutation: str, seed: int = 0) -> nn.Module:
    return MUTATIONS[mutation](decoders.decoder(spelling, seed)).eval()
