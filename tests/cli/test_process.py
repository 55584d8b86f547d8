"""The command line as a process: start-up time, signals, what goes to which stream, and full disks."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgecc.cli import progress
from edgecc.cli.terminal import Terminal
from tests.cli.conftest import HOST, MODELS

ROOT = Path(__file__).parents[2]
COMPILE = ["compile", f"{MODELS}:small", "--load", HOST, "--target", "torch_host", "-o", "out"]
# A job that a shell starts in the background ignores SIGINT, and so would its child: a terminal's does not.
PROGRAM = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from edgecc.__main__ import main; sys.exit(main())"


def start(folder: Path, *words: str, **streams: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen(command, cwd=folder, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)


@pytest.mark.parametrize("words", [["--help"], ["compile", "--help"]])
def test_help_starts_without_pytorch(tmp_path, words):
    program = (
        "import sys; from edgecc.__main__ import main; main(sys.argv[1:]); sys.exit(len({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    )
    before = os.times()
    subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, check=True, capture_output=True)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 1  # 0.15 s of CPU time


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_in_the_middle_of_a_compile_leaves_nothing(tmp_path, number):
    process = start(tmp_path, *COMPILE, "--dump-ir", "--insert", f"fuse:wait{{file='{tmp_path}/started'}}", "--progress", "none")
    while not (tmp_path / "started").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    assert any(p.name.startswith(".out.") for p in tmp_path.iterdir()), "the dump of the first pass is being written"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "edgecc: interrupted\n")
    assert [p.name for p in tmp_path.iterdir()] == ["started"]


@pytest.mark.slow
def test_json_stays_pure_whatever_a_model_prints(tmp_path):
    process = start(tmp_path, "inspect", f"{MODELS}:chatty", "--load", HOST, "--target", "torch_host", "--json")
    out, err = process.communicate()
    assert process.returncode == 0 and out.startswith("{") and out.endswith("}\n")
    assert "python says hello" in err and "the C library says hello" in err


def test_a_reader_that_went_away_is_no_error(tmp_path, compiled):
    read, write = os.pipe()
    os.close(read)
    process = start(tmp_path, "inspect", str(compiled), stdout=write)
    os.close(write)
    assert process.communicate()[1] == "" and process.returncode == 0


def test_help_for_a_reader_that_went_away_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    process = start(tmp_path, "--help", stdout=write)
    os.close(write)
    assert process.communicate()[1] == "" and process.returncode == 0


def test_a_terminal_gets_a_bar_that_goes_away_and_a_drawn_table():
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        bar = progress.create("auto", stream, quiet=False)
        terminal = Terminal(stream, stream, progress=bar)
        bar.expect(2)
        bar.step("fuse: double-negation")
        terminal.log("a line in between")
        bar.close()
        terminal.print("the answer")
        terminal.table(("pass", "rewrites"), [("double-negation", 1)])
        terminal.print("the end")
        shown = ""
        while "the end" not in shown:
            shown += os.read(leader, 1 << 16).decode()
    os.close(leader)
    drawn, _, answer = shown.partition("the answer")
    assert "0/2" in drawn and "fuse: double-negation" in drawn and "a line in between" in drawn
    assert "0/2" not in answer and "─" in answer and "double-negation" in answer


@pytest.mark.parametrize(("style", "quiet", "lines"), [("auto", False, 1), ("plain", False, 1), ("none", False, 0), ("auto", True, 0)])
def test_progress_elsewhere_is_plain_or_none(capsys, style, quiet, lines):
    progress.create(style, sys.stderr, quiet=quiet).step("fuse: fuse-gelu")
    assert capsys.readouterr().err.splitlines() == ["[1/1] fuse: fuse-gelu"] * lines


@pytest.mark.slow
def test_a_full_disk_is_a_clear_error(tmp_path):
    """The limit on a file's size stands for the disk: it fails in the same writers with the same kind of error."""
    limited = PROGRAM.replace(
        "sys.exit(main())", "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); sys.exit(main())"
    )
    command = [sys.executable, "-c", limited, *COMPILE, "--progress", "none"]
    done = subprocess.run(command, cwd=tmp_path, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("edgecc: error: cannot write out: File too large\n")
    assert list(tmp_path.iterdir()) == []
