"""PyTorch's own exporter, for a program with calls that edgecc does not lower to ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from edgecc.errors import MissingToolError
from edgecc.ir import archive
from edgecc.ir.program import Program
from edgecc.targeting.packages import installed
from edgecc.targets.onnx_common.runtime import INSTALL


class NotExportedError(Exception):
    """The exporter cannot write the program either; the message is its own."""


def export(program: Program, opset: int) -> Any:
    """The whole program as an onnx_ir.Model, with the names of the signature and of its dynamic dimensions.

    Raises NotExportedError, and MissingToolError where the exporter's own package is missing.
    """
    if not installed("onnxscript"):
        raise MissingToolError("onnxscript is not installed, which PyTorch's ONNX exporter needs", hint=INSTALL)
    with _quiet():
        try:
            made = torch.onnx.export(archive.export(program), dynamo=True, opset_version=opset, verbose=False)
        except torch.onnx.OnnxExporterError as error:
            raise NotExportedError(str(error).strip().splitlines()[0]) from error
    assert made is not None
    _name(made.model, program)
    return made.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own warnings: they are about packages that it does not find, not about the model."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _name(model: Any, program: Program) -> None:
    import onnx_ir as ir

    ends = [
        *zip(model.graph.inputs, program.signature.inputs, strict=True),
        *zip(model.graph.outputs, program.signature.outputs, strict=True),
    ]
    taken = {spec.name for _, spec in ends}
    for value in (v for node in model.graph for v in node.outputs):
        value.name = f"{value.name}_" if value.name in taken else value.name
    for value, spec in ends:
        value.name = spec.name
        value.shape = ir.Shape(spec.shape)
