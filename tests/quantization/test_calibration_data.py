"""Calibration data: every form that it is given in, and what is said of data that does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgecc import calibration
from edgecc.errors import UsageError
from edgecc.ir.signature import Dim, Signature, TensorSpec

FIXED = Signature((TensorSpec("x", torch.float32, (1, 3)),), ())
BATCHED = Signature((TensorSpec("x", torch.float32, ("n", 3)), TensorSpec("m", torch.int64, ("n",))), (), (Dim("n", 2, 4),))


def shapes(data):
    return [[tuple(t.shape) for t in sample] for sample in data]


def test_an_iterable_of_dicts_tuples_or_arrays():
    x = np.zeros((1, 3), np.float32)
    for item in ({"x": x}, (x,), x, torch.zeros(1, 3)):
        assert shapes(calibration.of([item, item], FIXED)) == [[(1, 3)]] * 2


def test_a_generator_is_gone_through_more_than_once():
    data = calibration.of((np.zeros((1, 3), np.float32) for _ in range(3)), FIXED)
    assert len(list(data)) == len(list(data)) == 3


def test_a_function_is_called_for_each_round():
    calls = []

    def source():
        calls.append(1)
        yield {"x": np.zeros((1, 3), np.float32)}

    data = calibration.CalibrationSet(source, FIXED)
    assert len(list(data)) == len(list(data)) == 1 and len(calls) == 2


def test_rows_of_a_file_are_split_into_samples(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(15, dtype=np.float32).reshape(5, 3))
    data = list(calibration.from_files(tmp_path / "a.npz", FIXED))
    assert shapes(data) == [[(1, 3)]] * 5 and data[4][0].tolist() == [[12, 13, 14]]


def test_a_first_axis_of_samples_is_taken_off(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 1, 3), np.float32))
    assert shapes(calibration.from_files(tmp_path / "a.npz", FIXED)) == [[(1, 3)]] * 5


def test_a_dynamic_batch_takes_as_many_rows_as_it_may(tmp_path):
    """10 rows, at most 4 and at least 2 a sample."""
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 3), np.float32), m=np.zeros(10, np.int64))
    assert shapes(calibration.from_files(tmp_path / "a.npz", BATCHED)) == [[(4, 3), (4,)], [(4, 3), (4,)], [(2, 3), (2,)]]


def test_files_of_a_folder_come_by_name(tmp_path):
    for name, value in (("b", 2), ("a", 1)):
        np.savez(tmp_path / f"{name}.npz", x=np.full((1, 3), value, np.float32))
    assert [float(s[0][0, 0]) for s in calibration.from_files(tmp_path, FIXED)] == [1, 2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros((1, 3), np.float32)}, r"sample 0: inputs missing: \['x'\]; unknown: \['y'\]"),
        ({"x": np.zeros((1, 4), np.float32)}, "x has size 4 at axis 1, want 3"),
        ({"x": np.zeros((1, 3))}, "x is f64, want f32"),
        ({"x": np.zeros(3, np.float32)}, r"x has shape \[3\], want samples of x: f32\[1, 3\] along a first axis"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        list(calibration.from_files(tmp_path / "a.npz", FIXED))


def test_arrays_of_different_lengths_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((8, 3), np.float32), m=np.zeros(4, np.int64))
    with pytest.raises(UsageError, match="different numbers of samples"):
        list(calibration.from_files(tmp_path / "a.npz", BATCHED))


def test_rows_that_make_no_whole_samples_are_refused(tmp_path):
    signature = Signature((TensorSpec("x", torch.float32, (2, 3)),), ())
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 3), np.float32))
    with pytest.raises(UsageError, match="x has 5 rows, want a multiple of 2"):
        list(calibration.from_files(tmp_path / "a.npz", signature))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no"):
        calibration.from_files(tmp_path / "none.npz", FIXED)


def test_what_the_users_function_raises_is_reported_with_the_sample():
    def source():
        yield {"x": np.zeros((1, 3), np.float32)}
        raise KeyError("images")

    with pytest.raises(UsageError, match="failed at sample 1: KeyError: 'images'"):
        list(calibration.CalibrationSet(source, FIXED))


def test_a_tuple_of_the_wrong_length_is_refused():
    with pytest.raises(UsageError, match="sample 0: 2 inputs were given"):
        list(calibration.of([(np.zeros((1, 3), np.float32),) * 2], FIXED))


@pytest.mark.parametrize(("result", "message"), [(float("nan"), "gave nan"), ("high", "ValueError"), (None, "TypeError")])
def test_an_evaluation_must_be_a_number(result, message):
    class Program:
        def recompile(self):
            pass

    with pytest.raises(UsageError, match=rf"the evaluation e\.py:f .*{message}"):
        calibration.evaluation(lambda program: result, "e.py:f")(Program())
