"""Run lowered programs in ONNX Runtime, and compare them with PyTorch eager."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgecc.ir.capture import Dims
from edgecc.ir.program import Program
from edgecc.targets.onnx_common.lowering import lower, refuse
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner
from edgecc.targets.onnx_common.write import MODEL, write
from edgecc.testing import trace_function
from tests.targets.lowering_host import Case, Together, close


def compiled(program: Program, opset: int = 20, **options: Any) -> Callable[..., list[np.ndarray[Any, Any]]]:
    """The program as a function of torch tensors: lowered, written, checked with strict shape inference, and loaded."""
    refused = {str(n.target): refuse(n, opset) for n in program.calls() if refuse(n, opset)}
    assert not refused, refused
    with tempfile.TemporaryDirectory() as folder:
        write(lower(program, opset, **options), Path(folder))
        onnx.checker.check_model(str(Path(folder, MODEL)), full_check=True)
        runner = OnnxRuntimeRunner(Path(folder, MODEL), 1)
    names = [s.name for s in program.signature.inputs]

    def run(*inputs: torch.Tensor) -> list[np.ndarray[Any, Any]]:
        found = runner.run({name: i.numpy() for name, i in zip(names, inputs, strict=True)})
        return [found[s.name] for s in program.signature.outputs]

    return run


def check(
    model: Any,
    inputs: Sequence[torch.Tensor],
    *others: Sequence[torch.Tensor],
    dims: Dims | None = None,
    tolerance: float = 2e-6,
    opset: int = 20,
    **options: Any,
) -> None:
    """Lower once, and compare every set of inputs with eager. `tolerance`: see `close`."""
    program = trace_function(model, *inputs, dims=dims)
    run = compiled(program, opset, **options)
    for given in (inputs, *others):
        for got, want in zip(run(*given), program(*given), strict=True):
            close(got, want, tolerance)


def check_together(cases: dict[str, Case], tolerance: float = 2e-6, opset: int = 20, **options: Any) -> None:
    """Lower all cases as one program, and name those that differ from eager."""
    model = Together(list(cases.values()))
    inputs = [x for _, own in cases.values() for x in own]
    results = compiled(trace_function(model, inputs), opset, **options)(*inputs)
    names = [name for name, (function, own) in cases.items() for _ in as_list(function(*own))]
    wrong = []
    for name, got, want in zip(names, results, model(inputs), strict=True):
        try:
            close(got, want, tolerance, name)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "\n".join(wrong)


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]
