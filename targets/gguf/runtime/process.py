"""Process: the parent's side of the child that runs llama.cpp; it ends with every error, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import edgecc
from edgecc.errors import ContractError, EdgeccError, MissingToolError, UsageError
from edgecc.targeting.ending import ended_by
from edgecc.targets.gguf.runtime import protocol

_ERRORS: dict[str, type[EdgeccError]] = {kind.__name__: kind for kind in (ContractError, MissingToolError, UsageError)}
_LINES, _TAIL = 12, 1 << 16  # how much of the child's log an error shows: lines, of the last bytes


class Process:
    """A running child; `name` is what it works on, for messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._overdue = False
        self._said = 0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by `end`
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-m", "edgecc.targets.gguf.runtime.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=Path(edgecc.__file__).parents[1],  # so that `-m edgecc...` is this edgecc
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # its backtrace starts a debugger
        )
        self.pid = self._process.pid

    def exchange(
        self, fields: Mapping[str, Any], arrays: Sequence[protocol.Array], seconds: float
    ) -> tuple[dict[str, Any], list[protocol.Array]]:
        """Send a request and wait for the answer. Raises the error that it holds; ContractError, with what the child logged
        meanwhile, where it ends or takes longer than `seconds`.
        """
        process = self._process
        if process is None:
            raise ContractError(f"llama.cpp has ended: {self.name} must be loaded again")
        assert process.stdin is not None and process.stdout is not None
        self._said = self._log.seek(0, os.SEEK_END)
        watchdog = threading.Timer(seconds, self._expire, (process,))
        watchdog.daemon = True
        watchdog.start()
        try:
            with suppress(BrokenPipeError):  # the answer that is missing says why
                protocol.send(process.stdin, fields, arrays)
            answer, found = protocol.receive(process.stdout)
        except EOFError as error:
            raise self._died(process, seconds) from error
        except BaseException:
            self.end()  # an answer may be on its way, which nobody waits for any more
            raise
        finally:
            watchdog.cancel()
        if "error" in answer:
            told = answer["error"]
            raise _ERRORS[told["kind"]](told["message"], hint=told["hint"])
        return answer, found

    def _expire(self, process: subprocess.Popen[bytes]) -> None:
        self._overdue = True
        process.kill()

    def _died(self, process: subprocess.Popen[bytes], seconds: float) -> ContractError:
        """The error for a child that ended in the middle of an answer."""
        code = process.wait()
        self._log.seek(max(self._said, self._log.seek(0, os.SEEK_END) - _TAIL))
        lines = self._log.read().decode(errors="replace").splitlines()[-_LINES:]
        self.end()
        if self._overdue:
            how = f"did not answer within {seconds:g} s"
        else:
            how = f"was ended by {ended_by(code)}" if code < 0 else f"ended with code {code}"
        return ContractError("\n  ".join([f"llama.cpp {how} on {self.name}", *lines]))

    def end(self) -> None:
        """Kill the child, wait for it and close every stream; once is enough."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.kill()
        finally:
            process.wait()
            for stream in (process.stdin, process.stdout, self._log):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()
