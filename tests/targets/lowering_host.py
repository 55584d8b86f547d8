"""Run lowered programs on the host, unscheduled, and compare them with PyTorch eager."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from edgecc.ir.capture import Dims
from edgecc.ir.program import Program
from edgecc.targets.tvm_cpu.lowering import legalize, lower, refuse
from edgecc.testing import trace_function

Case = tuple[Callable[..., Any], tuple[torch.Tensor, ...]]


def compiled(program: Program) -> Callable[..., list[np.ndarray[Any, Any]]]:
    """The program as a function of torch tensors, lowered and compiled for this machine."""
    import tvm
    from tvm import relax

    refused = {str(n.target): refuse(n) for n in program.calls() if refuse(n)}
    assert not refused, refused
    target = tvm.target.Target({"kind": "llvm", "opt-level": 0})  # a quarter of the time; the operations are the same
    machine = relax.VirtualMachine(tvm.compile(legalize(lower(program)), target=target), tvm.cpu())
    return lambda *inputs: [o.numpy() for o in machine["main"](*(tvm.runtime.tensor(i.contiguous().numpy()) for i in inputs))]


def check(
    model: Any, inputs: Sequence[torch.Tensor], *others: Sequence[torch.Tensor], dims: Dims | None = None, tolerance: float = 2e-6
) -> None:
    """Compile once, and compare every set of inputs with eager. `tolerance`: see `close`."""
    program = trace_function(model, *inputs, dims=dims)
    run = compiled(program)
    for given in (inputs, *others):
        for got, want in zip(run(*given), program(*given), strict=True):
            close(got, want, tolerance)


def close(got: np.ndarray[Any, Any], want: torch.Tensor, tolerance: float = 2e-6, name: str = "") -> None:
    """Integers and bools are equal; floats differ by `tolerance` of the largest magnitude (and of one), NaN where NaN.

    2e-6 is 16 units in the last place of float32: libm's functions and sums of a few dozen terms in another order.
    """
    assert got.shape == tuple(want.shape), f"{name}: {got.shape} is not {tuple(want.shape)}"
    assert str(got.dtype) == str(want.dtype).removeprefix("torch."), f"{name}: {got.dtype} is not {want.dtype}"
    if not want.is_floating_point():
        np.testing.assert_array_equal(got, want.numpy(), err_msg=name)
        return
    want = want.detach()
    finite = want[want.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=tolerance * scale, err_msg=name)


class Together(torch.nn.Module):
    """Many small functions as one program: the results of each, one after another."""

    def __init__(self, cases: Sequence[Case]) -> None:
        super().__init__()
        self.cases = cases

    def forward(self, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        given, results = iter(inputs), []
        for function, own in self.cases:
            value = function(*(next(given) for _ in own))
            results += list(value) if isinstance(value, (tuple, list)) else [value]
        return tuple(results)


def check_together(cases: dict[str, Case], tolerance: float = 2e-6) -> None:
    """Compile all cases as one program, and name those that differ from eager."""
    model = Together(list(cases.values()))
    program = trace_function(model, [x for _, own in cases.values() for x in own])
    names = [name for name, (function, own) in cases.items() for _ in _as_list(function(*own))]
    inputs = [x for _, own in cases.values() for x in own]
    wrong = []
    for name, got, want in zip(names, compiled(program)(*inputs), model(inputs), strict=True):
        try:
            close(got, want, tolerance, name)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "\n".join(wrong)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]
