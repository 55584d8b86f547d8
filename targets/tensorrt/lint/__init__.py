"""Static TensorRT readiness of any ONNX file, by documented rules; TensorRT is not needed and not run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgecc.errors import MissingToolError
from edgecc.targeting.lint import LintReport


def lint(file: Path, profile: str) -> LintReport:
    """Check `file` by every rule of a profile such as `10.15`.

    Raises UsageError for an unknown profile and for what is no ONNX model, MissingToolError where onnx is not installed.
    """
    missing = [name for name in ("onnx", "onnx_ir") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingToolError(f"edgecc lint needs {' and '.join(missing)}", hint="pip install 'edgecc[onnx]'")
    from edgecc.targets.tensorrt.lint import profiles, report

    return report.create(file, profiles.profile(profile))
