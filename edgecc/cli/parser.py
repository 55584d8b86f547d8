"""The argument parser: one subparser a command, the global flags on both sides of the command's name, errors with hints."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from edgecc.cli.command import Command
from edgecc.cli.process import write
from edgecc.cli.progress import STYLES
from edgecc.diagnostics import nearest
from edgecc.errors import UsageError
from edgecc.targeting.packages import installed

EPILOG = """exit codes:
  0 done and every contract held    4 an operator is not supported on the target
  1 a contract failed               5 a tool or extra is missing
  2 usage, recipe or input error    6 refused for safety
  3 the model could not be traced   70 internal error    130 interrupted
"""


@dataclass(frozen=True)
class Flag:
    """A global flag. `everywhere`: every command takes it; otherwise those that name it in `takes`."""

    names: tuple[str, ...]
    options: dict[str, Any]
    everywhere: bool = False

    @property
    def key(self) -> str:
        return self.names[-1].lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class _Count:
    """A number of something, at least one."""

    what: str = field(default="count")

    def __call__(self, text: str) -> int:
        if not text.isdigit() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is no {self.what}, want a number of at least 1")
        return int(text)


FLAGS = (
    Flag(("-v", "--verbose"), {"action": "count", "help": "say more; twice: tracebacks and warnings too"}, everywhere=True),
    Flag(("-q", "--quiet"), {"action": "store_true", "help": "say nothing but errors"}, everywhere=True),
    Flag(
        ("--json",),
        {"action": "store_true", "help": "print one JSON document on standard output, the log on standard error"},
        everywhere=True,
    ),
    Flag(("--progress",), {"choices": STYLES, "help": "auto (a bar on a terminal), plain (a line a step) or none"}, everywhere=True),
    Flag(("--recipe",), {"type": Path, "metavar": "FILE", "help": "read options from a recipe.toml; a flag replaces the recipe's value"}),
    Flag(
        ("--set",),
        {
            "action": "append",
            "metavar": "KEY=VALUE",
            "help": "set a key of the recipe as recipe.toml spells it, after all flags: options.tolerance=1e-3, target_options.cpu=cortex-a53; a TOML value or a bare word (repeatable)",
        },
    ),
    Flag(("--seed",), {"type": int, "metavar": "N", "help": "seed of the checked inputs and of the model's random weights (0)"}),
    Flag(("--threads",), {"type": _Count("thread count"), "metavar": "N", "help": "threads on this machine; no result depends on it"}),
    Flag(("--overwrite",), {"action": "store_true", "help": "replace an output that exists"}),
    Flag(("--dry-run",), {"action": "store_true", "help": "check everything that can be checked and write nothing"}),
)


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError instead of exiting, and prints help past a reader that went away."""

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '(?P<given>[^']*)' \(choose from (?P<known>.*)\)", message)
        if found:
            known = [word.strip(" '") for word in found["known"].split(",")]
            what = "command" if "COMMAND" in message else message.partition(":")[0].removeprefix("argument ")
            raise UsageError(f"unknown {what} {found['given']!r}", hint=nearest(found["given"], known))
        raise UsageError(message, hint=f"{self.prog} --help")

    def print_help(self, file: Any = None) -> None:
        write(file or sys.stdout, self.format_help())

    def flags(self) -> list[str]:
        """Every flag that it knows."""
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        write(sys.stdout, f"edgecc {version('edgecc')} (torch {version('torch')})\n")
        parser.exit()


def version(package: str) -> str:
    """The installed version, without importing the package."""
    return installed(package) or ("from source" if package == "edgecc" else "missing")


def parse(words: Sequence[str], commands: Sequence[Command]) -> tuple[Command, argparse.Namespace]:
    """The command and its arguments; a global flag that was not given is None. Raises UsageError with the nearest name."""
    parser, subparsers = _parsers(commands)
    args, unknown = parser.parse_known_args(words)
    if args.command is None:
        raise UsageError("no command was given", hint="edgecc --help")
    command = next(c for c in commands if c.name == args.command)
    out_of_place = [f for f in FLAGS if not f.everywhere and f.key not in command.takes]
    for flag in out_of_place:
        if getattr(args, flag.key) not in (None, False) or any(word.partition("=")[0] in flag.names for word in unknown):
            raise UsageError(f"edgecc {command.name} takes no {flag.names[-1]}", hint=f"edgecc {command.name} --help")
    if unknown:
        word = unknown[0].partition("=")[0]
        hint = nearest(word, subparsers[command.name].flags()) if word.startswith("-") else f"edgecc {command.name} --help"
        raise UsageError(f"edgecc {command.name} does not know {unknown[0]!r}", hint=hint)
    return command, args


def _parsers(commands: Sequence[Command]) -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(
        prog="edgecc",
        description="Turn a PyTorch model into a small, fast, verified artifact for an edge device.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    for flag in FLAGS:
        parser.add_argument(*flag.names, dest=flag.key, **flag.options)
    choice = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    subparsers = {}
    for command in commands:
        sub = choice.add_parser(command.name, help=command.summary, description=command.summary, allow_abbrev=False)
        command.declare(sub)
        group = sub.add_argument_group("global flags")
        for flag in FLAGS:
            if flag.everywhere or flag.key in command.takes:
                group.add_argument(*flag.names, dest=flag.key, **flag.options, default=argparse.SUPPRESS)
        subparsers[command.name] = sub
    return parser, subparsers
