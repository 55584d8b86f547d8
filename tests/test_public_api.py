"""The public names exist, are the whole of it, and do not load PyTorch before they are used."""

from __future__ import annotations

import subprocess
import sys

import edgecc

PUBLIC = {
    "EXACT", "REORDERED", "Capabilities", "CompileOptions", "CompileResult", "Dim", "EdgeccError", "Lossy", "Lowered", "Pass",
    "PassContext", "Pipeline", "Program", "QuantSupport", "Requirement", "RewritePass", "Runner", "Target", "compile", "load", "runners", "testing", "trace",
}  # fmt: skip


def test_all_is_what_the_documentation_promises():
    assert set(edgecc.__all__) == PUBLIC


def test_every_public_name_is_there_and_documented():
    for name in edgecc.__all__:
        assert getattr(edgecc, name).__doc__, name


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(edgecc, "quantise")


def test_importing_edgecc_imports_no_torch():
    code = "import sys, edgecc; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
