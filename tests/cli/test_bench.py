"""`edgecc bench`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from edgecc.targeting.timing import Contestant
from tests.cli.conftest import HOST, MODELS

KEYS = {
    "runtime",
    "note",
    "threads",
    "latency_ms",
    "cpu_ms",
    "peak_bytes",
    "size_bytes",
    "runs",
    "instructions",
    "cycles",
    "peers",
    "missing",
}


def check_figures(figures) -> None:
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p90"]
    assert figures["runs"] >= 3


@pytest.mark.slow
def test_a_target_that_cannot_be_timed_says_so_and_its_peers_are(edgecc, compiled: Path) -> None:
    result = edgecc("bench", compiled, "--load", HOST, "--vs", "torch", "--seconds", "0.01", "--json")
    document = result.document
    assert result.code == 0
    assert set(document) == KEYS
    assert (document["runtime"], document["latency_ms"], document["instructions"]) == (None, None, None)
    assert document["size_bytes"] == (compiled / "model.pt2").stat().st_size
    assert list(document["peers"]) == ["torch"]
    check_figures(document["peers"]["torch"])
    assert document["missing"] == ["nothing on this machine runs the artifact at its own speed, so it is not timed"]


@pytest.mark.slow
def test_a_model_that_was_not_dumped_is_traced_again(edgecc, compile_small) -> None:
    assert compile_small("-o", "out", "-q").code == 0
    document = edgecc("bench", "out", "--load", HOST, "--vs", "torch", "--seconds", "0.01", "--json").document
    check_figures(document["peers"]["torch"])


@pytest.mark.slow
def test_a_table_names_every_runtime(edgecc, compiled: Path) -> None:
    result = edgecc("bench", compiled, "--load", HOST, "--vs", "torch", "--seconds", "0.01", "-q")
    lines = result.out.splitlines()
    assert lines[0].split() == ["runtime", "p50", "ms", "p90", "ms", "CPU", "p50", "ms", "peak", "memory", "runs", "times", "ours"]
    assert lines[1].startswith("torch ")
    assert any(line.startswith("missing   nothing on this machine") for line in lines)


def test_no_peer_is_started_where_none_is_wanted(edgecc, compiled: Path) -> None:
    document = edgecc("bench", compiled, "--load", HOST, "--vs", "none", "--json").document
    assert document["peers"] == {}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seconds", "0"], "'0' is no time"),
        (["--seconds", "soon"], "'soon' is no time"),
        (["--vs", "tflite"], "unknown --vs 'tflite'"),
        (["--vs", "none", "--vs", "torch"], "--vs none goes with no other --vs"),
        (["--threads", "0"], "'0' is no thread count"),
    ],
)
def test_a_wrong_flag_is_a_usage_error(edgecc, compiled: Path, flags: list[str], message: str) -> None:
    result = edgecc("bench", compiled, "--load", HOST, *flags)
    assert result.code == 2
    assert message in result.err


def test_what_is_no_run_directory_is_a_usage_error(edgecc, tmp_path) -> None:
    result = edgecc("bench", tmp_path)
    assert result.code == 2
    assert "it has no manifest.json" in result.err


@pytest.fixture
def no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as Python marks what cannot be imported


def test_a_peer_that_is_asked_for_and_missing_is_named_with_its_install_line(edgecc, compiled: Path, no_onnxruntime) -> None:
    result = edgecc("bench", compiled, "--load", HOST, "--vs", "onnxruntime")
    assert result.code == 5
    assert "pip install onnxruntime" in result.err


@pytest.mark.slow
def test_a_peer_that_is_missing_and_not_asked_for_is_only_named(edgecc, compiled: Path, no_onnxruntime) -> None:
    result = edgecc("bench", compiled, "--load", HOST, "--seconds", "0.01", "--json")
    assert result.code == 0
    assert any(line.startswith("onnxruntime needs onnxruntime") for line in result.document["missing"])


@pytest.fixture(scope="module")
def artifact_of(tmp_path_factory):
    """Compile the small model for a target; skips where it cannot be."""
    from edgecc.__main__ import main

    if importlib.util.find_spec("tvm") is None:
        pytest.skip("Apache TVM is not installed")

    def build(target: str, *flags: str) -> Path:
        output = tmp_path_factory.mktemp(target) / "out"
        code = main(["compile", f"{MODELS}:small", "--target", target, "-o", str(output), "-q", *flags])
        assert code in (0, 5)
        if code == 5:
            pytest.skip(f"{target} cannot be built or run here")
        return output

    return build


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "spread"), [("c", 0), ("vm", 1000)])  # the virtual machine's start depends on the path of its files
def test_an_arm_artifact_is_timed_by_its_host_build_and_counted_under_the_emulator(edgecc, artifact_of, runtime: str, spread: int) -> None:
    output = artifact_of("arm_cpu", "--set", f"target_options.runtime={runtime}")
    document = edgecc("bench", output, "--vs", "none", "--seconds", "0.01", "--json").document
    if document["latency_ms"] is None:
        pytest.skip(f"nothing here runs it: {document['missing']}")
    check_figures(document)
    assert document["peak_bytes"] > 0
    if document["instructions"] is None:
        pytest.skip(f"nothing here counts it: {document['missing']}")
    again = edgecc("bench", output, "--vs", "none", "--seconds", "0.01", "--json").document
    assert again["instructions"] == pytest.approx(document["instructions"], abs=spread)
    assert sum(document["instructions_by_kind"].values()) == pytest.approx(
        document["instructions"], abs=len(document["instructions_by_kind"])
    )
    # Two tensors in, one out and the weights: no run touches fewer lines, and the caches are warm.
    assert document["l2_misses"] <= document["l1_misses"] < document["instructions"]
    if document["cycles"]:
        assert set(document["cycles"]) == {"cortex-a72", "neoverse-n1"}


@pytest.mark.slow
def test_the_count_can_be_left_out(edgecc, artifact_of) -> None:
    document = edgecc("bench", artifact_of("arm_cpu"), "--vs", "none", "--no-cost", "--seconds", "0.01", "--json").document
    assert document["instructions"] is None
    assert document["cycles"] == {}


@pytest.mark.slow
def test_torch_takes_turns_with_an_artifact(edgecc, artifact_of) -> None:
    document = edgecc("bench", artifact_of("x86_cpu"), "--vs", "torch", "--seconds", "0.01", "--json").document
    if document["runtime"] is None:
        pytest.skip("this machine is no x86-64-v3")
    assert document["runtime"] == "native x86_64"
    check_figures(document)
    check_figures(document["peers"]["torch"])
    assert Contestant("a", ()).note == document["note"]
