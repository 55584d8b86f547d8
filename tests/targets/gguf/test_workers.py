"""Several processes: results in order, errors where they belong, no process left behind."""

from __future__ import annotations

import multiprocessing
import os

import pytest
import torch

from edgecc.errors import ContractError, UsageError
from edgecc.targets.gguf.workers import in_processes


def test_results_come_in_order_from_other_processes() -> None:
    found = list(in_processes(lambda i: torch.tensor([i, os.getpid()]), range(7), 3))
    assert [int(f[0]) for f in found] == list(range(7))
    assert len({int(f[1]) for f in found}) == 3 and os.getpid() not in {int(f[1]) for f in found}


def test_an_error_is_raised_where_its_result_is_asked_for() -> None:
    def work(item: int) -> torch.Tensor:
        if item == 2:
            raise UsageError("weight c holds nan", hint="train again")
        return torch.tensor([item])

    results = in_processes(work, range(5), 2)
    assert [int(next(results)), int(next(results))] == [0, 1]
    with pytest.raises(UsageError, match="weight c holds nan") as caught:
        next(results)
    assert caught.value.hint == "train again" and not multiprocessing.active_children()


def test_a_process_that_ends_is_reported() -> None:
    with pytest.raises(ContractError, match="has ended"):
        list(in_processes(lambda _: os._exit(9), range(2), 2))
    assert not multiprocessing.active_children()


def test_breaking_off_ends_the_processes() -> None:
    results = in_processes(lambda i: torch.full((1 << 16,), i), range(50), 2)
    next(results)
    results.close()
    assert not multiprocessing.active_children()
