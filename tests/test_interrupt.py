"""Ctrl-C and kill at every stage of a compile, and readers that go away: one message, no partial output, no process left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import ROOT
from tests.test_bad_input import MODELS

# A job that a shell starts in the background ignores SIGINT, and so would its child: a terminal's does not.
PROGRAM = """
import signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a parent started by nohup passes on that it ignores it
from edgecc.__main__ import main

sys.exit(main())
"""
SLOW_MODEL = """
import pathlib, time
pathlib.Path("{mark}").touch()
time.sleep(60)
"""
SLOW_PASS = """
import pathlib, time
from dataclasses import dataclass
from edgecc import Pass

@dataclass(frozen=True)
class Wait(Pass):
    name = "wait"

    def run(self, program, context):
        pathlib.Path("{mark}").touch()
        time.sleep(60)
        return 0
"""
# In the place of a tool: it says that it was reached, and then takes long.
SLOW_TOOL = """#!/bin/sh
case "$*" in -dumpfullversion|"-cpu help") exec {tool} "$@";; esac
touch {mark}
exec sleep 60
"""


def stage(name: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment that make one stage of a compile long, and touch `folder/reached` when it begins."""
    mark, model, environment = folder / "reached", f"{MODELS}:no_parameters", {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["--target", "arm_cpu", "-o", "deep/out", "--dump-ir", "--progress", "plain"]
    if name == "loading":
        (folder / "model.py").write_text(SLOW_MODEL.format(mark=mark))
        model = f"{folder}/model.py:build"
    elif name == "passes":
        (folder / "slow.py").write_text(SLOW_PASS.format(mark=mark))
        words += ["--load", f"{folder}/slow.py", "--insert", "legalize:wait"]
    elif name != "building":
        program = {"linking": "aarch64-linux-gnu-gcc", "verifying": "qemu-aarch64"}[name]
        tool = shutil.which(program)
        if not tool:
            pytest.skip(f"{program} is not installed")
        (folder / "bin").mkdir()
        (folder / "bin" / program).write_text(SLOW_TOOL.format(tool=tool, mark=mark))
        (folder / "bin" / program).chmod(0o755)
        environment["PATH"] = f"{folder}/bin:{environment['PATH']}"
    return ["compile", model, *words], environment


def marked(mark: str) -> list[str]:
    """Command lines of the processes that were started with a mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended, or is another user's
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("loading", signal.SIGINT),
        ("passes", signal.SIGTERM),
        ("building", signal.SIGINT),
        ("linking", signal.SIGTERM),
        ("verifying", signal.SIGINT),
        ("verifying", signal.SIGHUP),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_signal_at_any_stage_leaves_nothing(tmp_path, where, number):
    pytest.importorskip("tvm")
    words, environment = stage(where, tmp_path)
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    mark = f"EDGECC_TEST_MARK={tmp_path.name}-{os.getpid()}-"
    environment |= {"TMPDIR": str(temporary), "EDGECC_TEST_MARK": mark.partition("=")[2]}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], cwd=work, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said = wait_until(process, tmp_path / "reached", "build model.so" if where == "building" else "")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    err = said + err
    assert process.returncode == 130 and out == "", err
    assert [line for line in err.splitlines() if not line.startswith(("[", " "))] == ["edgecc: interrupted"]  # besides progress
    assert list(work.iterdir()) == [] and marked(mark) == []
    assert [p for p in temporary.iterdir() if not p.name.startswith("torchinductor")] == []  # PyTorch's own cache folder


def wait_until(process: subprocess.Popen[str], file: Path, line: str) -> str:
    """Wait for a file, or for a line of progress; return what was read of standard error."""
    said = ""
    while line and line not in said:
        assert process.stderr is not None
        read = process.stderr.readline()
        assert read, said
        said += read
    while not line and not file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return said


@pytest.mark.slow
def test_a_second_signal_stops_what_swallowed_the_first(tmp_path):
    """A model with a bare `except` eats the KeyboardInterrupt; pressing Ctrl-C again, later, must still help."""
    (tmp_path / "model.py").write_text(
        "import pathlib, time\n"
        "def build():\n"
        "    try:\n        pathlib.Path('reached').touch()\n        time.sleep(60)\n"
        "    except BaseException:\n        pathlib.Path('swallowed').touch()\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["compile", "model.py:build", "--target", "x86_cpu", "-o", "out", "--progress", "none"]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *words], cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE)
    wait_until(process, tmp_path / "reached", "")
    process.send_signal(signal.SIGINT)
    while not (tmp_path / "swallowed").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)  # at once: taken for the same key press, so that cleaning up is not disturbed
    time.sleep(3.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == "edgecc: interrupted\n" and process.returncode == 130


@pytest.mark.slow
def test_a_reader_that_takes_one_line_stops_nothing(tmp_path):
    """`edgecc compile ... | head -1`: the artifact is what was asked for, the summary is only read in part."""
    pytest.importorskip("tvm")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m edgecc compile {MODELS}:no_parameters --target x86_cpu -o out --progress none | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{MODELS}:no_parameters for x86_cpu\n"
    assert (tmp_path / "out/model.so").is_file()
