"""Provenance: which line of which module a node came from, kept through rewrites."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

from torch import fx

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_KEYS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn")


def module_path(node: fx.Node) -> str:
    """Dotted path of the nn.Module that made the node, `""` for the model itself or where unknown."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    return str(next(reversed(stack.values()))[0]).removeprefix("L['self'].").removeprefix("L__self__.")


def source_line(node: fx.Node) -> str:
    """`file.py:line` of the innermost frame that is the user's, `""` where unknown.

    Frames of torch itself are passed over, so that an nn.Linear is reported where it was called,
    unless there is no other frame.
    """
    frames = [(m["file"], m["line"]) for m in _FRAME.finditer(node.meta.get("stack_trace") or "")]
    if not frames:
        return ""
    users = [f for f in frames if "/torch/" not in f[0]] or frames
    file, line = users[-1]
    return f"{PurePath(file).name}:{line}"


def describe(node: fx.Node) -> str:
    """`module.path, file.py:line`, with whatever of the two is known."""
    return ", ".join(part for part in (module_path(node), source_line(node)) if part)


def inherit(node: fx.Node, sources: Iterable[fx.Node]) -> None:
    """Give `node` the provenance of the first of `sources` that has any, where it has none itself."""
    if node.meta.get("stack_trace"):
        return
    for source in sources:
        if source.meta.get("stack_trace") or source.meta.get("nn_module_stack"):
            node.meta.update({k: source.meta[k] for k in _KEYS if k in source.meta})
            return
