"""Mistakes that tutorials make, each of which must be seen: layers left in floating point, sizes without scales, weights unchanged."""

from __future__ import annotations

import pytest
import torch

from edgecc.ir import capture
from edgecc.quantization.layers import stored_bytes, summarize
from edgecc.testing import apply, trace_function
from tests.quantization.nets import Residual, images, normal, run, traced

FUSED = "normalize: decompose, canonicalize, fold-constants | fuse: fuse-layer-norm, fuse-gelu, fuse-attention, canonicalize"


@pytest.fixture(scope="module")
def gpt2():
    """GPT-2 with random weights, wide enough that its layers are most of it, after the float passes; its layers are HF Conv1D."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=500, n_positions=32, n_embd=128, n_layer=2, n_head=4)
    model = transformers.GPT2LMHeadModel(config).eval()
    program = capture.trace(model, (), {"input_ids": torch.randint(0, 500, (1, 12)), "use_cache": False})
    run(program, FUSED)
    return program


@pytest.mark.slow
def test_conv1d_of_hugging_face_is_quantized_like_a_linear_layer(gpt2):
    """GPT-2 shrinks to less than 1 / 3.5: all its layers, and the table that is tied to the last of them."""
    program = gpt2.snapshot()
    context = run(program, "insert-fake-quant, calibrate, finalize-quant", gpt2.examples)
    summary = summarize(gpt2, program, [gpt2.examples])
    assert summary.float_bytes / summary.bytes >= 3.5
    weighted = [n for n in summary.layers if n.float_bytes]
    assert len(weighted) == 2 * 4 + 1 and all(n.weight_bits == 8 for n in weighted)
    assert {r.node for r in context.remarks if r.kind == "missed"} == {
        n.name for n in program.calls(torch.ops.aten.scaled_dot_product_attention.default)
    }


def test_conv1d_as_it_is_traced_is_quantized_too():
    """addmm(b, x, W [in, out]), before `decompose` makes it linear: scales lie along the columns."""

    def net(x):
        return torch.addmm(b, x, w)

    w, b = normal(6, 4), normal(4, seed=2)
    program = trace_function(net, normal(3, 6))
    want = program(*program.examples)[0]
    run(program, "insert-fake-quant, calibrate, finalize-quant", program.examples)
    (call,) = program.calls(torch.ops.quantized_decomposed.dequantize_per_channel.default)
    assert call.args[3] == 1 and program.weight(call.args[1]).shape == (4,)
    got = program(*program.examples)[0]
    assert not torch.equal(got, want) and float((got - want).abs().max()) < 0.05 * float(want.abs().max())


def test_a_size_counts_scales():
    """Groups of 16 numbers of 4 bits carry a float32 scale each: 6 bits a number and not 4."""
    program = traced(lambda: torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False)), normal(2, 64))
    run(program, "insert-fake-quant{scheme='int4-weight-g16'}, finalize-quant")
    assert stored_bytes(program) == 64 * 64 * 6 // 8


def test_quantizing_twice_changes_nothing():
    program = traced(Residual, images())
    run(program, "insert-fake-quant, calibrate, finalize-quant", (images(),))
    text, want = str(program.graph), program(images())[0]
    run(program, "insert-fake-quant, calibrate, finalize-quant", (images(),))
    assert str(program.graph) == text and torch.equal(program(images())[0], want)


def test_the_same_data_gives_the_same_program():
    texts = []
    for _ in range(2):
        program = traced(Residual, images())
        run(
            program,
            "equalize-layers, smooth-quant, insert-fake-quant{scheme='w4a8'}, compensate-rounding, calibrate, correct-bias, finalize-quant",
            (images(),),
        )
        texts.append((str(program.graph), [t.tolist() for t in program.weights().values()]))
    assert texts[0] == texts[1]


def test_constant_channels_and_tensors_of_one_element():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(1, 4), torch.nn.Linear(4, 1)
            with torch.no_grad():
                self.a.weight[1] = 0.0
                self.a.bias[1] = 0.0
                self.b.weight[:] = 0.5

        def forward(self, x):
            return self.b(self.a(x).relu())

    x = torch.tensor([[1.5]])
    program = traced(Net, x)
    want = program(x)[0]
    run(program, "equalize-layers, smooth-quant, insert-fake-quant, compensate-rounding, calibrate, correct-bias, finalize-quant", (x,))
    got = program(x)[0]
    assert bool(torch.isfinite(got).all()) and abs(float(got - want)) <= 0.02 * max(1.0, abs(float(want)))


def test_activations_that_are_always_zero():
    program = traced(Residual, images())
    run(program, "insert-fake-quant, calibrate, finalize-quant", (torch.zeros(4, 3, 8, 8),))
    assert bool(torch.isfinite(program(torch.zeros(4, 3, 8, 8))[0]).all())


def test_remarks_name_what_is_left_in_floating_point():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.fc = torch.nn.GRU(4, 4), torch.nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.rnn(x)[0])

    from edgecc.passes.insert_fake_quant import InsertFakeQuant

    program = traced(Net, normal(3, 2, 4))
    _, context = apply(InsertFakeQuant(), program)
    missed = {r.node: r.message for r in context.remarks if r.kind == "missed"}
    assert list(missed.values()) == ["stays in floating point: no target computes it in integers"]
