"""The command line's entry: run one command, and turn every way in which it can fail into a message and an exit code."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence

from edgecc.cli import bench, compile, crash, diff, doctor, inspect, lint, opt, parser, passes, progress, run, targets, verify
from edgecc.cli.command import Answer, Command
from edgecc.cli.process import Interrupt, interruptible, own_stdout, torch_threads, warnings_shown
from edgecc.cli.session import Session
from edgecc.cli.terminal import Terminal
from edgecc.errors import EdgeccError, InternalError, UsageError

COMMANDS: tuple[Command, ...] = (
    compile.COMMAND,
    run.COMMAND,
    verify.COMMAND,
    bench.COMMAND,
    inspect.COMMAND,
    lint.COMMAND,
    opt.COMMAND,
    diff.COMMAND,
    passes.COMMAND,
    targets.COMMAND,
    doctor.COMMAND,
)
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `edgecc ARGV` and return its exit code; nothing is raised."""
    words = list(sys.argv[1:] if argv is None else argv)
    with interruptible() as interrupt:
        try:
            command, args = parser.parse(words, COMMANDS)
        except EdgeccError as error:
            return _fail(Session(words, Terminal(sys.stdout, sys.stderr, json="--json" in words)), error)
        except SystemExit:  # --help and --version have printed
            return 0
        with own_stdout() as out:
            verbosity = -1 if args.quiet else args.verbose or 0
            terminal = Terminal(out, sys.stderr, verbosity, args.json or False)
            session = Session(words, terminal)
            terminal.progress = progress.create(args.progress or "auto", sys.stderr, quiet=bool(args.quiet))
            try:
                return _guarded(command, args, session, interrupt)
            finally:
                terminal.progress.close()


def _guarded(command: Command, args: argparse.Namespace, session: Session, interrupt: Interrupt) -> int:
    try:
        with warnings_shown(session.terminal.verbosity > 1), torch_threads(args.threads):
            answer = command.run(args, session)
        return _print(command, answer, session)
    except KeyboardInterrupt:
        return _interrupted(session)
    except SystemExit as stop:
        return _fail(session, UsageError(f"the model's code ended the process with sys.exit({stop.code!r})"))
    except BaseException as error:  # noqa: BLE001  the boundary: whatever is left becomes an exit code and a reproducer
        return _interrupted(session) if interrupt.received else _fail(session, error)


def _print(command: Command, answer: Answer, session: Session) -> int:
    session.terminal.progress.close()
    if session.terminal.json:
        session.terminal.print(json.dumps(answer.document, indent=2, allow_nan=False))
    elif not (command.quiet and session.terminal.verbosity < 0):
        command.show(answer.document, session.terminal)
    return answer.code


def _fail(session: Session, error: BaseException) -> int:
    """Print what went wrong, as `edgecc: error:` for people or as the one JSON document, and return the exit code."""
    terminal = session.terminal
    terminal.progress.close()
    known = error if isinstance(error, EdgeccError) else InternalError(f"{type(error).__name__}: {error}")
    document = {"kind": type(known).__name__, "message": known.message, "hint": known.hint, "exit_code": known.exit_code}
    if terminal.verbosity > 1:
        terminal.log("".join(traceback.format_exception(error)).rstrip())
    kind = "internal error" if known.exit_code == InternalError.exit_code else "error"
    terminal.log(f"edgecc: {kind}: {known.message}", level=-1)
    if known.hint:
        terminal.log(f"  try: {known.hint}", level=-1)
    if known.exit_code == InternalError.exit_code:
        document["reproducer"] = _reproduce(session, error)
    if terminal.json:
        terminal.print(json.dumps({"error": document}, indent=2))
    return known.exit_code


def _reproduce(session: Session, error: BaseException) -> str:
    """Write a reproducer and say where; `""` where nothing can be written."""
    try:
        place = str(crash.write(session.words, error, session.last))
    except OSError as why:
        session.terminal.log(f"  no reproducer could be written: {why.strerror}; -vv prints the traceback", level=-1)
        return ""
    session.terminal.log(f"  a reproducer was written to {place}/: please report it", level=-1)
    return place


def _interrupted(session: Session) -> int:
    session.terminal.progress.close()
    session.terminal.log("edgecc: interrupted", level=-1)
    if session.terminal.json:
        session.terminal.print(
            json.dumps({"error": {"kind": "Interrupted", "message": "interrupted", "hint": "", "exit_code": INTERRUPTED}})
        )
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
