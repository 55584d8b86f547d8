"""JSON files beside a model: each holds an object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgecc.errors import UsageError


def read_object(path: Path) -> dict[str, Any]:
    """The object of a file. Raises UsageError for one that is missing, damaged or holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="copy or download it again") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds {type(found).__name__}, want an object")
    return found


def read_optional(path: Path) -> dict[str, Any]:
    """The object of a file, `{}` where there is no such file. Raises as read_object does."""
    return read_object(path) if path.is_file() else {}
