"""A real network: a few steps of training lower the loss, and what comes out is lowered to integers as before."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from edgecc.passes.finalize_quant import FinalizeQuant
from edgecc.passes.fold_batch_norm import FoldBatchNorm
from edgecc.passes.lower_quantized import LowerQuantized
from edgecc.testing import apply, operators, trace_function
from edgecc.training.recover import recover
from edgecc.training.settings import Settings
from edgecc.training.task import Task
from tests import ROOT
from tests.training.nets import quantize

DATA = ROOT.parent / "shared" / "data"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")]


def test_a_few_steps_bring_resnet20_with_4_bit_weights_closer_to_the_float_model():
    spec = importlib.util.spec_from_file_location("resnet_cifar", DATA / "resnet_cifar.py")
    resnet_cifar = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(resnet_cifar)
    model, _ = resnet_cifar.resnet20()
    model.load_state_dict(torch.load(DATA / "resnet20_cifar.pt", weights_only=True))
    x, _ = resnet_cifar.images(DATA / "cifar10_train_10000.npz")
    program = trace_function(model, x[:1])
    apply(FoldBatchNorm(), program)
    quantize(program, x[:64], scheme="w4a8")
    held_out = x[5000:5200]
    with torch.no_grad():
        want = model(held_out)
    before = (program(held_out)[0] - want).square().mean()
    history = recover(program, Task([x[i : i + 50] for i in range(0, 1000, 50)]), Settings(epochs=2, teacher="kl"))
    first, second = (e.loss for e in history.epochs)
    assert second < first and (program(held_out)[0] - want).square().mean() < before
    trained = program(held_out[:1])[0]
    apply(FinalizeQuant(), program)
    assert torch.equal(program(held_out[:1])[0], trained)
    apply(LowerQuantized(), program)
    assert "aten.conv2d" not in operators(program)
    assert float(torch.cosine_similarity(program(held_out[:1])[0], trained)) > 0.99
