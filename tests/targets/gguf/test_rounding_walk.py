"""The walk over a program: moments as hooks on the module see them, of a model whose earlier layers are rounded already."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from edgecc.errors import UsageError
from edgecc.ir import capture
from edgecc.passes.decompose import Decompose
from edgecc.targets.gguf.rounding import observe, sensitivity
from edgecc.testing import apply

aten = torch.ops.aten
WIDTH, INNER, TOKENS, LENGTH = 16, 24, 30, 7


class Net(nn.Module):
    """ids [n, 7] -> [n, 7, 30]: two layers read one input, one its product, in each of the ways that a weight is multiplied by.

    The product is cut in two and put together again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.norm, self.gate, self.up = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, INNER), nn.Linear(WIDTH, INNER, bias=False)
        self.down, self.shift = nn.Parameter(torch.randn(INNER, WIDTH) / 4), nn.Parameter(torch.randn(WIDTH))
        self.head = nn.Parameter(torch.randn(WIDTH, TOKENS) / 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        y = self.norm(x)
        h = torch.sigmoid(self.gate(y)) * self.up(y)
        halves = h.chunk(2, -1)
        h = torch.cat((halves[1].neg().neg(), halves[0]), -1).roll(INNER // 2, -1)
        x = x + torch.addmm(self.shift, h.view(-1, INNER), self.down, alpha=2.0).view(x.shape)
        return x @ self.head


def made():
    torch.manual_seed(0)
    net = Net().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    samples = [(torch.randint(0, TOKENS, (2, LENGTH), generator=generator),) for _ in range(5)]
    return net, *traced(net, samples)


def traced(net, samples):
    """With every product by a weight a call of aten.linear, as in the target's pipeline."""
    program = capture.trace(net, samples[0])
    apply(Decompose(), program)
    return program, samples, list(program.calls(aten.linear.default))


def seen(net, samples):
    """What the layers read in eager PyTorch: [vectors, in] of gate and up, down, head."""
    found = []
    for (ids,) in samples:
        x = net.embedding(ids)
        y = net.norm(x)
        h = torch.sigmoid(net.gate(y)) * net.up(y)
        out = x + 2 * (h @ net.down) + net.shift
        found.append([v.reshape(-1, v.shape[-1]) for v in (y, h, out)])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def test_moments_are_those_of_what_the_layers_read():
    net, program, samples, layers = made()
    steps = list(observe(program, samples, layers))
    assert [len(step.nodes) for step in steps] == [2, 1, 1]
    assert [node for step in steps for node in step.nodes] == layers
    for step, x in zip(steps, seen(net, samples), strict=True):
        assert step.moments.count == len(x) == 70
        assert torch.allclose(step.moments.importance, x.square().mean(0), rtol=1e-5)
        assert torch.allclose(step.moments.products, x.T @ x, rtol=1e-4, atol=1e-4)  # float32 sums in another order
        assert not bool(step.moments.drift.any())


def test_later_layers_see_rounded_ones_and_know_the_drift():
    net, program, samples, layers = made()
    before = seen(net, samples)
    weights = {
        n: 0.1 * torch.randn(s, generator=torch.Generator().manual_seed(i)) for i, (n, s) in enumerate(zip(layers, SHAPES, strict=True))
    }
    steps = []
    for step in observe(program, samples, layers):
        for node in step.nodes:
            step.replace(node, weights[node])
        steps.append(step)
    gate, up, down, _ = (weights[n] for n in layers)
    net.gate.weight[:], net.up.weight[:], net.down[:] = gate, up, down.T
    for step, x, z in zip(steps, seen(net, samples), before, strict=True):
        assert torch.allclose(step.moments.products, x.T @ x, rtol=1e-4, atol=1e-4)
        assert torch.allclose(step.moments.drift, (z - x).T @ x, rtol=1e-4, atol=1e-3)
    assert bool(steps[1].moments.drift.any())


SHAPES = [(INNER, WIDTH), (INNER, WIDTH), (WIDTH, INNER), (TOKENS, WIDTH)]


def test_a_rounded_embedding_counts_for_the_rounded_model_alone():
    net, program, samples, layers = made()
    before = seen(net, samples)[0]
    (node,) = program.calls(aten.embedding.default)
    coarse = (net.embedding.weight * 2).round() / 2
    step = next(observe(program, samples, layers, rounded={node.args[0]: lambda: coarse}))
    net.embedding.weight[:] = coarse
    x = seen(net, samples)[0]
    assert torch.allclose(step.moments.products, x.T @ x, rtol=1e-4, atol=1e-4)
    assert torch.allclose(step.moments.drift, (before - x).T @ x, rtol=1e-4, atol=1e-3)


def test_tokens_that_the_mask_leaves_out_do_not_count():
    net, program, samples, layers = made()
    generator = torch.Generator().manual_seed(2)
    masks = [torch.rand(2, LENGTH, generator=generator) < 0.5 for _ in samples]
    kept = torch.cat([m.reshape(-1) for m in masks])
    for step, x in zip(observe(program, samples, layers, masks=masks), seen(net, samples), strict=True):
        assert step.moments.count == int(kept.sum())
        assert torch.allclose(step.moments.products, x[kept].T @ x[kept], rtol=1e-4, atol=1e-4)


def test_squares_alone_need_no_matrix():
    net, program, samples, layers = made()
    for step, x in zip(observe(program, samples, layers, products=False), seen(net, samples), strict=True):
        assert step.moments.products is None
        assert step.moments.drift is None
        assert torch.allclose(step.moments.importance, x.square().mean(0), rtol=1e-5)


def test_moments_of_a_step_and_its_weights_are_let_go_with_it():
    """What the generator holds is what decides the memory of a large model."""
    _, program, samples, layers = made()
    (node,) = program.calls(aten.embedding.default)
    read = []

    def embedding():
        weight = torch.ones(TOKENS, WIDTH)
        read.append(weakref.ref(weight))
        return weight

    held = []
    for step in observe(program, samples, layers, rounded={node.args[0]: embedding}):
        gc.collect()
        assert [r() for r in read] == [None]
        assert [r() for r in held] == [None] * len(held)
        held.append(weakref.ref(step.moments.products))
        for n in step.nodes:
            step.replace(n, torch.zeros(SHAPES[layers.index(n)]))
        del step


def test_an_empty_calibration_set_and_numbers_that_are_not_finite_are_refused():
    net, program, samples, layers = made()
    with pytest.raises(UsageError, match="the calibration set is empty"):
        next(observe(program, [], layers))
    net.embedding.weight[:] = torch.nan
    with pytest.raises(UsageError, match="NaN in the calibration data"):
        next(observe(*traced(net, samples)))


@pytest.mark.parametrize("logits", [True, False])
def test_sensitivity_is_what_autograd_finds_in_the_module(logits, monkeypatch):
    """Of the same draws of tokens, or the same directions."""
    monkeypatch.setattr("edgecc.targets.gguf.rounding.derivatives._SEGMENT", 1)
    net, _, samples, _ = made()
    program = capture.trace(net, samples[0])  # with its list of tensors
    (node,) = program.calls(aten.embedding.default)
    found = sensitivity(program, samples, node, logits=logits, seed=5)
    generator = torch.Generator().manual_seed(5)
    slopes = []
    for (ids,) in samples:
        x = net.embedding(ids).requires_grad_()
        y = net.norm(x)
        out = (x + 2 * ((torch.sigmoid(net.gate(y)) * net.up(y)) @ net.down) + net.shift) @ net.head
        if logits:
            drawn = torch.multinomial(out.detach().softmax(-1).view(-1, TOKENS), 1, generator=generator).view(-1)
            loss = nn.functional.cross_entropy(out.view(-1, TOKENS), drawn, reduction="sum")
        else:
            loss = (out * torch.randn(out.shape, generator=generator)).sum()
        slopes.append(torch.autograd.grad(loss, x)[0].reshape(-1, WIDTH))
    g = torch.cat(slopes)
    assert found.count == 70
    assert torch.allclose(found.products, g.T @ g, rtol=1e-3, atol=1e-4 * float(g.square().sum()))
    assert not any(w.requires_grad for w in program.weights().values())


def test_sensitivity_reads_no_more_samples_than_the_matrix_needs():
    _, program, samples, _ = made()
    (node,) = program.calls(aten.embedding.default)
    read = []
    moments = sensitivity(program, (read.append(s) or s for s in samples * 100), node, logits=True)
    assert 64 * WIDTH <= moments.count <= 64 * WIDTH + 14
    assert len(read) <= moments.count // 14 + 1


def test_sensitivity_leaves_out_what_the_mask_does():
    """Position 3 alone counts, and no position of this model reads another."""
    _, program, samples, _ = made()
    (node,) = program.calls(aten.embedding.default)
    mask = torch.zeros(2, LENGTH, dtype=torch.bool)
    nothing = sensitivity(program, samples, node, logits=True, masks=[mask] * 5)
    assert not bool(nothing.products.any())
