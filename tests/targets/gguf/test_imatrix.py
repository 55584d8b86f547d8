"""Importance matrix files: what gguf-py and llama.cpp read in ours, and what ours reads in others'."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from edgecc.errors import UsageError
from edgecc.targets.gguf.rounding import Moments
from edgecc.targets.gguf.rounding.importance import ImportanceMatrix, from_moments, read_importance, write_importance
from tests.targets.gguf import imatrix_host, quantize_oracle

gguf = pytest.importorskip("gguf")
DOWN, UP = torch.tensor([2.0, 4.0, 8.0, 0.5]), torch.tensor([1.0, 3.0])


def matrix():
    """Of 10 and of 20 vectors."""
    sums = {"blk.0.ffn_down.weight": (10, DOWN * 10), "blk.0.ffn_up.weight": (20, UP * 20)}
    moments = {name: Moments(count, squares.double()) for name, (count, squares) in sums.items()}
    return from_moments(moments, datasets=["calibration.txt"], chunks=3, chunk_size=512)


def test_gguf_py_reads_sums_and_counts_by_tensor_name(tmp_path):
    write_importance(tmp_path / "m.gguf", matrix())
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    keys = {name: field.contents() for name, field in reader.fields.items()}
    assert keys["general.type"] == "imatrix"
    assert keys["imatrix.datasets"] == ["calibration.txt"]
    assert (keys["imatrix.chunk_count"], keys["imatrix.chunk_size"]) == (3, 512)
    arrays = {t.name: np.array(t.data).reshape(-1).tolist() for t in reader.tensors}
    assert arrays == {
        "blk.0.ffn_down.weight.in_sum2": [20.0, 40.0, 80.0, 5.0],
        "blk.0.ffn_down.weight.counts": [10.0],
        "blk.0.ffn_up.weight.in_sum2": [20.0, 60.0],
        "blk.0.ffn_up.weight.counts": [20.0],
    }
    assert {t.tensor_type for t in reader.tensors} == {gguf.GGMLQuantizationType.F32}


@pytest.mark.slow
def test_llama_cpp_reads_the_same(tmp_path):
    quantize_oracle.require()
    write_importance(tmp_path / "m.gguf", matrix())
    found = imatrix_host.load(quantize_oracle.folder(), tmp_path / "m.gguf")
    assert found == {
        "entries": {
            "blk.0.ffn_down.weight": {"sums": [20.0, 40.0, 80.0, 5.0], "counts": [10]},
            "blk.0.ffn_up.weight": {"sums": [20.0, 60.0], "counts": [20]},
        },
        "datasets": ["calibration.txt"],
        "chunk_count": 3,
        "chunk_size": 512,
    }


def test_what_gguf_py_wrote_is_read(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "")
    writer.add_string("general.type", "imatrix")
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_tensor("output.weight.in_sum2", np.array([[6.0, 12.0]], np.float32))
    writer.add_tensor("output.weight.counts", np.array([[3.0]], np.float32))
    writer.add_tensor("blk.0.ffn_up_exps.weight.in_sum2", np.array([[6.0, 12.0], [8.0, 4.0]], np.float32))
    writer.add_tensor("blk.0.ffn_up_exps.weight.counts", np.array([[3.0], [2.0]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_importance(tmp_path / "m.gguf")
    assert found.chunks == 7
    assert found.means["output.weight"].tolist() == [2.0, 4.0]
    assert found.means["blk.0.ffn_up_exps.weight"].tolist() == [[2.0, 4.0], [4.0, 2.0]]
    assert found.importance("blk.0.ffn_up_exps.weight", 2).tolist() == [3.0, 3.0]


def record(name, calls, values):
    return struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values)) + np.array(values, "<f4").tobytes()


@pytest.mark.parametrize("rest", [b"", struct.pack("<ii", 5, 4) + b"text"], ids=["plain", "with its text"])
def test_the_older_records_are_read(rest, tmp_path):
    file = tmp_path / "m.dat"
    file.write_bytes(struct.pack("<i", 2) + record(b"a.weight", 4, [8, 4]) + record(b"b.weight", 2, [1, 3, 5]) + rest)
    found = read_importance(file)
    assert {name: mean.tolist() for name, mean in found.means.items()} == {"a.weight": [2.0, 1.0], "b.weight": [0.5, 1.5, 2.5]}
    assert (found.datasets, found.chunks) == ((("text",), 5) if rest else ((), 0))


def test_ours_is_read_back(tmp_path):
    write_importance(tmp_path / "m.gguf", matrix())
    found = read_importance(tmp_path / "m.gguf")
    assert {name: mean.tolist() for name, mean in found.means.items()} == {
        "blk.0.ffn_down.weight": DOWN.tolist(),
        "blk.0.ffn_up.weight": UP.tolist(),
    }
    assert (found.counts, found.datasets, found.chunks, found.chunk_size) == (matrix().counts, ("calibration.txt",), 3, 512)


def test_a_channel_that_was_never_seen_still_counts_a_little():
    found = ImportanceMatrix({"a": torch.tensor([0.0, 2.0]), "b": torch.zeros(2)}, {"a": 1, "b": 1})
    assert 0 < found.importance("a", 2)[0] < 1e-5
    assert bool((found.importance("b", 2) > 0).all())
    assert found.importance("c", 2) is None


def test_a_matrix_of_another_model_is_refused():
    with pytest.raises(UsageError, match="has 4 columns"):
        matrix().importance("blk.0.ffn_down.weight", 8)


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF", struct.pack("<i", 3), struct.pack("<i", 1) + record(b"a", 1, [1.0])[:-2], b"some words of a text file"],
    ids=["empty", "no header", "no entries", "cut", "text"],
)
def test_files_that_are_none_are_refused(content, tmp_path):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(UsageError, match="m is no importance matrix"):
        read_importance(tmp_path / "m")


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    (tmp_path / "m").write_bytes(struct.pack("<i", 1) + record(b"a", 1, [1.0, float("nan")]))
    with pytest.raises(UsageError, match="a has numbers"):
        read_importance(tmp_path / "m")


def test_a_cut_gguf_is_refused(tmp_path):
    write_importance(tmp_path / "m", matrix())
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes()[:-40])
    with pytest.raises(UsageError, match="not whole"):
        read_importance(tmp_path / "m")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="nowhere: No such file"):
        read_importance(tmp_path / "nowhere")
