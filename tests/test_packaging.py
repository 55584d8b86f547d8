"""The wheel holds every package under edgecc and nothing beside it, and compiles a model in a clean environment."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCRIPT = """
import torch, edgecc
assert "site-packages" in edgecc.__file__, edgecc.__file__
result = edgecc.compile(torch.nn.Linear(4, 3), torch.ones(1, 4), target="x86_cpu", output="out")
print(result.report.as_dict()["verify"]["max_abs"])
"""


def test_the_package_list_is_what_is_on_disk():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"edgecc"} | {
        "edgecc." + ".".join(p.parent.relative_to(ROOT / "edgecc").parts) for p in (ROOT / "edgecc").glob("*/**/__init__.py")
    }
    for name in ("passes", "targets"):
        found |= {"edgecc." + ".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / name).rglob("__init__.py")}
    assert listed == found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in files:
        path = ROOT / name
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            (source / name).symlink_to(path.readlink())
        elif path.is_file():
            (source / name).write_bytes(path.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, source], check=True, capture_output=True
    )
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_has_no_top_level_passes_or_targets(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {"edgecc", next(n for n in names if n.endswith("METADATA")).split("/")[0]}
    for name in (
        "edgecc/passes/canonicalize.py",
        "edgecc/targets/arm_cpu/target.py",
        "edgecc/targets/tvm_cpu/runner/runner.cc",
        "edgecc/py.typed",
    ):
        assert names.count(name) == 1


@pytest.mark.slow
def test_an_installed_wheel_compiles_a_model(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--python", tmp_path / "venv/bin/python", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True, capture_output=True)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    result = subprocess.run([tmp_path / "venv/bin/python", "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 1e-5  # one float32 dot product of four terms
    assert (Path(tmp_path) / "out" / "manifest.json").is_file()
