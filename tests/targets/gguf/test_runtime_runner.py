"""The runner: inputs and outputs of a manifest, row by row."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecc.errors import ContractError, MissingToolError, UsageError
from edgecc.targets.gguf.runtime.metrics import compare_embeddings
from edgecc.targets.gguf.runtime.runner import LlamaCppRunner, runners
from tests.targets.gguf import tiny_gguf
from tests.targets.gguf.tiny_gguf import Tiny


def manifest(kind: str = "decoder", *, shape=("batch", "seq", 61), dtype: str = "float32", ids=("batch", "seq"), **facts) -> dict:
    inputs = [{"name": "input_ids", "dtype": "int64", "shape": list(ids)}, {"name": "attention_mask", "dtype": "int64", "shape": list(ids)}]
    outputs = [{"name": "other", "dtype": "float32", "shape": []}, {"name": "output", "dtype": dtype, "shape": list(shape)}]
    meaning = {"kind": kind, "ids": "input_ids", "mask": "", "output": "output", **facts}
    return {"deployable": "model.gguf", "inputs": inputs, "outputs": outputs, "facts": {"gguf": meaning, "threads": 1}}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny_gguf.llama(tmp_path_factory.mktemp("llama") / "model.gguf")


IDS = np.random.default_rng(0).integers(0, 61, (3, 10))
MASK = (np.arange(10) < np.array([[10], [4], [1]])).astype(np.int64)


def truth(tiny: Tiny, ids: np.ndarray) -> np.ndarray:
    """[batch, seq, ...] of PyTorch, each row by itself."""
    return np.stack([tiny.forward(torch.from_numpy(row)).numpy() for row in ids])


def test_rows_are_sequences_of_their_own(llama):
    (runner,) = runners(llama.path.parent, manifest())
    found = runner.run({"input_ids": IDS, "attention_mask": np.ones_like(IDS)})
    assert list(found) == ["output"] and found["output"].dtype == np.float32
    np.testing.assert_allclose(found["output"], truth(llama, IDS), atol=5e-5)  # float32 against float64, logits up to 8


def test_a_mask_shortens_rows_and_leaves_zeros(llama):
    runner = LlamaCppRunner(llama.path, manifest(mask="attention_mask"))
    found, covered = runner.run({"input_ids": IDS, "attention_mask": MASK})["output"], MASK.astype(bool)
    np.testing.assert_allclose(found[covered], truth(llama, IDS)[covered], atol=5e-5)  # as above
    assert not found[~covered].any()


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        ([[0, 1, 1], [1, 1, 1]], r"attention_mask of row 0 is \[0, 1, 1\]; llama.cpp takes ones and then zeros"),
        ([[1, 1, 1], [1, 0, 1]], r"attention_mask of row 1 is \[1, 0, 1\]"),
        ([[1, 1, 1], [0, 0, 0]], r"attention_mask of row 1 is \[0, 0, 0\]"),
        ([[1, 1]], r"attention_mask has shape \[1, 2\], want that of input_ids, \[2, 3\]"),
    ],
)
def test_other_masks_are_refused(llama, mask, why):
    runner = LlamaCppRunner(llama.path, manifest(mask="attention_mask"))
    with pytest.raises(UsageError, match=why):
        runner.run({"input_ids": IDS[:2, :3], "attention_mask": np.array(mask)})


def test_ids_without_a_batch_and_other_types_are_taken(llama):
    runner = LlamaCppRunner(llama.path, manifest(shape=("seq", 61), ids=("seq",), dtype="float64"))
    found = runner.run({"input_ids": IDS[0].astype(np.int32)})["output"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, truth(llama, IDS[:1])[0], atol=5e-5)  # as above


def test_an_output_of_the_rank_of_the_ids_is_of_the_last_token(llama):
    runner = LlamaCppRunner(llama.path, manifest(shape=("batch", 61), mask="attention_mask"))
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    want = truth(llama, IDS)[np.arange(3), MASK.sum(-1) - 1]
    np.testing.assert_allclose(runner.run(inputs)["output"], want, atol=5e-5)  # as above


def test_several_cases_are_run_by_one_process(llama):
    runner = LlamaCppRunner(llama.path, manifest())
    found = runner.run_many([{"input_ids": IDS}, {"input_ids": IDS[:, :3]}])
    assert [f["output"].shape for f in found] == [(3, 10, 61), (3, 3, 61)]
    np.testing.assert_array_equal(found[1]["output"], runner.run({"input_ids": IDS[:, :3]})["output"])


def test_ids_out_of_range_are_refused(llama):
    with pytest.raises(UsageError, match="token 1 is 61, want 0 to 60"):
        LlamaCppRunner(llama.path, manifest()).run({"input_ids": np.array([[1, 61]])})


@pytest.mark.parametrize("pooling", ["none", "mean", "cls"])
def test_an_encoder_gives_embeddings(tmp_path, pooling):
    tiny = tiny_gguf.bert(tmp_path / "model.gguf", pooling=pooling)
    ids = np.random.default_rng(1).integers(0, tiny.vocabulary, (3, 10))
    hidden = [tiny.forward(torch.from_numpy(row[:n])).numpy() for row, n in zip(ids, MASK.sum(-1), strict=True)]
    shape = ("batch", "seq", 32) if pooling == "none" else ("batch", 32)
    described = manifest("encoder", shape=shape, mask="attention_mask")
    runner = LlamaCppRunner(tiny.path, described)
    found = runner.run({"input_ids": ids, "attention_mask": MASK})["output"]
    found = found[MASK.astype(bool)] if pooling == "none" else found
    want = {"none": np.concatenate(hidden), "mean": np.stack([h.mean(0) for h in hidden]), "cls": np.stack([h[0] for h in hidden])}[pooling]
    assert compare_embeddings(want, found).min_cosine >= 0.99999


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"kind": "diffuser"}, "facts.gguf.kind is 'diffuser', want decoder or encoder"),
        ({"output": "logits"}, r"facts.gguf names 'logits', the manifest has \['other', 'output'\]"),
        ({"ids": "tokens"}, "facts.gguf names 'tokens'"),
    ],
)
def test_a_damaged_manifest_is_refused(llama, facts, why):
    described = manifest()
    described["facts"]["gguf"] |= facts
    with pytest.raises(ContractError, match=why):
        LlamaCppRunner(llama.path, described)


def test_a_manifest_that_says_nothing_is_refused(llama):
    with pytest.raises(ContractError, match=r"facts\.gguf of the manifest is None"):
        LlamaCppRunner(llama.path, manifest() | {"facts": {}})


def test_without_xllamacpp_there_is_no_runner(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)  # Python then finds no such module
    with pytest.raises(MissingToolError, match="is not installed"):
        runners(Path(), manifest())
