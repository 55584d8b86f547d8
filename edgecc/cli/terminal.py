"""Terminal: text and tables on standard output, log lines on standard error; rich on a terminal, plain elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

from edgecc.cli.process import write
from edgecc.cli.progress import Progress


@dataclass
class Terminal:
    """`verbosity` is -1 for `-q`, 0, 1 for `-v`, 2 for `-vv`. With `json` only the document goes to `out`."""

    out: TextIO
    err: TextIO
    verbosity: int = 0
    json: bool = False
    progress: Progress = field(default_factory=Progress)

    def print(self, text: str = "") -> None:
        """A line of the answer."""
        with self.progress.paused():
            write(self.out, text + "\n")

    def aside(self, text: str) -> None:
        """Text that was asked for beside the answer, such as IR: on standard output, unless that is a JSON document."""
        with self.progress.paused():
            write(self.err if self.json else self.out, text + "\n")

    def log(self, text: str, level: int = 0) -> None:
        """A line of the log, from `level` of verbosity on."""
        if self.verbosity >= level:
            with self.progress.paused():
                write(self.err, text + "\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, indent: str = "") -> None:
        """An aligned table. A column whose cells are all numbers (or empty) is aligned right."""
        cells = [["" if c is None else str(c) for c in row] for row in rows]
        right = [all(_is_number(row[i]) for row in cells) for i in range(len(columns))]
        self.print(_rich_table(columns, cells, right, self.out) if self.out.isatty() else _plain_table(columns, cells, right, indent))


def _plain_table(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], indent: str) -> str:
    lines = [list(columns), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        (indent + "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True))).rstrip()
        for line in lines
    )


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], out: TextIO) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name, number in zip(columns, right, strict=True):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(c) for c in row))
    console = Console(file=out)
    with console.capture() as captured:
        console.print(table)
    return captured.get().strip("\n")


def _is_number(cell: str) -> bool:
    return cell in ("", "-") or cell.replace(",", "").lstrip("+-")[:1].isdigit()
