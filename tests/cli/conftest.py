"""The command line, run in this process in an empty folder, and one compiled artifact for the tests that need one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgecc.__main__ import main

HERE = Path(__file__).parent
HOST = str(HERE / "torch_host.py")
MODELS = str(HERE / "models.py")


@dataclass(frozen=True)
class Result:
    """What one run left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


Edgecc = Callable[..., Result]


@pytest.fixture
def edgecc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Edgecc:
    """Run `edgecc ARGV` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: object) -> Result:
        code = main([str(a) for a in argv])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def compile_small(edgecc: Edgecc) -> Edgecc:
    """Run `edgecc compile` on the small model for the test target, with more flags."""
    return lambda *flags: edgecc("compile", f"{MODELS}:small", "--load", HOST, "--target", "torch_host", *flags)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a dump. Tests do not change it."""
    output = tmp_path_factory.mktemp("artifact") / "out"
    words = ["compile", f"{MODELS}:small", "--load", HOST, "--target", "torch_host", "-o", str(output), "--dump-ir", "-q"]
    assert main(words) == 0
    return output


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[], list[str]]:
    """Names of everything in the working folder, hidden ones too."""
    return lambda: sorted(p.name for p in tmp_path.iterdir())
