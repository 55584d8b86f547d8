"""fold-batch-norm: a norm with fixed statistics goes into the weights beside it, where that is exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edgecc.ir.program import Program
from edgecc.ir.signature import Dim
from edgecc.passes.fold_batch_norm import FoldBatchNorm
from edgecc.pipeline.context import PassContext
from edgecc.testing import apply, operators, trace_function

# float32 eps is 1.2e-7; a fold scales every product once and moves one addition: a few eps of the largest output
TOLERANCE = 2e-6


def randomized(model: nn.Module) -> nn.Module:
    """Random statistics and affine parameters: fresh ones are zeros and ones, and any fold of them looks right."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean):
                if tensor is not None:
                    tensor.data = torch.randn(tensor.shape, generator=generator)
            module.running_var = torch.rand(module.running_var.shape, generator=generator) + 0.5
    return model.eval()


def fold(model: nn.Module, x: torch.Tensor, dims: Any = None) -> tuple[int, Program, PassContext]:
    """Trace and fold, compare with eager, and check that a second run finds nothing."""
    program = trace_function(randomized(model), x, dims=dims)
    count, context = apply(FoldBatchNorm(), program)
    with torch.no_grad():
        expected = model(x)
    assert (program(x)[0] - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert apply(FoldBatchNorm(), program)[0] == 0
    return count, program, context


def images(channels: int, rank: int = 2) -> torch.Tensor:
    return torch.randn(2, channels, *[7] * rank, generator=torch.Generator().manual_seed(0))


AFTER: dict[str, tuple[nn.Module, torch.Tensor]] = {
    "conv1d": (nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6)), images(4, 1)),
    "conv2d": (nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)), images(4)),
    "conv3d": (nn.Sequential(nn.Conv3d(4, 6, 3), nn.BatchNorm3d(6)), images(4, 3)),
    "grouped": (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), images(4)),
    "depthwise without bias": (nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8)), images(4)),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)), images(4)),
    "transposed and grouped": (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)), images(4)),
    "transposed 1d": (nn.Sequential(nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6)), images(4, 1)),
    "padding same": (nn.Sequential(nn.Conv2d(4, 6, 4, padding="same"), nn.BatchNorm2d(6)), images(4)),
    "linear": (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), images(4, 0)),
    "no affine": (nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)), images(4)),
    "twice": (nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6)), images(4)),
    "before conv": (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)), images(4)),
    "before grouped conv without bias": (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2, bias=False)), images(4)),
    "before linear": (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6)), images(4, 0)),
    "before and after": (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), images(4)),
}


@pytest.mark.parametrize("dims", [None, {"input": {0: Dim("batch", 1, 8)}}], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", AFTER)
def test_a_norm_beside_weights_disappears(name: str, dims: Any) -> None:
    model, x = AFTER[name]
    count, program, context = fold(model, x, dims)
    assert count == sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert [o for o in operators(program) if "norm" in o] == []
    assert len(context.remarks.of("fold-batch-norm", "applied")) == count
    assert all("running" not in weight for weight in program.weights())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + self.bn(y).relu()


class SharedConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.bn(self.conv(x)).relu())


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bn = nn.Linear(7, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.linear(x)).relu()


REFUSED: dict[str, tuple[nn.Module, torch.Tensor, str]] = {
    "the convolution is read twice": (Residual(), images(4), "conv2d is read by 2 nodes"),
    "the convolution is shared": (SharedConvolution(), images(4), "conv.weight is used 2 times"),
    "linear writes another axis": (Sequence(), images(4, 1), "last axis"),
    "zero padding would be shifted": (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)), images(4), "pads with zeros"),
    "a transposed convolution sees its border": (
        nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 3)),
        images(4),
        "pads with zeros",
    ),
    "an activation stands between": (
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)),
        images(4),
        "aten.relu has no weights",
    ),
    "its statistics are those of the batch": (
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)),
        images(4),
        "statistics of its batch",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_norm_that_cannot_be_folded_stays_with_the_reason(name: str) -> None:
    model, x, reason = REFUSED[name]
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is None:
            return _stays_with_batch_statistics(model.eval(), x, reason)
    count, program, context = fold(model, x)
    (remark,) = context.remarks.of("fold-batch-norm", "missed")
    assert count == 0 and reason in remark.message and any("batch_norm" in o for o in operators(program))
    return None


def _stays_with_batch_statistics(model: nn.Module, x: torch.Tensor, reason: str) -> None:
    program = trace_function(model, x)
    count, context = apply(FoldBatchNorm(), program)
    assert count == 0 and reason in context.remarks.of("fold-batch-norm", "missed")[0].message


def test_zero_padding_is_no_hindrance_where_the_norm_does_not_shift() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 6, 3, padding=1)).eval()
    model[0].running_var.fill_(4.0)
    program = trace_function(model, images(4))
    assert apply(FoldBatchNorm(), program)[0] == 1 and operators(program) == ["aten.conv2d"]
    with torch.no_grad():
        torch.testing.assert_close(program(images(4))[0], model(images(4)), rtol=TOLERANCE, atol=TOLERANCE)


class TupleForm(nn.Module):
    """Convolution and batch norm as run_decompositions leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bn = self.bn
        operator = torch.ops.aten._native_batch_norm_legit_no_training
        return operator(self.conv(x), bn.weight, bn.bias, bn.running_mean, bn.running_var, 0.1, bn.eps)[0]


def test_the_tuple_form_folds() -> None:
    count, program, _ = fold(TupleForm(), images(4))
    assert count == 1 and operators(program) == ["aten.conv2d"]


def test_the_weights_keep_their_names() -> None:
    _, program, _ = fold(nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), images(4))
    assert sorted(program.weights()) == ["0.bias", "0.weight"]
