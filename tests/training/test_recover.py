"""recover: programs learn, runs repeat to the byte, and nothing is lost where something is wrong."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgecc.errors import ContractError, UsageError
from edgecc.ir.program import Program
from edgecc.passes.finalize_quant import FinalizeQuant
from edgecc.passes.lower_quantized import LowerQuantized
from edgecc.testing import apply, operators
from edgecc.training.recover import recover
from edgecc.training.settings import Settings
from edgecc.training.task import Task
from tests import ROOT
from tests.training.nets import convnet, lessons, mlp, numbers, quantized

SHORT = Settings(epochs=3, lr=0.02)


def program() -> Program:
    return quantized(mlp(), numbers(1, 8))


def weights(found: Program) -> list[bytes]:
    return [t.numpy().tobytes() for t in found.weights().values()]


def accuracy(found: Program) -> float:
    x, y = (torch.cat(parts) for parts in zip(*lessons(mlp()), strict=True))
    return float((found(x)[0].argmax(1) == y).float().mean())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_training_recovers_what_rounding_cost(optimizer):
    found = program()
    before = accuracy(found)
    history = recover(found, Task(lessons(mlp())), Settings(epochs=10, lr=0.02, optimizer=optimizer), evaluate=accuracy)
    assert history.before == before and history.epochs[-1].evaluation == accuracy(found) > before
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert history.changed == len([n for n in found.weights() if "zero_point" not in n])


@pytest.mark.parametrize("teacher", ["kl", "mse"])
def test_a_teacher_needs_no_labels(teacher):
    model, found = mlp(), program()
    x = numbers(64, 8, seed=9)
    before = (found(x)[0] - model(x)).square().mean()
    data = [x for x, _ in lessons(mlp())]
    recover(found, Task(data), Settings(epochs=10, lr=0.02, teacher=teacher))
    assert (found(x)[0] - model(x)).square().mean() < (before if teacher == "mse" else 2 * before)
    assert accuracy(found) > accuracy(program())


def test_a_program_may_be_taught_by_another_one():
    found, other = program(), quantized(mlp(seed=1), numbers(1, 8), scheme="int8")
    x = torch.cat([x for x, _ in lessons(mlp())])
    before = (found(x)[0] - other(x)[0]).square().mean()
    recover(found, Task([x for x, _ in lessons(mlp())]), Settings(epochs=10, lr=0.05, teacher="mse"), teacher=other)
    assert (found(x)[0] - other(x)[0]).square().mean() < before / 2


def test_two_runs_give_the_same_bytes_and_another_seed_does_not():
    runs = []
    for seed in (0, 0, 1):
        found = program()
        recover(found, Task(lambda: torch.utils.data.DataLoader(lessons(mlp()), batch_size=None, shuffle=True)), SHORT, seed=seed)
        runs.append(weights(found))
    assert runs[0] == runs[1] != runs[2]


def test_a_loss_of_the_users_own_gets_outputs_and_target():
    seen = []

    def loss(output, target):
        seen.append((tuple(output.shape), target))
        return output.square().mean()

    recover(program(), Task({"data": [(numbers(3, 8), "anything")], "loss": loss, "epochs": 1}))
    assert seen == [((3, 4), "anything")]


def test_labels_share_the_loss_with_a_teacher():
    def loss_of(**settings):
        return recover(program(), Task(lessons(mlp(), count=1)), Settings(epochs=1, **settings)).epochs[0].loss

    whole, taught = loss_of(), loss_of(teacher="kl")
    assert loss_of(teacher="kl", labels=0.25) == pytest.approx(0.25 * whole + 0.75 * taught, rel=1e-6)


def test_the_rate_falls_along_a_cosine_and_the_log_has_every_step(tmp_path):
    history = recover(program(), Task(lessons(mlp()), log=tmp_path), SHORT)
    assert [e.lr for e in history.epochs] == pytest.approx([0.02 * 0.5 * (1 + math.cos(math.pi * k / 24)) for k in (7, 15, 23)])
    (file,) = tmp_path.iterdir()
    assert file.read_bytes().count(b"step/loss") == 24


def test_a_trained_program_is_finalized_and_lowered():
    found = quantized(convnet(), numbers(1, 3, 8, 8), scheme="w4a8")
    x, y = numbers(16, 3, 8, 8), torch.arange(16) % 4
    recover(found, Task([(x, y)]), Settings(epochs=2))
    want = found(x[:1])[0]
    apply(FinalizeQuant(), found)
    assert torch.equal(found(x[:1])[0], want)
    apply(LowerQuantized(), found)
    assert "aten.conv2d" not in operators(found)
    assert torch.allclose(found(x[:1])[0], want, atol=0.05 * float(want.abs().max()))  # a code or two of the last layer's input


def nan_at_the_third():
    for index in range(8):
        yield numbers(4, 8), torch.full((4, 4), math.nan if index == 2 else 1.0)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (nan_at_the_third, ContractError, "the loss is nan at step 3 of epoch 1"),
        ([], UsageError, "own gives no batch"),
        (lambda: iter([]), UsageError, "own gives no batch"),
        (iter([(numbers(4, 8), torch.zeros(4, dtype=torch.int64))]), UsageError, "is a generator, which ends after one pass"),
        ([(numbers(4, 8) / 0 * 0, 0)], UsageError, "own, batch 0 of epoch 1: input holds NaN"),
        ([(numbers(4, 9), 0)], UsageError, "own, batch 0 of epoch 1: .*size 9 at axis 1, want 8"),
        ([numbers(4, 8)], UsageError, "own gives no target at step 1 of epoch 1"),
        ([(numbers(4, 8), torch.zeros(4, dtype=torch.bool))], UsageError, "own, step 1 of epoch 1: the target is bool"),
        ([(numbers(4, 8), torch.zeros(5, dtype=torch.int64))], UsageError, "the target is i64"),
        ([(numbers(4, 8), "cat")], UsageError, "the target is str, want a tensor"),
        ({"data": [(numbers(4, 8), 0)], "loss": lambda o, t: o[t, 7]}, UsageError, "the loss of own failed at step 1 of epoch 1: "),
        (
            {"data": [(numbers(4, 8), 0)], "loss": lambda o, t: o},
            UsageError,
            r"own, step 1 of epoch 1: its loss gives torch.Size\(\[4, 4\]\)",
        ),
        ({"data": [(numbers(4, 8), 0)], "loss": lambda o, t: o.sum().detach()}, UsageError, "does not depend on the program's weights"),
        ({"data": [(numbers(4, 8), 0)], "speed": 3}, UsageError, "own gives 'speed', which is no setting of training"),
    ],
)
def test_what_is_wrong_is_named_and_the_program_stays_as_it_was(given, error, message):
    found = program()
    before = weights(found)
    with pytest.raises(error, match=message):
        recover(found, Task(given, "own"), Settings(epochs=1))
    assert weights(found) == before


def test_data_that_shrinks_is_named():
    sizes = iter([3, 3, 3, 2])
    with pytest.raises(UsageError, match="own gave 2 batches in epoch 2, and 3 before"):
        recover(program(), Task(lambda: iter(lessons(mlp())[: next(sizes, 2)]), "own"), SHORT)


class Centred(torch.nn.Module):
    """Each row depends on the others of its piece of two."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(x - x.mean(0, keepdim=True))


