"""The process around a command: signals, streams, warnings, PyTorch's threads."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from types import FrameType
from typing import Any, TextIO

GRACE = 3.0


@dataclass
class Interrupt:
    """Whether a signal arrived, and when. Foreign code may turn the KeyboardInterrupt into an error of its own."""

    received: bool = False
    at: float = 0.0


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Raise KeyboardInterrupt at the first SIGINT, SIGTERM or SIGHUP, and let nothing disturb the cleaning up after it.

    A signal more than `GRACE` seconds later raises again: foreign code may have swallowed the first. One that the parent
    process chose to ignore stays ignored.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before: dict[signal.Signals, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if interrupt.received and now - interrupt.at < GRACE:
            return
        interrupt.received, interrupt.at = True, now
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, stop)
    try:
        yield interrupt
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)


@contextmanager
def own_stdout() -> Iterator[TextIO]:
    """Yield the standard output; what models, compilers and runtimes print meanwhile goes to standard error.

    A native library writes to the file descriptor, past `sys.stdout`, so the descriptor is moved too where there is one.
    """
    real = sys.stdout
    with redirect_stdout(sys.stderr):
        try:
            descriptor, error = real.fileno(), sys.stderr.fileno()
        except (io.UnsupportedOperation, ValueError, AttributeError):
            yield real
            return
        real.flush()
        kept = os.dup(descriptor)
        os.dup2(error, descriptor)
        try:
            with os.fdopen(os.dup(kept), "w", encoding=real.encoding, errors="backslashreplace") as stream:
                yield stream
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)


def write(stream: TextIO, text: str) -> None:
    """Write and flush. A reader that went away (`| head -1`) is no error: the rest is dropped."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # The bytes left in the buffer would raise again when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def warnings_shown(shown: bool) -> Iterator[None]:
    """Python warnings and log lines of models and libraries, which are for their authors, only where they are asked for.

    PyTorch logs a traceback for an error that it then raises; edgecc prints the error.
    """
    disabled = logging.root.manager.disable
    if not shown:
        logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default" if shown else "ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use `count` threads, or as many as it likes."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
