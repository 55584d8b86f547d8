"""Command: what each file of this folder declares, so that people and scripts read the same answer."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecc.cli.session import Session
    from edgecc.cli.terminal import Terminal

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a command found, as JSON values, and its exit code: 1 where a contract failed or two things differ."""

    document: Document
    code: int = 0


@dataclass(frozen=True)
class Command:
    """`run` makes the document, `show` prints it for people; `--json` prints the document itself.

    `takes` names the global flags that mean something here. `quiet` says that `-q` drops the printed summary: the
    product is a file. PyTorch is imported inside `run` only, so that `--help` does not wait for it.
    """

    name: str
    summary: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Session], Answer]
    show: Callable[[Document, Terminal], None]
    takes: frozenset[str] = frozenset()
    quiet: bool = False
