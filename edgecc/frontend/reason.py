"""The reason in an exception of foreign code, in one line."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """The first line of the message, or the type where there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
