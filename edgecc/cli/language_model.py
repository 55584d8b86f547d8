"""The printed summary of a language model's file: what it is written as, in which formats, and how far it is from the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgecc.cli import summary
from edgecc.cli.terminal import Terminal


def show(facts: Mapping[str, Any] | None, terminal: Terminal) -> None:
    """Architecture and why, formats, the honest bits of a weight, and every format that a shape forbade."""
    if not facts:
        return
    others = "; ".join(
        f"{name} begins to differ at {difference.splitlines()[0]}" for name, difference in list(facts["refused"].items())[:2]
    )
    terminal.print(
        f"model     {facts['architecture']} of llama.cpp, which computes what the graph does" + (f" ({others})" if others else "")
    )
    if near := facts["approximations"]:
        more = f" and {len(near) - 1} more" if len(near) > 1 else ""
        terminal.print(f"near      {near[0].splitlines()[0]}{more}")
    formats = ", ".join(f"{count} {name}" for name, count in sorted(facts["formats"].items(), key=lambda item: -item[1]))
    terminal.print(f"formats   {formats}: {facts['bits_per_weight']:.3f} bits a weight, {summary.size(facts['tensor_bytes'])}")
    if facts.get("rounding", "none") != "none":
        terminal.print(f"rounding  {facts['rounding']}")
    for line in _fallbacks(facts["fallbacks"]):
        terminal.print(f"fallback  {line}")
    for note in facts["notes"]:
        terminal.print(f"note      {note}")
    if "tensors" in facts:
        rows = [(t["name"], "x".join(map(str, t["shape"])), t["format"], summary.size(t["bytes"]), t["reason"]) for t in facts["tensors"]]
        terminal.table(("tensor", "shape", "format", "size", "because"), rows)


def _fallbacks(fallbacks: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each reason: how many tensors, and the first of them."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for found in fallbacks:
        grouped.setdefault((found["wanted"], found["format"], found["reason"]), []).append(found["tensor"])
    lines = []
    for (wanted, got, reason), names in grouped.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{got} instead of {wanted}, {reason}: {names[0]}{more}")
    return lines


def show_assessment(found: Mapping[str, Any] | None, terminal: Terminal) -> None:
    """A line for text and one for random tokens; for embeddings their cosine."""
    if not found:
        return
    if "min_cosine" in found:
        terminal.print(f"sentences {found['embeddings']}: cosine {found['mean_cosine']:.6f}, at least {found['min_cosine']:.6f}")
    for name in ("text", "random"):
        if name in found:
            terminal.print(f"{name:9} {_logits(found[name], name == 'text')}")
    if "generated" in found:
        terminal.print(
            f"generated {found['generated']['tokens']} tokens as PyTorch does" + ("" if found["generated"]["equal"] else ", up to a tie")
        )
    for note in found["tokenizer"]:
        terminal.print(f"tokenizer {note}")


def _logits(found: Mapping[str, Any], perplexity: bool) -> str:
    line = f"{found['positions']} tokens: KL {found['kl']:.2e}, the same likeliest token at {100 * found['top1_agreement']:.2f} %"
    line += f", logits within {found['max_error']:.2e}"
    return line + (f", perplexity {found['perplexity']:.4f} ({found['reference_perplexity']:.4f} in PyTorch)" if perplexity else "")
