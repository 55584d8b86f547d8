"""model.txt: written, read back, and every wrong input refused with what was wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgecc.errors import ContractError, UsageError
from edgecc.ir.signature import Dim, Signature, TensorSpec
from edgecc.targets.tvm_cpu.interface import Interface

INTERFACE = Interface.of(
    Signature(
        (TensorSpec("ids", torch.int64, ("batch", "2*seq + 1")), TensorSpec("mask", torch.bool, ("batch", 4))),
        (TensorSpec("last hidden", torch.float32, ("batch*seq", 8)),),
        (Dim("batch", 1, 8), Dim("seq", 2, None)),
    ),
    "cortex-a72",
)


def ids(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int64)


def refusal(**named: np.ndarray) -> str:
    with pytest.raises(UsageError) as caught:
        INTERFACE.bind(named)
    return str(caught.value)


def test_the_file_is_what_the_runner_reads() -> None:
    assert INTERFACE.text() == (
        "cpu cortex-a72\n"
        "dim batch 1 8\n"
        "dim seq 2 -\n"
        "input int64 2 batch 2*seq+1 ids\n"
        "input bool 2 batch 4 mask\n"
        "output float32 2 ? 8 last hidden\n"
    )


def test_it_reads_back_what_it_wrote(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text(INTERFACE.text())
    assert Interface.read(tmp_path) == INTERFACE


def test_a_missing_file_is_an_incomplete_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="incomplete"):
        Interface.read(tmp_path)


def test_inputs_come_back_in_order_and_contiguous() -> None:
    mask = np.ones((4, 2), bool).T
    first, second = INTERFACE.bind({"mask": mask, "ids": ids(2, 7)})
    assert first.shape == (2, 7)
    assert second.flags["C_CONTIGUOUS"]


def test_every_problem_is_listed() -> None:
    message = refusal(ids=np.zeros((2, 7), np.int32), masks=np.ones((2, 4), bool))
    assert "ids is int32, want int64" in message
    assert "input mask is missing" in message
    assert "there is no input 'masks', did you mean 'mask'?" in message


def test_a_dimension_must_be_one_size_everywhere() -> None:
    assert "mask has size 3 at axis 0, want batch with batch=2" in refusal(ids=ids(2, 7), mask=np.ones((3, 4), bool))


def test_bounds_hold_for_derived_sizes_too() -> None:
    assert "dimension seq is 1, want 2.." in refusal(ids=ids(2, 3), mask=np.ones((2, 4), bool))
    assert "dimension batch is 9, want 1..8" in refusal(ids=ids(9, 7), mask=np.ones((9, 4), bool))
    assert "ids has size 6 at axis 1, want 2*seq+1" in refusal(ids=ids(2, 6), mask=np.ones((2, 4), bool))


def test_another_number_of_outputs_breaks_the_contract() -> None:
    with pytest.raises(ContractError, match="gave 2 outputs, the program has 1"):
        INTERFACE.name_outputs([ids(1), ids(1)])
