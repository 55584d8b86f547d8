"""`edgecc compile --qat`: what it trains, reports and keeps, and every way to refuse it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgecc.recipe import read

FILE = str(Path(__file__).parent / "qat_host.py")


@pytest.fixture
def train(edgecc):
    """Run `edgecc compile` on the small net for the test target, with more flags."""
    return lambda *flags: edgecc("compile", f"{FILE}:net", "--load", FILE, "--target", "quant_host", *flags)


QUANT = ("--quant", "w2a8", "--calibration", f"{FILE}:samples")
QAT = (*QUANT, "--qat", f"{FILE}:inputs")


def test_a_trained_artifact_is_better_than_one_that_was_not(train, tmp_path):
    result = train(*QAT, "--eval", f"{FILE}:accuracy", "-o", "out")
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "out/report.json").read_text())
    training = report["training"]
    assert (training["teacher"], training["epochs"], len(training["history"])) == ("kl", 3, 3)
    assert report["evaluation"]["compiled"] == training["evaluation"]["after"] > training["evaluation"]["before"]
    assert report["verify"]["equal"], "the artifact is compared with the trained program, which finalize-quant keeps bit for bit"
    assert "trained   from an evaluation of 0." in result.out and "trained   epoch 3: 8 steps, loss 0." in result.out
    assert "train: epoch 3/3, step 6/8, loss " in result.err


def test_the_recipe_trains_again_to_the_same_bytes(train, edgecc, tmp_path):
    assert train(*QAT, "-o", "out").code == 0
    recipe = read(tmp_path / "out/recipe.toml")
    assert recipe.qat == f"{FILE}:inputs" and recipe.options.quant_with == ("train-fake-quant",)
    assert edgecc("compile", "--recipe", "out/recipe.toml", "-o", "again").code == 0
    assert (tmp_path / "out/model.pt2").read_bytes() == (tmp_path / "again/model.pt2").read_bytes()


def test_a_checkpoint_and_a_log_are_written_and_a_finished_run_is_not_trained_again(train, tmp_path):
    kept = "--qat-checkpoint", "run.ckpt", "--qat-log", "log"
    assert train(*QAT, *kept, "-o", "out").code == 0
    assert (tmp_path / "run.ckpt").exists() and list((tmp_path / "log").iterdir())
    again = train(*QAT, *kept, "-o", "again")
    assert "going on from run.ckpt, after 24 steps" in again.err and "step 6/8" not in again.err
    assert (tmp_path / "out/model.pt2").read_bytes() == (tmp_path / "again/model.pt2").read_bytes()


def test_options_of_the_pass_count_before_those_of_the_data(train, tmp_path):
    assert train(*QAT, "--quant-with", "train-fake-quant{epochs=1}", "-o", "out").code == 0
    training = json.loads((tmp_path / "out/report.json").read_text())["training"]
    assert (training["epochs"], training["lr"]) == (1, 0.02)


def test_a_dry_run_writes_nothing(train, tmp_path):
    assert train(*QAT, "--qat-checkpoint", "run.ckpt", "--qat-log", "log", "--dry-run").code == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--qat", f"{FILE}:batches"), 2, "--qat trains what --quant rounds, and there is no --quant"),
        (("--qat", f"{FILE}:batches", "--quant", "fp16"), 2, "--quant fp16 has no integers to train for"),
        ((*QUANT, "--quant-with", "train-fake-quant"), 2, "train-fake-quant has no data to train on\n  try: --qat module:function"),
        ((*QUANT, "--qat-checkpoint", "x"), 2, "there is no --qat"),
        ((*QUANT, "--qat", f"{FILE}:bathes"), 2, "did you mean 'batches'?"),
        ((*QUANT, "--qat", f"{FILE}:batches", "--quant-with", "train-fake-quant{epochs=0}"), 2, "epochs is 0"),
        ((*QUANT, "--qat", f"{FILE}:empty"), 2, "empty gives no batch"),
        ((*QUANT, "--qat", f"{FILE}:failing"), 2, "failing failed: OSError: the disk went away"),
        ((*QUANT, "--qat", f"{FILE}:unlabelled"), 2, "unlabelled gives no target at step 1 of epoch 1"),
        ((*QUANT, "--qat", f"{FILE}:unreadable"), 2, "inputs missing: ['input']; unknown: ['image']"),
        ((*QUANT, "--qat", f"{FILE}:diverging"), 1, "the loss is nan at step 1 of epoch 1"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(train, tmp_path, flags, code, message):
    result = train(*flags, "-o", "out")
    assert (result.code, list(tmp_path.iterdir())) == (code, [])
    assert message in result.err
