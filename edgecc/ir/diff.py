"""Node-level diff of two programs: which calls, weights, inputs and outputs went, came or changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgecc.ir.program import Program
from edgecc.ir.text import to_text


@dataclass(frozen=True)
class Diff:
    """Lines of the textual IR by node or weight name, in program order. `changed` holds (name, before, after)."""

    removed: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[tuple[str, str, str], ...]
    reweighted: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.changed or self.reweighted)

    def __str__(self) -> str:
        lines = [f"- {line}" for line in self.removed] + [f"+ {line}" for line in self.added]
        lines += [text for _, before, after in self.changed for text in (f"- {before}", f"+ {after}")]
        lines += [f"~ @{name}: same shape, other values" for name in self.reweighted]
        return "\n".join(lines)


def diff(before: Program, after: Program) -> Diff:
    """What must be done to `before` to get `after`. A node is the same if its name is; source comments do not count."""
    old, new = _lines(before), _lines(after)
    olds, news = before.weights(), after.weights()
    return Diff(
        removed=tuple(line for name, line in old.items() if name not in new),
        added=tuple(line for name, line in new.items() if name not in old),
        changed=tuple((name, line, new[name]) for name, line in old.items() if name in new and new[name] != line),
        reweighted=tuple(n for n, w in olds.items() if n in news and w.shape == news[n].shape and not _same(w, news[n])),
    )


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        if a.dim()
        else a.item() == b.item()
    )


def _lines(program: Program) -> dict[str, str]:
    return {line.split(" : ")[0].split("=")[0]: line for line in to_text(program, source=False).splitlines()}
