"""Progress of long work: a bar on a terminal, numbered lines elsewhere, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TextIO

from edgecc.cli.process import write

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

STYLES = ("auto", "plain", "none")


class Progress:
    """Progress that says nothing, and the contract of the others. `expect` announces steps, `step` begins the
    next, `detail` says what it is doing now.
    """

    def __init__(self) -> None:
        self.count = self.total = 0

    def expect(self, steps: int) -> None:
        self.total += steps

    def step(self, what: str) -> None:
        self.count += 1
        self.total = max(self.total, self.count)

    def detail(self, what: str) -> None:
        pass

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is drawn while this lasts, so that other lines can be printed."""
        return nullcontext()

    def close(self) -> None:
        pass


class Lines(Progress):
    """`[3/17] fuse: fuse-gelu`, a line a step."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream

    def step(self, what: str) -> None:
        super().step(what)
        write(self.stream, f"[{self.count}/{self.total}] {what}\n")

    def detail(self, what: str) -> None:
        write(self.stream, f"{' ' * len(f'[{self.count}/{self.total}]')} {what}\n")


class Bar(Progress):
    """A bar that goes away when the work is done."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.bar = _bar(stream)
        self.task = self.bar.add_task("starting", total=None)  # a command without steps has no end to show
        self.bar.start()
        self.closed = False

    def step(self, what: str) -> None:
        super().step(what)
        self.bar.update(self.task, description=what, completed=self.count - 1, total=self.total)

    def detail(self, what: str) -> None:
        self.bar.update(self.task, description=what)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.bar.stop()
        yield
        if not self.closed:
            self.bar.start()

    def close(self) -> None:
        self.closed = True
        self.bar.stop()


def create(style: str, stream: TextIO, *, quiet: bool) -> Progress:
    """The progress of `--progress STYLE` on a stream; none with `-q`."""
    if quiet or style == "none":
        return Progress()
    return Bar(stream) if style == "auto" and stream.isatty() else Lines(stream)


def _bar(stream: TextIO) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    return Progress(*columns, console=Console(file=stream), transient=True)
