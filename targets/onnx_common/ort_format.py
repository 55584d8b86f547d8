"""The ORT format: model.ort, which ONNX Runtime loads without parsing ONNX, in its smallest builds too.

ONNX Runtime documentation, ORT model format. The file holds the weights and a graph that is optimized already.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from edgecc.errors import ContractError, MissingToolError
from edgecc.targeting.packages import installed
from edgecc.targets.onnx_common.runtime import INSTALL
from edgecc.targets.onnx_common.write import MODEL

ORT_MODEL = "model.ort"
_TOOL = "onnxruntime.tools.convert_onnx_models_to_ort"


def convert(directory: Path, platform: str) -> None:
    """Write model.ort beside model.onnx by ONNX Runtime's own tool. `platform`: arm, or amd64, where convolutions get the
    layout of this machine's vectors.

    Raises MissingToolError, and ContractError with the tool's message where it fails.
    """
    if not installed("onnxruntime"):
        raise MissingToolError("ONNX Runtime is not installed", hint=INSTALL)
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--output_dir", folder, "--optimization_style", "Fixed", "--target_platform", platform]
        command = [sys.executable, "-m", _TOOL, str(directory / MODEL), *flags]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        made = Path(folder, ORT_MODEL)
        if run.returncode or not made.is_file():
            said = (run.stderr or run.stdout).strip().splitlines()
            raise ContractError(f"ONNX Runtime's converter to the ORT format failed: {said[-1] if said else 'no message'}")
        (directory / ORT_MODEL).write_bytes(made.read_bytes())
