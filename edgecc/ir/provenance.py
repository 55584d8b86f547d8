"""Provenance: which line of which module a node came from, kept through rewrites."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

from torch import fx

_FRAME = re.compile(r' *File "(?P<file>[^"]+)", line (?P<line>\d+)[^\n]*\n?(?P<code> +[^\n]*)?')
_KEYS = ("stack_trace", "nn_module_stack")
_TRACER = ("/torch/fx/", "/torch/export/", "/torch/_export/", "/torch/_dynamo/", "/torch/utils/")


def condense(node: fx.Node) -> None:
    """Keep of the tracer's metadata the value, the module stack and the one frame of `stack_trace` that names the
    user's line; frames of the tracer itself are nobody's source.

    The frame is the innermost outside of torch, so that an nn.Linear is reported where it was called; where all
    frames are torch's, the innermost.
    """
    frames = [m for m in _FRAME.finditer(node.meta.get("stack_trace") or "") if not any(part in f"/{m['file']}" for part in _TRACER)]
    users = [m for m in frames if "/torch/" not in f"/{m['file']}"] or frames
    value, stack = node.meta.get("val"), node.meta.get("nn_module_stack")
    node.meta = {"val": value} if value is not None else {}
    if users:
        node.meta["stack_trace"] = users[-1].group().rstrip("\n")
        if stack:
            node.meta["nn_module_stack"] = stack


def module_path(node: fx.Node) -> str:
    """Dotted path of the nn.Module that made the node, `""` for the model itself or where unknown."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    return str(next(reversed(stack.values()))[0]).removeprefix("L['self'].").removeprefix("L__self__.")


def source_line(node: fx.Node) -> str:
    """`file.py:line` of the user's code that made the node, `""` where unknown."""
    found = _FRAME.search(node.meta.get("stack_trace") or "")
    return f"{PurePath(found['file']).name}:{found['line']}" if found else ""


def describe(node: fx.Node) -> str:
    """`module.path, file.py:line`, with whatever of the two is known."""
    return ", ".join(part for part in (module_path(node), source_line(node)) if part)


def inherit(node: fx.Node, sources: Iterable[fx.Node]) -> None:
    """Give `node` the provenance of the first of `sources` that has any, where it has none itself."""
    if "stack_trace" in node.meta:
        return
    for source in sources:
        if "stack_trace" in source.meta:
            node.meta.update({k: source.meta[k] for k in _KEYS if k in source.meta})
            return
