"""Every code block of the README and the docs runs, and prints what stands there.

In a page, blocks run in order in one empty folder. A ```python block whose first line is `# file: NAME` is written to
that file, any other is executed; of a ```console block, each `$ edgecc ...` line is run and its output compared with
the lines below it. Figures with a decimal point may differ. EDGECC_ACCEPT=1 writes the real output into the page.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?P<kind>python|console)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"[+-]?\d+\.\d+(e[+-]\d+)?")
ACCEPT = os.environ.get("EDGECC_ACCEPT") == "1"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_code_blocks_of_a_page_run_and_print_what_stands_there(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text, names = page.read_text(), {"__name__": "__docs__"}
    for block in BLOCK.finditer(page.read_text()):
        body = block["body"]
        if block["kind"] == "python":
            file = re.match(r"# file: (\S+)\n", body)
            if file:
                Path(file[1]).write_text(body)
            else:
                exec(compile(body, f"{page.name}", "exec"), names)
            continue
        real = "".join(f"$ {command}\n{run(command)}" for command in re.findall(r"^\$ (.*)$", body, re.MULTILINE))
        if ACCEPT:
            text = text.replace(block.group(), f"```console\n{real}```")
        else:
            assert FIGURE.sub("#", squeeze(real)) == FIGURE.sub("#", squeeze(body))
    if ACCEPT:
        page.write_text(text)


def run(command: str) -> str:
    words = shlex.split(command)
    program = [sys.executable, "-m", "edgecc", *words[1:]] if words[0] == "edgecc" else words
    environment = {**os.environ, "COLUMNS": "120", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(program, capture_output=True, text=True, env=environment, check=False)
    printed = (result.stdout + result.stderr).replace(f"{Path.cwd()}/", "")
    return "".join(line.rstrip() + "\n" for line in printed.splitlines())


def squeeze(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.splitlines())
