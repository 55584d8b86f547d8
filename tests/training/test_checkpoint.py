"""Checkpoints: what is written reads back, and what is not one, or another run's, is refused."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from edgecc.errors import UsageError
from edgecc.training.checkpoint import Checkpoint, load, save

IDENTITY = {"program": "a", "settings": "b"}
HELD = Checkpoint({"weight/x": torch.arange(3.0), "generator": torch.zeros(2, dtype=torch.uint8)}, {"step": 3, "before": None}, IDENTITY)


def test_a_checkpoint_reads_back(tmp_path):
    save(HELD, tmp_path / "deep" / "run.ckpt")
    found = load(tmp_path / "deep" / "run.ckpt", IDENTITY)
    assert found.facts == HELD.facts and found.tensors.keys() == HELD.tensors.keys()
    assert all(torch.equal(found.tensors[k], t) for k, t in HELD.tensors.items())
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["run.ckpt"], "nothing is left beside it"


def test_no_file_is_no_checkpoint(tmp_path):
    assert load(tmp_path / "none", IDENTITY) is None


@pytest.mark.parametrize(
    ("identity", "message"),
    [({"program": "z", "settings": "b"}, "another program"), ({"program": "z", "settings": "y"}, "another program and another settings")],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, identity, message):
    save(HELD, tmp_path / "run.ckpt")
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "run.ckpt", identity)


def test_other_files_are_no_checkpoints_and_no_pickle_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("the pickle was run",)

    (tmp_path / "pickle").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "short").write_bytes(b"")
    save_file({"x": torch.zeros(1)}, tmp_path / "weights")
    for name in ("pickle", "short"):
        with pytest.raises(UsageError, match="cannot be read"):
            load(tmp_path / name, IDENTITY)
    with pytest.raises(UsageError, match="no checkpoint of edgecc"):
        load(tmp_path / "weights", IDENTITY)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write the checkpoint"):
        save(HELD, tmp_path / "file" / "run.ckpt")
