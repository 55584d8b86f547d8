"""`edgecc passes`, `edgecc targets` and `edgecc doctor`."""

from __future__ import annotations

from tests.cli.conftest import HOST


def test_passes_are_listed_with_promise_options_and_purpose(edgecc):
    out = edgecc("passes", "--load", HOST).out
    (line,) = [line for line in out.splitlines() if line.startswith("double-negation")]
    assert line.split(maxsplit=3) == ["double-negation", "exact", "limit=100", "Replace neg(neg(x)) by x."]


def test_every_pass_says_what_it_does(edgecc):
    assert all(p["doc"] and p["numerics"] for p in edgecc("passes", "--json").document["passes"])


def test_one_pass_is_shown_in_full(edgecc):
    result = edgecc("passes", "double-negation", "--load", HOST)
    assert result.out.startswith("double-negation (exact)\n\nReplace neg(neg(x)) by x.")
    assert f"defined in {HOST}" in result.out


def test_targets_are_listed_with_what_they_lack(edgecc):
    targets = {t["name"]: t for t in edgecc("targets", "--load", HOST, "--json").document["targets"]}
    assert targets["torch_host"]["ready"] and not targets["needy_host"]["ready"]


def test_one_target_is_shown_with_options_pipeline_and_requirements(edgecc):
    out = edgecc("targets", "show", "torch_host", "--load", HOST).out
    assert "cpu     'small'" in out
    assert "  normalize: name-nothing\n  fuse: double-negation\n" in out
    assert "a faster machine  missing" in out and "buy one" in out


def test_the_printed_pipeline_is_what_passes_takes(edgecc, compile_small):
    (target,) = edgecc("targets", "show", "torch_host", "--load", HOST, "--json").document["targets"]
    assert compile_small("-o", "out", "--passes", target["pipeline"], "--json").document["pipeline"] == target["pipeline"]


def test_doctor_gives_the_install_line_of_what_is_missing(edgecc):
    result = edgecc("doctor", "--load", HOST)
    assert result.code == 0
    assert "pip install unobtainium" in result.out and "missing: unobtainium" in result.out


def test_doctor_exits_5_where_the_asked_target_lacks_something_required(edgecc):
    assert edgecc("doctor", "--load", HOST, "--target", "needy_host").code == 5
    assert edgecc("doctor", "--load", HOST, "--target", "torch_host").code == 0
