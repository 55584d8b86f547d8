"""Node-level diff of two programs: which calls, weights, inputs and outputs went, came or changed."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import torch

from edgecc.ir.program import Program
from edgecc.ir.text import to_text


@dataclass(frozen=True)
class Diff:
    """Lines of the textual IR by node or weight name. `changed` holds (name, before, after).

    `lines` has them all in program order, `- ` before what went and `+ ` before what came.
    """

    removed: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[tuple[str, str, str], ...]
    reweighted: tuple[str, ...]
    lines: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.changed or self.reweighted)

    def __str__(self) -> str:
        return "\n".join([*self.lines, *(f"~ @{name}: same shape, other values" for name in self.reweighted)])


def diff(before: Program, after: Program) -> Diff:
    """What must be done to `before` to get `after`. A node is the same if its name is; source comments do not count."""
    old, new = _lines(before), _lines(after)
    olds, news = before.weights(), after.weights()
    return Diff(
        removed=tuple(line for name, line in old.items() if name not in new),
        added=tuple(line for name, line in new.items() if name not in old),
        changed=tuple((name, line, new[name]) for name, line in old.items() if name in new and new[name] != line),
        reweighted=tuple(n for n, w in olds.items() if n in news and w.shape == news[n].shape and not _same(w, news[n])),
        lines=_changed_lines(list(old.values()), list(new.values())),
    )


def _changed_lines(old: list[str], new: list[str]) -> tuple[str, ...]:
    found = list(difflib.unified_diff(old, new, n=0, lineterm=""))[2:]  # without the two lines of file names
    return tuple(f"{line[0]} {line[1:]}" for line in found if line[0] in "+-")


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        if a.dim()
        else a.item() == b.item()
    )


def _lines(program: Program) -> dict[str, str]:
    return {line.split(" : ")[0].split("=")[0]: line for line in to_text(program, source=False).splitlines()}
