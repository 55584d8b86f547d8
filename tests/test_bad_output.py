"""Outputs that cannot or must not be written, and run directories that were damaged afterwards."""

# ruff: noqa: F811  a test takes a fixture by the name that it was imported under
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import ROOT
from tests.cli.conftest import HOST, compiled, edgecc, folder  # noqa: F401  fixtures
from tests.test_bad_input import MODELS, refused

FAST = [f"{MODELS}:no_parameters", "--load", HOST, "--target", "torch_host", "--progress", "none"]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# Where the output goes


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("file/out", "cannot write file/out: a file is in the place of a folder"),
        ("file/a/b/out", "cannot write file/a/b/out: a file is in the place of a folder"),
        ("/proc/edgecc-out", "cannot write /proc/edgecc-out: "),
        ("/sys/edgecc-out", "cannot write /sys/edgecc-out: "),
        ("/dev/full/out", "cannot write /dev/full/out: a file is in the place of a folder"),
        ("n" * 300, "File name too long"),
    ],
    ids=["file", "below a file", "proc", "sys", "full", "long"],
)
def test_a_place_that_cannot_be_written_is_one_message(edgecc, tmp_path, folder, output, message):
    (tmp_path / "file").write_text("mine")
    refused(edgecc("compile", *FAST, "-o", output), 2, message, "name another folder with -o")
    assert folder() == ["file"] and (tmp_path / "file").read_text() == "mine"


LIMITED = """
import resource, sys
from edgecc.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [500, 5000, 30000])
def test_a_full_disk_at_any_moment_leaves_nothing(tmp_path, limit):
    """A limit on the size of files stands for the disk: reports, references and libraries fail on it, whichever is first."""
    pytest.importorskip("tvm")
    words = ["compile", f"{MODELS}:huge_constant_output", "--target", "arm_cpu", "-o", "a/out", "--dump-ir", "--progress", "none"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.format(limit), *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("edgecc: error: cannot write a/out: File too large\n") and done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_untouched_and_refused_before_any_work(edgecc, compiled, tmp_path):
    shutil.copytree(compiled, tmp_path / "out")
    before = contents(tmp_path / "out")
    refused(edgecc("compile", "absent.py:nothing", "--target", "absent", "-o", "out"), 6, "out exists", "--overwrite")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("kind", ["folder", "file", "link", "broken link"])
def test_overwrite_spares_what_edgecc_did_not_write(edgecc, compiled, tmp_path, kind):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter").write_text("years of work")
    if kind == "folder":
        (tmp_path / "thesis").rename(tmp_path / "out")
    elif kind == "file":
        (tmp_path / "out").write_text("years of work")
    else:
        (tmp_path / "out").symlink_to(compiled if kind == "link" else "nowhere")
    before = contents(tmp_path), contents(compiled)
    refused(edgecc("compile", *FAST, "-o", "out", "--overwrite"), 6, "out is not a run directory of edgecc, so it is not replaced")
    assert (contents(tmp_path), contents(compiled)) == before


def test_a_failed_overwrite_leaves_the_old_run_directory(edgecc, tmp_path, folder):
    assert edgecc("compile", *FAST, "-o", "out").code == 0
    before = contents(tmp_path / "out")
    result = edgecc("compile", *FAST, "-o", "out", "--overwrite", "--insert", "legalize:fail", "--json")
    assert result.code == 70
    assert contents(tmp_path / "out") == before and folder() == [result.document["error"]["reproducer"], "out"]


@pytest.mark.parametrize(
    ("output", "place"),
    [
        ("out/", "out"),
        ("./a/../out", "out"),
        ("new/parents/out", "new/parents/out"),
        ("ünï cödé/ö ut", "ünï cödé/ö ut"),
        ("link/out", "real/out"),
        ("-dash", "-dash"),
    ],
)
def test_an_output_may_be_spelled_in_many_ways(edgecc, tmp_path, output, place):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for flags in ([], ["--overwrite"]):
        assert edgecc("compile", *FAST, f"--output={output}", *flags).code == 0
    assert edgecc("verify", tmp_path / place, "--load", HOST).code == 0
    assert not list(tmp_path.rglob(".*")), "nothing is left beside it"


@pytest.mark.parametrize("output", [".", "reference/.."])
def test_overwrite_replaces_the_folder_that_one_stands_in(edgecc, tmp_path, monkeypatch, folder, output):
    assert edgecc("compile", *FAST, "-o", "out").code == 0
    (tmp_path / "out/stale").touch()
    monkeypatch.chdir(tmp_path / "out")
    assert edgecc("compile", *FAST, "-o", output, "--overwrite").code == 0
    monkeypatch.chdir(tmp_path)
    assert folder() == ["out"] and not (tmp_path / "out/stale").exists() and (tmp_path / "out/manifest.json").is_file()


@pytest.mark.slow
def test_spaces_and_unicode_in_every_path_and_the_recipe_rebuilds_the_same_library(edgecc, tmp_path):
    pytest.importorskip("tvm")
    (tmp_path / "my mödels").mkdir()
    shutil.copy(MODELS, tmp_path / "my mödels/bad möd els.py")
    assert edgecc("compile", "my mödels/bad möd els.py:no_parameters", "--target", "arm_cpu", "-q", "-o", "ö 1").code == 0
    assert edgecc("compile", "--recipe", "ö 1/recipe.toml", "-o", "ö 2", "-q").code == 0
    for name in ("model.so", "manifest.json", "recipe.toml", "device/runner.cc"):
        assert (tmp_path / "ö 1" / name).read_bytes() == (tmp_path / "ö 2" / name).read_bytes()


# Damaged run directories


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory for ARM. Tests do not change it."""
    pytest.importorskip("tvm")
    from edgecc.__main__ import main

    output = tmp_path_factory.mktemp("arm") / "out"
    assert main(["compile", f"{MODELS}:no_parameters", "--target", "arm_cpu", "-o", str(output), "-q"]) == 0
    return output


