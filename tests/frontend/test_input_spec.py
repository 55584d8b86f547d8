"""Input specs parse, print back, and become tensors that torch.export can make dynamic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgecc.errors import UsageError
from edgecc.frontend.input_spec import example_sizes, example_tensor, parse_input, parse_inputs
from edgecc.ir.signature import Dim


@pytest.mark.parametrize(
    "text",
    [
        "x:f32[1,3,224,224]",
        "ids:i64[batch=1..8,seq=1..512]",
        "x:f32[n,3,h=32..256,w]",
        "x:f16[n=2..]",
        "t:f32[]",
        "mask:bool[1]",
        "x=values.npy",
        "x=values.npz:y",
    ],
)
def test_a_spec_prints_back_as_it_was_written(text: str) -> None:
    assert str(parse_input(text)) == text


def test_a_spec_is_read_as_meant() -> None:
    spec = parse_input("x:f16[n, 3 ,h=32..256,w=..9]")
    assert (spec.name, spec.dtype) == ("x", torch.float16)
    assert spec.shape == (Dim("n"), 3, Dim("h", 32, 256), Dim("w", 1, 9))
    assert list(spec.dims) == [0, 2, 3]


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 1),
        ("1x:f32[]", 1),
        ("x", 2),
        ("x;f32[1]", 2),
        ("x:f32", 6),
        ("x:f32[1", 8),
        ("x:f32[1,,2]", 9),
        ("x:f32[1,-2]", 9),
        ("x:f32[a=5]", 7),
        ("x:f32[1,2,b=1...3]", 11),
        ("x=", 3),
    ],
)
def test_a_wrong_spec_is_refused_with_its_position_and_an_example(text: str, position: int) -> None:
    with pytest.raises(UsageError, match=rf"wrong at character {position}:") as error:
        parse_input(text)
    assert "x:f32[1,3,224,224]" in error.value.hint


def test_other_mistakes_are_told_apart() -> None:
    with pytest.raises(UsageError, match=r"unknown dtype 'f33'[\s\S]*did you mean 'f32'"):
        parse_input("x:f33[1]")
    with pytest.raises(UsageError, match="the wrong way round"):
        parse_input("x:f32[n=8..2]")
    with pytest.raises(UsageError, match=r"neither \.npy nor \.npz"):
        parse_input("x=values.csv")


def test_bounds_given_once_hold_for_every_input() -> None:
    first, second = parse_inputs(["ids:i64[batch,seq=1..512]", "mask:i64[batch=1..8,seq]"])
    assert first.shape == second.shape == (Dim("batch", 1, 8), Dim("seq", 1, 512))


def test_two_bounds_for_one_dimension_are_refused() -> None:
    with pytest.raises(UsageError, match=r"two different bounds, n=1\.\.8 and n=1\.\.9"):
        parse_inputs(["x:f32[n=1..8]", "y:f32[n=1..9]"])


def test_an_input_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="'x' is given twice"):
        parse_inputs(["x:f32[1]", "x:f32[2]"])


def test_example_sizes_lie_within_the_bounds_and_differ() -> None:
    specs = parse_inputs(["x:f32[n=1..8,3,h=32..256,w=32..256]", "y:f32[m]"])
    sizes = example_sizes(specs)
    assert all(size >= 2 for size in sizes.values())
    assert len(set(sizes.values())) == 4
    assert 3 not in sizes.values()
    assert 32 <= sizes["h"] <= 256 and 2 <= sizes["n"] <= 8


def test_sizes_may_agree_where_the_bounds_leave_no_choice() -> None:
    assert example_sizes(parse_inputs(["x:f32[a=2..2,b=2..2]"])) == {"a": 2, "b": 2}


def test_a_dimension_of_at_most_one_cannot_be_dynamic() -> None:
    with pytest.raises(UsageError, match="cannot be dynamic"):
        example_sizes(parse_inputs(["x:f32[n=1..1]"]))


def test_examples_are_seeded_and_of_the_right_type() -> None:
    (spec,) = parse_inputs(["x:f32[n,4]"])
    first, second = (example_tensor(spec, {"n": 5}, 7) for _ in range(2))
    assert first.shape == (5, 4)
    assert torch.equal(first, second)
    assert not torch.equal(first, example_tensor(spec, {"n": 5}, 8))
    ids = example_tensor(parse_input("ids:i64[2,3]"), {}, 0)
    assert ids.dtype == torch.int64 and ids.min() == ids.max() == 1


def test_values_come_from_npy_and_npz(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", x=values, y=values + 1)
    assert example_tensor(parse_input(f"x={tmp_path}/a.npy"), {}, 0).tolist() == values.tolist()
    assert example_tensor(parse_input(f"x={tmp_path}/a.npz"), {}, 0).tolist() == values.tolist()
    assert example_tensor(parse_input(f"x={tmp_path}/a.npz:y"), {}, 0).tolist() == (values + 1).tolist()
    with pytest.raises(UsageError, match="holds x, y, not z"):
        example_tensor(parse_input(f"z={tmp_path}/a.npz"), {}, 0)


def test_pickled_arrays_and_damaged_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    (tmp_path / "short.npy").write_bytes(b"\x93NUMPY\x01\x00")
    for name in ("objects.npy", "short.npy", "absent.npy"):
        with pytest.raises(UsageError, match="cannot be read"):
            example_tensor(parse_input(f"x={tmp_path}/{name}"), {}, 0)
