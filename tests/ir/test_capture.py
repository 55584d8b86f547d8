"""Tracing: what the flat, functional graph and its signature look like, and that values are those of eager."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecc.errors import CaptureError, UsageError
from edgecc.ir.capture import eager, trace
from edgecc.ir.provenance import describe, source_line
from edgecc.ir.signature import Dim
from edgecc.testing import operators, trace_function


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.out = nn.Linear(8, 10)
        self.out.weight = self.table.weight
        self.register_buffer("shift", torch.ones(8))

    def forward(self, batch, scale=None, flag=True):
        x = self.table(batch["ids"]) + self.shift
        if flag:
            x = x * 2
        return {"logits": self.out(x), "none": scale, "hidden": (x,)}


IDS = torch.arange(10).reshape(2, 5)
DIMS = {"batch_ids": {0: Dim("batch", 1, 8), 1: Dim("seq", 1, 64)}}


def test_nested_inputs_and_outputs_become_flat_and_named():
    program = trace(Nested(), ({"ids": IDS},), {"scale": None})
    assert [str(s) for s in program.signature.inputs] == ["batch_ids: i64[2, 5]"]
    assert [str(s) for s in program.signature.outputs] == ["logits: f32[2, 5, 10]", "hidden.0: f32[2, 5, 8]"]


def test_a_traced_program_gives_the_values_of_eager_at_every_size():
    torch.manual_seed(0)
    model = Nested()
    program = trace(model, ({"ids": IDS},), {"scale": None}, dims=DIMS)
    original = eager(model, ({"ids": IDS},), {"scale": None})
    for shape in ((2, 5), (1, 1), (8, 64), (3, 7)):
        ids = torch.randint(0, 10, shape)
        for got, want in zip(program(ids), original(ids), strict=True):
            assert torch.equal(got, want)


def test_dynamic_dimensions_keep_their_names_and_bounds():
    program = trace(Nested(), ({"ids": IDS},), dims=DIMS)
    assert [str(d) for d in program.signature.dims] == ["batch=1..8", "seq=1..64"]
    assert program.signature.outputs[0].shape == ("batch", "seq", 10)


def test_a_size_that_depends_on_a_dynamic_one_is_an_expression():
    program = trace_function(lambda x: x.reshape(x.shape[0] * 2, 4), torch.ones(3, 8), dims={"x": {0: Dim("n", 1, 9)}})
    assert program.signature.outputs[0].shape == ("2*n", 4)


def test_a_tied_weight_is_one_tensor():
    program = trace(Nested(), ({"ids": IDS},))
    assert sorted(program.weights()) == ["out.bias", "out.weight", "shift"]


def test_the_model_keeps_its_training_flag():
    model = Nested().train()
    model.out.eval()
    trace(model, ({"ids": IDS},))
    assert model.training and not model.out.training


def test_dims_of_an_input_that_does_not_exist_are_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean 'batch_ids'"):
        trace(Nested(), ({"ids": IDS},), dims={"batch_id": {0: Dim("b")}})


def test_inputs_that_do_not_fit_forward_are_refused():
    with pytest.raises(UsageError, match="forward of Nested"):
        trace(Nested(), ())


def test_a_branch_on_values_is_a_capture_error_with_the_line():
    class Branch(nn.Module):
        def forward(self, x):
            if x.sum() > 0:  # the line that the error must name
                return x
            return -x

    with pytest.raises(CaptureError, match=r"test_capture\.py:\d+"):
        trace(Branch(), (torch.ones(2),))


def test_a_model_that_writes_to_its_buffers_is_refused():
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x):
            self.count += 1
            return x + self.count

    with pytest.raises(CaptureError, match="writes to 'count'"):
        trace(Counter(), (torch.ones(2),))


def test_an_enabled_autocast_region_is_refused_with_its_line():
    class Mixed(nn.Module):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return x @ x

    with pytest.raises(CaptureError, match="autocast"):
        trace(Mixed(), (torch.ones(2, 2),))


def test_a_no_grad_region_is_inlined():
    class Frozen(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                y = x * 2
            return y + 1

    with torch.enable_grad():
        assert operators(trace(Frozen(), (torch.ones(2),))) == ["aten.mul.Tensor", "aten.add.Tensor"]


def test_an_in_place_write_to_a_view_reaches_its_base():
    def write(x):
        y = x.clone()
        y[:, 0] += 1
        return y.relu_()

    program = trace_function(write, torch.zeros(2, 3))
    assert torch.equal(program(torch.full((2, 3), -0.5))[0], torch.tensor([[0.5, 0, 0], [0.5, 0, 0]]))


def test_every_call_names_the_users_line():
    class Own(nn.Module):
        def forward(self, x):
            y = nn.functional.linear(x, torch.ones(3, 3))
            return torch.relu(y)

    lines = [source_line(n) for n in trace(Own(), (torch.ones(2, 3),)).calls()]
    assert len(set(lines)) == 2 and all(line.startswith("test_capture.py:") for line in lines)


def test_provenance_names_the_module_that_made_the_node():
    program = trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), (torch.ones(2, 3),))
    assert [describe(n).split(",")[0] for n in program.calls()] == ["0", "1"]


def test_a_model_without_a_tensor_output_is_refused():
    with pytest.raises(CaptureError, match="returns no tensor"):
        trace_function(lambda x: {"n": 3}, torch.ones(2))
