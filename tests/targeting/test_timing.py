"""Runtimes in processes of their own, timed in turns. Each claim is about what ran and in which order, none about how long it took."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecc import benchmark
from edgecc.errors import ContractError
from edgecc.targeting.timing import Child, Contestant

SERVE = """
import sys, time
from edgecc.targeting.timing import serve
log = open({log!r}, "ab", buffering=0)
def load():
    print("a runtime may print")
    memory = bytearray({megabytes} << 20)
    def run():
        log.write({name!r}.encode())
        time.sleep({sleep})
        return memory
    return run
sys.exit(serve(load))
"""


@pytest.fixture
def contestant(tmp_path: Path):
    def make(name: str, sleep: float = 0.0, megabytes: int = 0) -> Contestant:
        code = SERVE.format(log=str(tmp_path / "log"), name=name, sleep=sleep, megabytes=megabytes)
        return Contestant(name, (sys.executable, "-c", code))

    return make


def test_a_child_runs_as_often_as_it_is_asked_to(contestant, tmp_path) -> None:
    with Child(contestant("a"), tmp_path) as child:
        walls, processors = child.run(3)
        assert len(walls) == len(processors) == 3
        assert (tmp_path / "log").read_text() == "aaa"


def test_sleeping_takes_time_by_the_clock_and_none_of_the_processor(contestant, tmp_path) -> None:
    with Child(contestant("a", sleep=0.05), tmp_path) as child:
        (wall,), (processor,) = child.run(1)
    assert wall >= 0.05 > processor


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this machine does not tell the peak of a process's memory")
def test_the_peak_is_that_of_the_model_not_of_the_interpreter(contestant, tmp_path) -> None:
    with Child(contestant("a", megabytes=64), tmp_path) as child:
        child.run(1)
        peak = child.finish()
    assert 64 << 20 <= peak <= 68 << 20  # and a few pages of the interpreter's own


def test_contestants_take_turns(contestant, tmp_path) -> None:
    contestants = [contestant("a", sleep=0.03), contestant("b", sleep=0.03)]
    timings = benchmark.contest(contestants, tmp_path, seconds=0.2, together=True)
    log = (tmp_path / "log").read_text()
    warming = len(log) - sum(len(t.walls) for t in timings)
    assert re.match("a+b+a+b+", log[warming:])


def test_alone_one_is_done_before_the_next_begins(contestant, tmp_path) -> None:
    contestants = [contestant("a", sleep=0.03), contestant("b", sleep=0.03)]
    benchmark.contest(contestants, tmp_path, seconds=0.1, together=False)
    log = (tmp_path / "log").read_text()
    assert log == "a" * log.count("a") + "b" * log.count("b")


def test_a_long_model_runs_three_times_at_least(contestant, tmp_path) -> None:
    (timing,) = benchmark.contest([contestant("a", sleep=0.06)], tmp_path, seconds=0.01, together=True)
    assert len(timing.walls) == 3


def test_quantiles_are_those_of_the_runs() -> None:
    walls = [milliseconds / 1e3 for milliseconds in (5, 1, 2, 3, 4, 6, 7, 8, 9, 10)]
    timing = benchmark.Timing(walls, walls, 7)
    assert timing.as_dict() == {"latency_ms": {"p50": 5.5, "p90": 9.0}, "cpu_ms": {"p50": 5.5, "p90": 9.0}, "peak_bytes": 7, "runs": 10}


@pytest.mark.parametrize(
    "code", ["raise SystemExit('no such library')", "import sys; print('ready', flush=True); sys.exit('no such library')"]
)
def test_a_child_that_dies_is_an_error_with_its_words(code: str, tmp_path) -> None:
    broken = Contestant("broken", (sys.executable, "-c", code))
    with pytest.raises(ContractError, match="broken ended with code 1: no such library"), Child(broken, tmp_path) as child:
        child.run(1)


def test_a_case_is_written_in_the_order_of_the_inputs(tmp_path) -> None:
    benchmark.write_case({"x": np.array([1.0]), "mask": np.array([2])}, ["mask", "x"], tmp_path)
    assert [np.load(tmp_path / f"input{i}.npy").tolist() for i in (0, 1)] == [[2], [1.0]]
