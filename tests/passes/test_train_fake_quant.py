"""train-fake-quant: what it needs, what it trains, and what it says in the report."""

from __future__ import annotations

import pytest
import torch

from edgecc.errors import UsageError
from edgecc.passes.insert_fake_quant import InsertFakeQuant
from edgecc.passes.train_fake_quant import TrainFakeQuant
from edgecc.pipeline import manager
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.instruments import VerifyNumerics, VerifyStructure
from edgecc.pipeline.spec import parse
from edgecc.registry import Registry
from edgecc.testing import apply, trace_function
from edgecc.training.task import Task
from tests.training.nets import lessons, mlp, numbers, quantized


def test_a_float_program_is_left_alone():
    program = trace_function(mlp(), numbers(1, 8))
    assert apply(TrainFakeQuant(), program)[0] == 0


def test_it_needs_data_and_calibrated_ranges():
    program = quantized(mlp(), numbers(1, 8))
    with pytest.raises(UsageError, match="train-fake-quant has no data to train on"):
        apply(TrainFakeQuant(), program)
    raw = trace_function(mlp(), numbers(1, 8))
    apply(InsertFakeQuant(scheme="w4a8"), raw)
    with pytest.raises(UsageError, match="ranges that are not calibrated"):
        TrainFakeQuant().run(raw, PassContext(training=Task(lessons(mlp()))))


def test_it_stands_between_calibrate_and_finalize_quant_in_pipeline_text():
    program = trace_function(mlp(), numbers(1, 8))
    context = PassContext(
        samples=(program.examples,),
        calibration=[(x,) for x, _ in lessons(mlp())],
        training=Task({"data": lessons(mlp()), "lr": 0.02}),
        original=program.snapshot(),
    )
    text = "insert-fake-quant{scheme='w2a8'}, calibrate, train-fake-quant{epochs=3,teacher='mse'}, finalize-quant, lower-quantized"
    steps = manager.run(parse(text, Registry.create().passes), program, context, [VerifyStructure(), VerifyNumerics()])
    assert [s.rewrites > 0 for s in steps] == [True] * 5
    training = context.facts["training"]
    assert (training["epochs"], training["lr"], training["teacher"]) == (3, 0.02, "mse")
    assert [e["epoch"] for e in training["history"]] == [1, 2, 3]
    assert training["history"][2]["loss"] < training["history"][0]["loss"]


def test_the_teacher_is_the_program_before_the_first_pass():
    program = quantized(mlp(), numbers(1, 8))
    other = trace_function(mlp(seed=1), numbers(1, 8))
    x = torch.cat([x for x, _ in lessons(mlp())])
    before = (program(x)[0] - other(x)[0]).square().mean()
    context = PassContext(training=Task([x for x, _ in lessons(mlp())]), original=other)
    TrainFakeQuant(epochs=10, lr=0.05, teacher="mse").run(program, context)
    assert (program(x)[0] - other(x)[0]).square().mean() < before / 2


def test_its_options_print_and_parse_back():
    text = "train-fake-quant{epochs=4,teacher='kl'}"
    assert str(parse(text, Registry.create().passes)) == text
    with pytest.raises(UsageError, match="epochs is 0"):
        TrainFakeQuant(epochs=0)
