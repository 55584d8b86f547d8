"""GGUF files read back by gguf-py, byte for byte as gguf-py writes them, and computed with by llama.cpp."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecc.artifact import staged
from edgecc.errors import InternalError
from edgecc.targets.gguf.writer import Planned, Value, write
from tests.targets.gguf import writer_host as host

VALUES: dict[str, Value] = {
    "general.architecture": "llama",
    "a.unsigned": 7,
    "a.negative": -7,
    "a.large": 1 << 40,
    "a.float": 0.5,
    "a.flag": False,
    "a.text": "Grüße ▁",
    "a.integers": [3, -4],
    "a.scores": [0.25, -1, 2],
    "a.flags": [True, False],
    "a.tokens": ["<s>", "", "▁ö"],
}
TOKENS = (3, 7, 11, 49, 0, 21, 5)


def test_gguf_py_reads_every_key_with_its_type(tmp_path: Path) -> None:
    from gguf import GGUFReader, GGUFValueType

    write(tmp_path / "m.gguf", VALUES, [], [])
    fields = {name: field for name, field in GGUFReader(tmp_path / "m.gguf").fields.items() if not name.startswith("GGUF.")}
    assert {name: field.contents() for name, field in fields.items()} == VALUES
    kinds = {name: [kind.name for kind in field.types] for name, field in fields.items()}
    assert kinds == {
        "general.architecture": ["STRING"],
        "a.unsigned": ["UINT32"],
        "a.negative": ["INT32"],
        "a.large": ["UINT64"],
        "a.float": ["FLOAT32"],
        "a.flag": ["BOOL"],
        "a.text": ["STRING"],
        "a.integers": ["ARRAY", "INT32"],
        "a.scores": ["ARRAY", "FLOAT32"],
        "a.flags": ["ARRAY", "BOOL"],
        "a.tokens": ["ARRAY", "STRING"],
    }
    assert fields["a.integers"].types[0] is GGUFValueType.ARRAY


def test_an_empty_list_is_a_list_of_no_strings(tmp_path: Path) -> None:
    from gguf import GGUFReader

    write(tmp_path / "m.gguf", {"a.merges": []}, [], [])
    assert GGUFReader(tmp_path / "m.gguf").fields["a.merges"].contents() == []


def test_the_file_is_that_of_gguf_py_byte_for_byte(tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    generator = np.random.default_rng(0)
    tensors = {
        "token_embd.weight": (generator.standard_normal((5, 64), np.float32), "q8_0"),
        "odd.bias": (generator.standard_normal(3, np.float32), "f32"),  # 12 bytes: padded
        "blk.0.ffn_up_exps.weight": (generator.standard_normal((2, 3, 32), np.float32), "q4_0"),
        "position_embd.weight": (generator.standard_normal((2, 5), np.float32), "f16"),
    }
    data = {name: quantize(array, GGMLQuantizationType[format_.upper()]) for name, (array, format_) in tensors.items()}
    planned = [Planned(name, array.shape, format_) for name, (array, format_) in tensors.items()]
    write(tmp_path / "ours.gguf", {"general.architecture": "llama", "a.count": 4, "a.names": ["x", "y"]}, planned, data.values())

    theirs = GGUFWriter(tmp_path / "theirs.gguf", "llama")
    theirs.add_uint32("a.count", 4)
    theirs.add_array("a.names", ["x", "y"])
    for name, (_, format_) in tensors.items():
        theirs.add_tensor(name, data[name], raw_dtype=GGMLQuantizationType[format_.upper()])
    theirs.write_header_to_file()
    theirs.write_kv_data_to_file()
    theirs.write_tensors_to_file()
    theirs.close()
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def test_gguf_py_reads_tensors_of_every_dtype_that_torch_and_numpy_give(tmp_path: Path) -> None:
    from gguf import GGUFReader

    half, whole = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).half(), np.arange(6, dtype=np.float32)
    planned = [Planned("half", (6, 4), "f16"), Planned("whole", (6,), "f32"), Planned("bytes", (2, 32), "q8_0")]
    write(tmp_path / "m.gguf", {}, planned, [half.T, whole, torch.arange(68, dtype=torch.uint8)])
    found = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    assert np.array_equal(found["half"].data, half.T.numpy())
    assert np.array_equal(found["whole"].data, whole)
    assert np.array_equal(found["bytes"].data.ravel(), np.arange(68))


@pytest.mark.parametrize("shard_bytes", [0, 60_000])
def test_llama_cpp_computes_the_logits_of_pytorch(tmp_path: Path, shard_bytes: int) -> None:
    weights = host.weights()
    files = write(tmp_path / "model.gguf", host.KEYS, host.planned(weights), weights.values(), shard_bytes=shard_bytes).files
    assert len(files) == (6 if shard_bytes else 1)
    # 2e-6 is measured on logits up to 3.5: float32 sums in another order. A wrong key moves them by more than 1e-2.
    torch.testing.assert_close(host.logits(files[0], TOKENS), host.forward(weights, TOKENS), atol=1e-4, rtol=0)


def test_shards_hold_what_fits_and_say_which_they_are(tmp_path: Path) -> None:
    from gguf import GGUFReader

    planned = [Planned(name, (size,), "f32") for name, size in (("a", 8), ("b", 8), ("c", 100), ("d", 1))]
    files = write(
        tmp_path / "model.gguf", {"general.name": "x"}, planned, [np.zeros(p.shape, np.float32) for p in planned], shard_bytes=64
    ).files
    assert [file.name for file in files] == [f"model-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    readers = [GGUFReader(file) for file in files]
    assert [[tensor.name for tensor in reader.tensors] for reader in readers] == [["a", "b"], ["c"], ["d"]]
    for number, reader in enumerate(readers):
        keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        assert keys == {**({"general.name": "x"} if number == 0 else {}), "split.no": number, "split.count": 3, "split.tensors.count": 4}


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def data() -> Iterator[np.ndarray]:
        for _ in range(3):
            assert all(reference() is None for reference in alive)
            array = np.zeros(256, np.float32)
            alive.append(weakref.ref(array))
            yield array
            del array

    write(tmp_path / "m.gguf", {}, [Planned(name, (256,), "f32") for name in "abc"], data())
    assert len(alive) == 3


def test_data_that_is_not_as_planned_is_an_internal_error(tmp_path: Path) -> None:
    planned = [Planned("a", (2, 32), "q8_0"), Planned("b", (3,), "f32")]
    good = [np.zeros(68, np.uint8), np.zeros(3, np.float32)]
    with pytest.raises(InternalError, match=r"tensor a \[2, 32\] q8_0: 67 bytes came, 68 were planned"):
        write(tmp_path / "m.gguf", {}, planned, [good[0][:67], good[1]])
    with pytest.raises(InternalError, match="the data ends before tensor b"):
        write(tmp_path / "m.gguf", {}, planned, good[:1])
    with pytest.raises(InternalError, match="more data than the 2 tensors planned"):
        write(tmp_path / "m.gguf", {}, planned, [*good, good[0]])


def test_an_error_while_the_data_is_made_leaves_nothing(tmp_path: Path) -> None:
    def data() -> Iterator[np.ndarray]:
        yield np.zeros(3, np.float32)
        raise InternalError("tensor b has NaNs")

    planned = [Planned("a", (3,), "f32"), Planned("b", (3,), "f32")]
    with pytest.raises(InternalError, match="tensor b has NaNs"), staged(tmp_path / "out", overwrite=False) as folder:
        write(folder / "model.gguf", {}, planned, data())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="No space left"):
        write(Path("/dev/full"), {}, [Planned("a", (9000,), "f32")], [np.zeros(9000, np.float32)])
