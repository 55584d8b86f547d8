"""Placement: which values of small networks are quantized, read off the finished program."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from edgecc.errors import UsageError
from edgecc.ir.ops import operator_name
from edgecc.ir.quantized import is_dequantize, is_quantize
from edgecc.quantization.placement import placement
from edgecc.testing import trace_function
from tests.quantization.nets import Residual, Transformer, images, normal, run, traced

FLOAT = "normalize: decompose, canonicalize | fuse: fuse-gelu, fuse-layer-norm"


def quantized(program, place="integer", **given):
    run(program, FLOAT)
    options = ",".join([f"placement={place}", *(f"{k}={v}" for k, v in given.items())])
    run(program, f"insert-fake-quant{{{options}}}, calibrate, finalize-quant", program.examples)
    return program


def names(program):
    """The operators in graph order, q and dq of activations as `q` and `dq`; dequantized weights are left out."""
    found = []
    for node in program.calls():
        if is_quantize(node):
            found.append("q")
        elif is_dequantize(node):
            found += [] if node.args[0].op == "get_attr" else ["dq"]
        else:
            found.append(operator_name(node.target).removeprefix("aten.").partition(".")[0])
    return " ".join(found)


def test_an_integer_network_is_closed():
    program = quantized(traced(Residual, images()))
    assert names(program) == ("q dq conv2d relu q dq conv2d q dq add relu q dq max_pool2d q dq mean q dq linear q dq")


def test_what_only_moves_numbers_keeps_the_scale():
    program = quantized(traced(Residual, images()))
    (pool,) = program.calls(torch.ops.aten.max_pool2d.default)
    before, after = pool.args[0], next(iter(pool.users))
    assert before.args[1:] == after.args[1:]


def test_requantizing_what_was_moved_changes_nothing():
    """q of what dq gave, at the same scale, is where it was: the closed form of the pair."""
    program = quantized(traced(Residual, images()))
    (pool,) = program.calls(torch.ops.aten.max_pool2d.default)
    want = program(*program.examples)
    q = next(iter(pool.users))
    program.replace(next(iter(q.users)), pool)
    program.recompile()
    assert torch.equal(want[0], program(*program.examples)[0])


def test_a_clean_network_has_q_before_what_has_weights_and_on_the_residual():
    program = quantized(traced(Residual, images()), "clean")
    assert names(program) == "q dq conv2d relu q dq conv2d add relu max_pool2d mean q dq linear"
    (add,) = program.calls(torch.ops.aten.add.Tensor)
    assert sum(map(is_dequantize, add.args)) == 1


def test_for_convolutions_linear_layers_give_floating_point():
    assert names(quantized(traced(Residual, images()), "convolutions")).endswith("mean q dq linear")


def test_a_transformer_keeps_norms_softmax_residuals_and_masks_in_floating_point():
    program = quantized(traced(Transformer, normal(2, 5, 16)))
    parts = names(program)
    assert parts.startswith("layer_norm q dq linear q dq slice")
    assert "layer_norm q dq linear q dq gelu q dq linear add" in parts
    (first, second) = program.calls(torch.ops.aten.matmul.default)
    assert all(map(is_dequantize, first.args)) and not any(map(is_dequantize, second.args))
    (softmax,) = program.calls(torch.ops.aten.softmax.int)
    assert not any(map(is_quantize, softmax.users))
    scales = [n.args[1] for n in program.calls() if is_quantize(n)]
    assert max(scales) < 1.0, "a mask of -3e38 was quantized"


def test_attention_is_quantized_where_it_is_asked_for():
    program = quantized(traced(Transformer, normal(2, 5, 16)), attention="true")
    assert all(all(map(is_dequantize, n.args)) for n in program.calls(torch.ops.aten.matmul.default))


def test_biases_and_integers_are_never_quantized():
    def net(ids, table, w, b):
        return F.linear(F.embedding(ids, table), w, b)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.w = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 4)

        def forward(self, ids):
            return net(ids, self.table.weight, self.w.weight, self.w.bias)

    program = quantized(trace_function(Net(), torch.tensor([[1, 2, 3]])))
    (linear,) = program.calls(torch.ops.aten.linear.default)
    assert names(program) == "embedding q dq linear q dq" and linear.args[2].op == "get_attr"


def test_a_network_without_contractions_is_left_alone():
    program = quantized(trace_function(lambda x: x.reshape(-1).relu(), normal(2, 3)))
    assert names(program) == "reshape relu"


def test_concatenated_branches_have_scales_of_their_own():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Conv2d(3 if k < 2 else 6, 3, 1) for k in range(3))

        def forward(self, x):
            return self.c(torch.cat([self.a(x), self.b(x)], 1))

    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.b.weight.mul_(10)
    program = quantized(trace_function(net, images()))
    (cat,) = program.calls(torch.ops.aten.cat.default)
    small, large = (part.args[1] for part in cat.args[0])
    assert large > 3 * small and is_quantize(next(iter(cat.users)))


def test_an_unknown_placement_is_refused():
    with pytest.raises(UsageError, match=r"'everywhere'(.|\n)*integer, clean, convolutions"):
        placement("everywhere")
