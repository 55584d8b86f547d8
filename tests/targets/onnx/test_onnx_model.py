"""What an ONNX file says besides its numbers: names, sources, weights and where they are stored, and what it leaves out."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecc.errors import UsageError
from edgecc.ir.signature import Dim
from edgecc.registry import Registry
from edgecc.targets.onnx_common.lowering import OPSETS, lower, refuse
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner
from edgecc.targets.onnx_common.write import DATA, MODEL, write
from edgecc.testing import trace_function
from tests import ROOT
from tests.targets.onnx.onnx_host import check

BATCH, SEQ = Dim("batch", 1, 8), Dim("seq", 1, 16)


class Tied(nn.Module):
    """Embeddings whose weight is also that of the head."""

    def __init__(self, words: int = 8192) -> None:
        super().__init__()
        self.emb, self.mix, self.head = nn.Embedding(words, 48), nn.Linear(48, 48), nn.Linear(48, words, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(F.gelu(self.mix(self.emb(ids))))


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return trace_function(Tied(), torch.randint(0, 8192, (2, 5)), dims={"ids": {0: BATCH, 1: SEQ}})


@pytest.fixture(scope="module")
def folder(program, tmp_path_factory):
    made = tmp_path_factory.mktemp("model")
    assert write(lower(program, 20), made) == [DATA]
    return made


def test_inputs_outputs_and_dimensions_have_the_names_of_the_user(folder):
    graph = onnx.load(folder / MODEL, load_external_data=False).graph
    shape = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert (graph.input[0].name, shape) == ("ids", ["batch", "seq"])
    shape = [d.dim_param or d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
    assert (graph.output[0].name, shape) == ("output", ["batch", "seq", 8192])


def test_weights_have_the_names_that_pytorch_gives_them_and_a_tied_one_is_stored_once(folder):
    graph = onnx.load(folder / MODEL, load_external_data=False).graph
    large = {i.name for i in graph.initializer if np.prod(i.dims) >= 48}
    assert large == {"head.weight", "mix.weight.transposed", "mix.bias"}
    assert [n.op_type for n in graph.node] == ["Transpose", "Gather", "MatMul", "Add", "Gelu", "MatMul"]
    assert (folder / DATA).stat().st_size < 1.1 * 4 * 8192 * 48


def test_nodes_are_named_after_the_calls_and_say_where_they_come_from(folder):
    nodes = {n.name: n for n in onnx.load(folder / MODEL, load_external_data=False).graph.node}
    assert [n for n in nodes if n != "linear_1"][1:] == ["embedding", "linear/MatMul", "linear", "gelu"]
    props = {p.key: p.value for p in nodes["linear/MatMul"].metadata_props}
    assert props["edgecc.module"] == "mix" and props["edgecc.operator"] == "aten.linear"
    assert props["edgecc.source"].startswith("test_onnx_model.py:")
    assert nodes["linear/MatMul"].doc_string == f"mix, {props['edgecc.source']}"


def test_every_value_has_a_dtype_and_a_shape(folder):
    graph = onnx.load(folder / MODEL, load_external_data=False).graph
    known = {v.name for v in (*graph.value_info, *graph.output) if v.type.tensor_type.elem_type and v.type.tensor_type.HasField("shape")}
    assert {name for n in graph.node for name in n.output} <= known


def test_external_data_is_relative_complete_and_loads_from_anywhere(folder, program, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in (MODEL, DATA):
        (moved / name).write_bytes((folder / name).read_bytes())
    stored = [i for i in onnx.load(folder / MODEL, load_external_data=False).graph.initializer if i.external_data]
    assert {e.value for i in stored for e in i.external_data if e.key == "location"} == {DATA}
    onnx.checker.check_model(str(moved / MODEL), full_check=True)
    ids = torch.randint(0, 8192, (3, 7))
    got = OnnxRuntimeRunner(moved / MODEL, 1).run({"ids": ids.numpy()})["output"]
    np.testing.assert_allclose(got, program(ids)[0].numpy(), atol=1e-5)  # sums of 48 products


def test_small_weights_stay_in_the_file_and_no_others(tmp_path):
    assert write(lower(trace_function(nn.Linear(8, 8), torch.ones(2, 8)), 20), tmp_path) == []
    assert [p.name for p in tmp_path.iterdir()] == [MODEL]


def test_the_same_program_gives_the_same_bytes(folder, program, tmp_path):
    write(lower(program.clone(), 20), tmp_path)
    assert all((tmp_path / n).read_bytes() == (folder / n).read_bytes() for n in (MODEL, DATA))


MEMORY = """
import resource, sys, tempfile
from pathlib import Path
import torch
from torch import nn
from edgecc.targets.onnx_common.lowering import lower
from edgecc.targets.onnx_common.write import write
from edgecc.testing import trace_function
program = trace_function(nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(8))), torch.ones(1, 2, 2048))
with tempfile.TemporaryDirectory() as folder:
    write(lower(trace_function(nn.Linear(2, 2), torch.ones(1, 2, 2)), 20), Path(folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write(lower(program, 20), Path(folder))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_weights_are_written_without_a_second_copy_of_them():
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 1024  # KiB: of 8 weights of 16 MiB, one is transposed at a time


def test_an_output_that_is_an_input_a_weight_or_another_output_is_copied():
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = x + 1
            return y, y, x, self.w

    program = trace_function(Same(), torch.randn(3))
    assert Counter(n.op_type for n in lower(program, 20).graph) == {"Add": 1, "Identity": 3}
    check(Same(), (torch.randn(3),))


def test_what_nothing_reads_is_left_out():
    program = trace_function(lambda x: x.max(1).values + 1, torch.randn(2, 3))
    assert Counter(n.op_type for n in lower(program, 20).graph) == {"ReduceMax": 1, "Add": 1}


def test_no_operation_leaves_no_node():
    def same(x):
        return x.contiguous().view(2, 3).expand(2, 3).to(torch.float32).permute(1, 0).permute(1, 0).reshape(2, 3) + 0.5

    assert [n.op_type for n in lower(trace_function(same, torch.randn(2, 3)), 20).graph] == ["Add"]


def test_attention_is_scaled_before_and_has_nothing_after_softmax():
    q = torch.randn(1, 2, 5, 8)
    nodes = [n.op_type for n in lower(trace_function(lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), q), 20).graph]
    assert nodes == ["Mul", "Transpose", "MatMul", "Add", "Softmax", "MatMul"]
    program = trace_function(lambda q: F.scaled_dot_product_attention(q, q, q), q)
    assert [n.op_type for n in lower(program, 23, attention=True).graph] == ["Attention"]


def test_a_mask_of_finite_numbers_is_added_as_it_is():
    def attend(q, m):
        return F.scaled_dot_product_attention(q, q, q, torch.where(m, 0.0, torch.finfo(torch.float32).min))

    q, m = torch.randn(1, 2, 5, 8), torch.rand(1, 1, 5, 5) > 0.5
    m[0, 0, 1] = False
    nodes = [n.op_type for n in lower(trace_function(attend, q, m), 20).graph]
    assert nodes == ["Where", "Mul", "Transpose", "MatMul", "Add", "Softmax", "MatMul"]
    check(attend, (q, m))


@pytest.mark.parametrize(
    ("opset", "kinds"),
    [
        (17, ["LayerNormalization", "Div", "Erf", "Add", "Mul", "Mul", "Pow", "ReduceMean", "Add", "Sqrt", "Div"]),
        (20, ["LayerNormalization", "Gelu", "Pow", "ReduceMean", "Add", "Sqrt", "Div"]),
        (23, ["LayerNormalization", "Gelu", "RMSNormalization"]),
    ],
)
def test_composites_are_whole_where_the_opset_has_them(opset, kinds):
    program = trace_function(lambda x: F.rms_norm(F.gelu(F.layer_norm(x, (8,))), (8,)), torch.randn(2, 8))
    assert [n.op_type for n in lower(program, opset).graph] == kinds


def test_every_refused_call_has_a_reason():
    def odd(x, i):
        return torch.linalg.svd(x)[1], x[x > 0], F.fold(x[None], (2, 4), (1, 1)), x.new_ones(3, dtype=torch.complex64)

    program = trace_function(odd, torch.randn(3, 8), torch.tensor([1, 0]))
    reasons = {str(n.target).split(".")[1]: refuse(n, 17) for n in program.calls() if refuse(n, 17)}
    assert reasons.pop("getitem", None) is None
    assert reasons["linalg_svd"] == "no lowering to ONNX" and reasons["new_ones"] == "dtype c64"
    assert "depends on the data" in reasons["index"] and reasons["col2im"] == "fold needs opset 18"


def test_options_are_checked():
    create = Registry.create().create_target
    for name, options, why in [
        ("onnxruntime", {"opset": OPSETS.stop}, "opset is"),
        ("onnxruntime", {"threads": 0}, "threads is 0"),
        ("onnxruntime", {"attention": True}, "opset 23"),
        ("tensorrt", {"profile": "9.0"}, "profile is"),
        ("tensorrt", {"profile": "10.1", "opset": 23}, "reads opsets up to 20"),
    ]:
        with pytest.raises(UsageError, match=why):
            create(name, options)
