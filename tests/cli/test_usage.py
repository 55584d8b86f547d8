"""Mistakes on the command line: exit 2, one message, and the nearest name."""

from __future__ import annotations

import pytest

from edgecc.__main__ import COMMANDS
from tests.cli.conftest import HOST, MODELS

COMPILE = ["compile", f"{MODELS}:small", "--load", HOST, "--target", "torch_host"]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "no command was given", "edgecc --help"),
        (["compil"], "unknown command 'compil'", "did you mean 'compile'?"),
        ([*COMPILE, "--dump-id"], "edgecc compile does not know '--dump-id'", "did you mean '--dump-ir'?"),
        ([*COMPILE, "extra"], "edgecc compile does not know 'extra'", "edgecc compile --help"),
        ([*COMPILE, "--verify", "numeric"], "unknown --verify 'numeric'", "did you mean 'numerics'?"),
        ([*COMPILE[:-1], "torch_hots"], "unknown target 'torch_hots'", "did you mean 'torch_host'?"),
        ([*COMPILE, "--passes", "double-negatoin"], "unknown pass 'double-negatoin'", "did you mean 'double-negation'?"),
        ([*COMPILE, "--passes", "double-negation{limt=1}"], "has no option 'limt'", "did you mean 'limit'?"),
        ([*COMPILE, "--disable-pass", "double-negatoin"], "no pass 'double-negatoin' to disable", "did you mean 'double-negation'?"),
        ([*COMPILE, "--stop-after", "name-nothin"], "no pass 'name-nothin' to stop after", "did you mean 'name-nothing'?"),
        ([*COMPILE, "--print-ir-after", "name-nothin"], "no pass 'name-nothin' to print", "did you mean 'name-nothing'?"),
        ([*COMPILE, "--insert", "double-negation"], "--insert 'double-negation': want PHASE", "--insert 'fuse:my-pass{rank=8}'"),
        ([*COMPILE, "--insert", "fusion:double-negation"], "unknown phase 'fusion'", "did you mean 'fuse'?"),
        ([*COMPILE, "--set", "seed"], "--set 'seed': want KEY=VALUE", "--set options.tolerance=1e-3"),
        ([*COMPILE, "--set", "options.sed=1"], "unknown recipe key 'options.sed'", "did you mean 'options.seed'?"),
        ([*COMPILE, "--set", "options.seed=one"], "recipe key 'options.seed' is 'one', want int", ""),
        ([*COMPILE, "--set", "options.verify=all"], "verify is 'all', want one of off, structure, numerics", ""),
        ([*COMPILE, "--triple", "x"], "target 'torch_host' has no option 'triple'", "known: cpu, error"),
        ([*COMPILE, "--cpu", "medium"], "torch_host has no cpu 'medium'", "one of small, large"),
        ([*COMPILE, "--set", "target_options.cpu=3"], "option 'cpu' of target 'torch_host' is 3, want str", ""),
        ([*COMPILE, "--threads", "0"], "'0' is no thread count", ""),
        ([*COMPILE, "--recipe", "none.toml"], "recipe none.toml cannot be read", ""),
        (["compile", f"{MODELS}:small"], "no target was given", "edgecc targets"),
        (["compile", "--target", "torch_host"], "no model was given", "edgecc compile MODEL"),
        (["compile", "absent.pt2", "--load", HOST, "--target", "torch_host"], "absent.pt2", ""),
        (["passes", "fuse-gelo"], "unknown pass 'fuse-gelo'", "did you mean 'fuse-gelu'?"),
        (["passes", "--overwrite"], "edgecc passes takes no --overwrite", "edgecc passes --help"),
        (["--seed", "1", "doctor"], "edgecc doctor takes no --seed", ""),
        (["targets", "show", "torch_hots", "--load", HOST], "unknown target 'torch_hots'", "did you mean 'torch_host'?"),
        (["targets", "list"], "want nothing or 'show NAME'", ""),
        (["doctor", "--target", "torch_hots", "--load", HOST], "unknown target 'torch_hots'", "did you mean 'torch_host'?"),
        (["inspect"], "nothing to inspect was given", ""),
    ],
)
def test_a_mistake_exits_2_with_a_message_and_a_hint(edgecc, folder, words, message, hint):
    result = edgecc(*words)
    assert result.code == 2, result.err
    assert result.out == "" and folder() == []
    assert message in result.err and hint in result.err
    assert [line for line in result.err.splitlines() if line.startswith("edgecc:")] == [
        line for line in result.err.splitlines() if "error: " in line
    ]


@pytest.mark.parametrize("words", [["compil", "--json"], ["passes", "fuse-gelo", "--json"], ["--json", "run", "nowhere"]])
def test_json_errors_are_documents_too(edgecc, words):
    result = edgecc(*words)
    error = result.document["error"]
    assert error["kind"] == "UsageError" and error["exit_code"] == result.code == 2
    assert f"edgecc: error: {error['message']}" in result.err


@pytest.mark.parametrize("absent", ["bisect", "explain", "report", "search"])
def test_commands_of_later_versions_are_absent(edgecc, absent):
    result = edgecc(absent)
    assert result.code == 2 and f"unknown command {absent!r}" in result.err


@pytest.mark.parametrize("command", [c.name for c in COMMANDS])
def test_every_command_has_help(edgecc, command):
    result = edgecc(command, "--help")
    assert result.code == 0 and result.out.startswith(f"usage: edgecc {command} ") and result.err == ""


def test_global_flags_stand_on_either_side_of_the_command(edgecc):
    assert edgecc("--json", "passes").document == edgecc("passes", "--json").document


def test_the_version_names_what_matters(edgecc):
    result = edgecc("--version")
    assert result.code == 0 and result.out.startswith("edgecc ") and "torch 2." in result.out
