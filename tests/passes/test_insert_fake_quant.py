"""insert-fake-quant: what it makes of weights, which layers it leaves, and what it says of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecc.errors import UsageError
from edgecc.ir import archive
from edgecc.passes.insert_fake_quant import InsertFakeQuant
from edgecc.pipeline.blame import values
from edgecc.quantization import codes, fake_quant
from edgecc.quantization.scheme import scheme
from edgecc.testing import apply, operators, trace_function
from tests.quantization.nets import Residual, images, normal, run, sqnr, traced

aten = torch.ops.aten


class Wide(nn.Module):
    """x [n, 64] -> [n, 8]."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 8)

    def forward(self, x):
        return self.down(self.up(x).relu())


def wide():
    return traced(Wide, normal(4, 64))


def test_weights_are_those_that_pytorch_fake_quantizes():
    program = wide()
    w = program.weight(program.calls(aten.linear.default)[0].args[1])
    scale = w.abs().amax(1) / 127
    want = torch.fake_quantize_per_channel_affine(w, scale, torch.zeros(128, dtype=torch.int32), 0, -127, 127)
    apply(InsertFakeQuant(scheme="int8-weight"), program)
    found = fake_quant.weights(program)[0]
    given = found.node.target(w, program.weight(found.scale), program.weight(found.zero_point), *found.node.args[3:])
    assert torch.equal(given, want)


@pytest.mark.parametrize("name", ["int8-weight", "int4-weight", "int4-weight-asym", "int4-weight-channel", "nf4", "nvfp4"])
def test_the_program_computes_with_the_rounded_weights(name):
    """The error of the outputs is that of the weights: a plain product by what they were rounded to gives the same."""
    program = wide()
    x = program.examples[0]
    apply(InsertFakeQuant(scheme=name), program)
    run(program, "finalize-quant")
    up, down = (n.args[1].name for n in program.calls(aten.linear.default))
    held, (got,) = values(program, (x,)), program(x)
    biases = [program.weight(n.args[2]) for n in program.calls(aten.linear.default)]
    want = (x @ held[up].T + biases[0]).relu() @ held[down].T + biases[1]
    assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(("name", "stored"), [("nf4", (torch.uint8, 2)), ("nvfp4", (torch.int8, 1))])
def test_codes_are_stored_and_read_back(name, stored):
    """NF4: two in a byte. NVFP4: integers that a target packs."""
    program = wide()
    kind = scheme(name).weight
    w = program.weight(program.calls(aten.linear.default)[0].args[1])
    want = codes.decode(codes.encode(w, kind), kind).view_as(w)
    apply(InsertFakeQuant(scheme=name), program)
    held = [t for n, t in program.weights().items() if n.endswith("_codes")]
    assert {t.numel() for t in held} == {64 * 128 // stored[1], 128 * 8 // stored[1]} and {t.dtype for t in held} == {stored[0]}
    held = values(program, program.examples)
    assert torch.equal(held[program.calls(aten.linear.default)[0].args[1].name], want)


def test_fake_quant_has_straight_through_gradients():
    program = wide()
    run(program, "insert-fake-quant, calibrate", program.examples)
    x = program.examples[0].clone().requires_grad_()
    program.module(x)[0].sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0


def test_ranges_survive_an_archive(tmp_path):
    program = wide()
    run(program, "insert-fake-quant, calibrate", program.examples)
    archive.save(program, tmp_path / "p.pt2")
    again = archive.load(tmp_path / "p.pt2")
    assert torch.equal(again(*program.examples)[0], program(*program.examples)[0])
    run(again, "finalize-quant")
    assert "quantized_decomposed.quantize_per_tensor" in operators(again)


def test_layers_are_chosen_by_their_module_path():
    program = wide()
    context = run(program, "insert-fake-quant{layers=[['^up$', 'float'], ['down', 'w4a8']]}, calibrate", program.examples)
    up, down = program.calls(aten.linear.default)
    assert program.is_weight(up.args[1]) and not program.is_weight(down.args[1])
    assert fake_quant.weights(program)[0].limits == (-7, 7)
    (remark,) = [r for r in context.remarks if r.kind == "missed"]
    assert remark.node == up.name and remark.message == "stays in floating point: its scheme is float"


def test_a_pattern_that_keeps_nothing_is_an_error():
    """A list of layers to keep that names none, after a renaming, must not pass in silence."""
    with pytest.raises(UsageError, match=r"no layer matches 'encoder'(.|\n)*up, down"):
        apply(InsertFakeQuant(layers=(("encoder", "float"),)), wide())


def test_a_bad_pattern_is_an_error():
    with pytest.raises(UsageError, match=r"'\(' is no regular expression"):
        apply(InsertFakeQuant(layers=(("(", "float"),)), wide())


def test_a_layer_that_stays_in_floating_point_is_remarked_with_its_reason():
    def net(x, w):
        return torch.nn.functional.linear(x, w) @ torch.ones(4, 4)

    _, context = apply(InsertFakeQuant(), trace_function(net, normal(2, 3), normal(4, 3)))
    reasons = [r.message for r in context.remarks if r.kind == "missed"]
    assert reasons == ["stays in floating point: its weight is computed when the model runs"]


def test_a_tied_embedding_reads_the_quantized_weight():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    program = traced(Tied, torch.tensor([[1, 2]]))
    run(program, "insert-fake-quant{scheme='int8-weight'}, finalize-quant")
    stored = [t for t in program.weights().values() if t.numel() == 36]
    assert [t.dtype for t in stored] == [torch.int8]


@pytest.mark.parametrize("option", ["embeddings=true", "layers=[['.', 'int8-weight']]"])
def test_embeddings_are_quantized_by_rows_where_it_is_asked_for(option):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(9, 4)

        def forward(self, ids):
            return self.table(ids)

    program = traced(Net, torch.tensor([[1, 2]]))
    want = program(*program.examples)[0]
    run(program, f"insert-fake-quant{{{option}}}, finalize-quant")
    got = program(*program.examples)[0]
    step = want.abs().max() / 127
    assert not torch.equal(got, want) and float((got - want).abs().max()) <= float(step) / 2 * 1.01


def test_rows_of_linear_layers_have_dynamic_scales():
    program = wide()
    want = program(*program.examples)[0]
    context = run(program, "insert-fake-quant{scheme='int8-dynamic'}, calibrate, finalize-quant")
    assert operators(program).count("quantized_decomposed.quantize_per_token") == 2
    assert sqnr(want, program(*program.examples)[0]) > 35 and not [r for r in context.remarks if r.kind == "missed"]
    # one row does not depend on the others
    loud = program.examples[0].clone()
    loud[1:] *= 100
    assert torch.allclose(program(loud)[0][0], program(*program.examples)[0][0], atol=1e-5)


def test_channels_that_are_no_whole_groups_have_a_scale_each():
    program = traced(Residual, images())
    _, context = apply(InsertFakeQuant(scheme="int4-weight"), program)
    notes = [r.message for r in context.remarks if r.kind == "note"]
    assert "a scale per channel: 27 numbers a channel are not whole groups of 32" in notes
    assert [w.group for w in fake_quant.weights(program)] == [0, 0, 0]
