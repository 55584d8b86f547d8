"""Every failure a user can meet, one class for each documented exit code."""

from __future__ import annotations

from typing import ClassVar


class EdgeccError(Exception):
    """A failure with a cause the user can act on.

    `message` says what happened, to which node and source line, what was found and what was wanted;
    `hint` says what to try.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  try: {self.hint}" if self.hint else self.message


class ContractError(EdgeccError):
    """The work finished, but a contract failed: a mismatch, a budget, a declared numeric bound."""

    exit_code = 1


class UsageError(EdgeccError):
    """A flag, recipe or input is wrong."""

    exit_code = 2


class CaptureError(EdgeccError):
    """The model could not be traced."""

    exit_code = 3


class UnsupportedError(EdgeccError):
    """The target does not support some operators; the message lists every one of them."""

    exit_code = 4


class MissingToolError(EdgeccError):
    """A tool or extra is missing; the hint is the exact install line."""

    exit_code = 5


class RefusedError(EdgeccError):
    """Refused for safety: a pickle, or an existing output without `--overwrite`."""

    exit_code = 6


class InternalError(EdgeccError):
    """edgecc itself is wrong: a pass or a lowering broke what it promised."""

    exit_code = 70
