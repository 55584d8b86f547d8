"""Report: run the rules over a file, and write the command lines that would confirm it on a GPU."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import onnx

from edgecc.errors import UsageError
from edgecc.targeting.lint import Finding, LintReport
from edgecc.targets.tensorrt.lint.graph import Graph, shape
from edgecc.targets.tensorrt.lint.load import LIMIT, load
from edgecc.targets.tensorrt.lint.profiles import Profile
from edgecc.targets.tensorrt.lint.rule import Hit, Rule
from edgecc.targets.tensorrt.lint.rules import RULES, T10


def create(file: Path, profile: Profile) -> LintReport:
    """Every finding of every rule. Raises UsageError where the file cannot be read as an ONNX model.

    A file beyond protobuf's limit cannot be parsed: it gets the finding of T10, and no other rule is checked.
    """
    if file.is_dir():
        raise UsageError(f"{file} is a folder", hint="name the .onnx file in it")
    if not file.is_file():
        raise UsageError(f"{file} is not there", hint="edgecc lint FILE.onnx")
    size = file.stat().st_size
    if size >= LIMIT:
        hit = Hit(None, f"the file has {size:,} bytes, protobuf reads less than {LIMIT:,}")
        return LintReport(str(file), "TensorRT", profile.name, (_finding(T10, hit),), (T10.id,), _commands(file, profile, None))
    try:
        graph = load(file)
        findings = tuple(_finding(rule, hit) for rule in RULES for hit in rule.check(graph, profile))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        _refuse_invalid(file)  # rules take nodes to have the inputs and attributes that ONNX wants
        raise
    return LintReport(str(file), "TensorRT", profile.name, findings, tuple(r.id for r in RULES), _commands(file, profile, graph))


def _refuse_invalid(file: Path) -> None:
    """Raises UsageError where ONNX's own checker refuses the model."""
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UsageError(f"{file} is not a valid ONNX model: {error}", hint="export the model again") from error


def _finding(rule: Rule, hit: Hit) -> Finding:
    severity = hit.severity or rule.severity
    return Finding(rule.id, severity, rule.title, hit.node, hit.operator, hit.found, hit.fix or rule.fix, rule.source)


def _commands(file: Path, profile: Profile, graph: Graph | None) -> tuple[str, ...]:
    """trtexec builds, polygraphy compares with ONNX Runtime. Both want numbers for dynamic dimensions, here their names in capitals.

    Before TensorRT 11 strong typing is asked for by a flag: the types stand in the file.
    """
    name = shlex.quote(str(file))
    typed = not profile.strongly_typed
    trtexec = f"trtexec --onnx={name}" + (" --stronglyTyped" if typed else "")
    polygraphy = f"polygraphy run {name} --trt --onnxrt" + (" --strongly-typed" if typed else "")
    return (
        trtexec + _shapes(graph, "--{}Shapes=", ",", lambda n, d: f"{n}:{'x'.join(d)}"),
        polygraphy + _shapes(graph, "--trt-{}-shapes ", " ", lambda n, d: f"{n}:[{','.join(d)}]"),
    )


def _shapes(graph: Graph | None, flag: str, between: str, spell: Callable[[str, list[str]], str]) -> str:
    """Flags for the smallest, the best and the largest shape of every dynamic input, `""` where none is."""
    inputs = [(v.name or "", shape(v)) for v in graph.inputs] if graph is not None else []
    dynamic = [(name, sizes) for name, sizes in inputs if sizes and not all(isinstance(d, int) for d in sizes)]
    if not dynamic:
        return ""
    text = ""
    for which in ("min", "opt", "max"):
        spelled = [spell(name, [_size(which, d, i) for i, d in enumerate(sizes)]) for name, sizes in dynamic if sizes]
        text += " " + flag.format(which) + between.join(spelled)
    return text


def _size(which: str, size: int | str | None, axis: int) -> str:
    return str(size) if isinstance(size, int) else f"{which.upper()}_{(size or f'DIM{axis}').upper()}"