@pytest.fixture
def copy(arm: Path, tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    return Path(shutil.copytree(arm, tmp_path / "copy"))


def remove(file: Path) -> None:
    file.unlink()


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("name", ["model.so", "host/model.so", "model.txt"])
@pytest.mark.parametrize("damage", [remove, flip, truncate])
def test_a_damaged_artifact_is_neither_verified_nor_run(edgecc, copy, damage, name):
    if name == "host/model.so" and not (copy / name).exists():
        pytest.skip("this machine runs the ARM binary itself, so there is no host build")
    damage(copy / name)
    wrong = f"{name} is missing" if damage is remove else f"{name} has changed since it was compiled"
    result = edgecc("verify", "copy", "--json")
    assert (result.code, result.document["problems"]) == (1, [wrong])
    refused(edgecc("run", "copy", "--input", "x=x.npy", "-o", "out.npz"), 1, f"copy is not what was compiled: {wrong}")
    assert not Path("out.npz").exists()


def test_damaged_references_stop_verify_but_not_run(edgecc, copy):
    truncate(copy / "reference/case-00.npz")
    result = edgecc("verify", "copy", "--json")
    assert (result.code, result.document["problems"]) == (1, ["reference/case-00.npz has changed since it was compiled"])
    assert edgecc("run", "copy", "--input", "x=x.npy").code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "has schema 99, want 1"),
        ({"schema": None}, "has schema None, want 1"),
        ({"files": 3, "facts": None}, "is damaged: facts, files missing or of the wrong type"),
    ],
)
@pytest.mark.parametrize("command", [["verify"], ["run", "--input", "x=x.npy"], ["inspect"]], ids=lambda c: c[0])
def test_a_manifest_of_another_kind_is_refused(edgecc, copy, command, change, message):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | change))
    refused(edgecc(command[0], "copy", *command[1:]), 2, "manifest.json", message, "compile the model again")


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "\x00\xff"])
@pytest.mark.parametrize("name", ["manifest.json", "report.json"])
def test_a_broken_json_file_is_one_message(edgecc, copy, name, content):
    (copy / name).write_bytes(content.encode("latin-1"))
    refused(edgecc("inspect", "copy"), 2, f"copy/{name}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "inputs missing: ['x']"),
        (["--input", "y=x.npy"], "inputs missing: ['x']; unknown: ['y']"),
        (["--input", "x"], "want NAME=FILE.npy"),
        (["--input", "x=absent.npy"], "absent.npy cannot be read"),
        (["--input", "x=ints.npy"], "x is i64, want f32"),
        (["--input", "x=wide.npy"], "x has size 5 at axis 1, want 4"),
        (["--input", "x=copy/model.so"], "model.so cannot be read"),
    ],
)
def test_run_refuses_inputs_that_do_not_fit(edgecc, copy, tmp_path, flags, message):
    np.save(tmp_path / "ints.npy", np.zeros((2, 4), np.int64))
    np.save(tmp_path / "wide.npy", np.zeros((2, 5), np.float32))
    refused(edgecc("run", "copy", *flags, "-o", "out.npz", "--progress", "none"), 2, message)
    assert not Path("out.npz").exists()