def test_rows_that_depend_on_one_another_are_trained_in_their_own_pieces():
    """Batches of the program's own size come first: the others must not go by them."""
    found = quantized(Centred(), numbers(2, 8), scheme="w8a16")
    x, y = numbers(8, 8), torch.arange(8) % 4
    want = sum(float(torch.nn.functional.cross_entropy(found(x[i : i + 2])[0], y[i : i + 2])) for i in range(0, 8, 2)) / 4
    history = recover(found, Task(lambda: iter([(x[:2] * 0, y[:2]), (x, y)])), Settings(epochs=1, lr=1e-12))
    first = float(torch.nn.functional.cross_entropy(found(x[:2] * 0)[0], y[:2]))
    assert history.epochs[0].loss == pytest.approx((first + want) / 2, rel=1e-5)  # float32 sums in another order
    with pytest.raises(UsageError, match="own, batch 0 of epoch 1: a batch has 3 rows, want a multiple of 2"):
        recover(found, Task([(x[:3], y[:3])], "own"), Settings(epochs=1))


def test_a_run_goes_on_from_a_failure(tmp_path):
    """The first run fails in the second epoch; what it wrote is enough to end as a run that never failed."""
    whole, broken = program(), program()
    recover(whole, Task(lessons(mlp())), SHORT)
    calls = []

    def loss(output, target):
        calls.append(0)
        if len(calls) == 12:
            raise RuntimeError("the lights went out")
        return torch.nn.functional.cross_entropy(output, target)

    file = tmp_path / "run.ckpt"
    with pytest.raises(UsageError, match="the lights went out"):
        recover(broken, Task({"data": lessons(mlp()), "loss": loss}, checkpoint=file), Settings(epochs=3, lr=0.02, every=3))
    recover(broken, Task({"data": lessons(mlp()), "loss": loss}, checkpoint=file), SHORT)
    assert weights(broken) == weights(whole)
    assert len(calls) == 12 + 24 - 11, "the last checkpoint is after step 3 of epoch 2"


def test_a_checkpoint_of_another_model_or_seed_is_refused(tmp_path):
    task = Task(lessons(mlp()), checkpoint=tmp_path / "run.ckpt")
    recover(program(), task, SHORT)
    with pytest.raises(UsageError, match="another program"):
        recover(quantized(mlp(seed=1), numbers(1, 8)), task, SHORT)
    with pytest.raises(UsageError, match="another settings"):
        recover(program(), task, Settings(epochs=4, lr=0.02))
    with pytest.raises(UsageError, match="another seed"):
        recover(program(), task, SHORT, seed=1)


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from edgecc.training.recover import recover
from edgecc.training.settings import Settings
from edgecc.training.task import Task
from tests.training.nets import lessons, mlp, numbers, quantized

torch.set_num_threads(1)
kill_at, checkpoint, out = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
drawn = 0

def noisy():
    global drawn
    for x, y in lessons(mlp()):
        drawn += 1
        if drawn == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        yield x + 0.1 * torch.randn(x.shape), y

program = quantized(mlp(), numbers(1, 8))
recover(program, Task(noisy, checkpoint=checkpoint), Settings(epochs=3, lr=0.02, every=3))
Path(out).write_bytes(b"".join(t.numpy().tobytes() for t in program.weights().values()))
"""


def run_script(folder: Path, kill_at: int, checkpoint: str, out: str) -> int:
    command = [sys.executable, "-c", SCRIPT, str(kill_at), str(folder / checkpoint), str(folder / out)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bytes_of_one_that_was_not(tmp_path):
    assert run_script(tmp_path, 0, "whole.ckpt", "whole") == 0
    for kill_at in (14, 17, 22):  # 8 batches are counted; 5 of epoch 1 are trained on, all of them, and 5 of epoch 2
        name = f"killed{kill_at}"
        assert run_script(tmp_path, kill_at, f"{name}.ckpt", name) == -signal.SIGKILL
        assert not (tmp_path / name).exists() and (tmp_path / f"{name}.ckpt").exists()
        assert run_script(tmp_path, 0, f"{name}.ckpt", name) == 0
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole").read_bytes()
