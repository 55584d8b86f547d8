"""The printed summary of a pipeline run, from the keys of report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgecc.cli.terminal import Terminal

UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def show_passes(passes: Sequence[Mapping[str, Any]], terminal: Terminal) -> None:
    """A line a pass: what it rewrote, how long it took, how far the outputs moved by it and in all."""
    rows = [
        (p["phase"], p["spec"], p["rewrites"], f"{p['seconds']:.3f}", p.get("nodes", "-"), _moved(p, "previous"), _moved(p, "original"))
        for p in passes
    ]
    if rows:
        terminal.table(("phase", "pass", "rewrites", "seconds", "nodes", "max abs", "in all"), _phase_once(rows))


def show_checks(checks: Sequence[Mapping[str, Any]], terminal: Terminal) -> None:
    """A line a runtime: on how many cases, and how far from the PyTorch model."""
    for check in checks:
        cases = f"{check['cases']} case{'s' * (check['cases'] != 1)}"
        terminal.print(f"verified  on {check['runtime']}: {cases}, {distance(check)}")


def show_quantization(found: Mapping[str, Any] | None, terminal: Terminal) -> None:
    """A line a layer: bits, the range of its input, what fell outside of it, how far its output moved, and its bytes."""
    if not found:
        return
    rows = [_layer(layer) for layer in found["layers"]]
    terminal.print(f"scheme    {found['scheme'] or 'that of the passes'}, ranges from {found['data']}")
    terminal.table(("layer", "weight", "input", "range", "saturated", "SQNR dB", "share of MACs", "bytes"), _shares(rows, found["layers"]))
    share = f"{100 * found['integer_mac_share']:.1f} % of multiply-accumulates in integers"
    terminal.print(f"weights   {size(found['float_weight_bytes'])} -> {size(found['weight_bytes'])} with scales, {share}")


def _layer(layer: Mapping[str, Any]) -> list[str]:
    low, high, sqnr = layer["low"], layer["high"], layer["sqnr_db"]
    return [
        layer["name"],
        *(f"int{layer[key]}" if layer[key] else "float" for key in ("weight_bits", "activation_bits")),
        f"{low:.3g}..{high:.3g}" if low is not None else "-",
        f"{100 * layer['saturated']:.2f} %" if layer["saturated"] is not None else "-",
        f"{sqnr:.1f}" if sqnr is not None else "-",
    ]


def _shares(rows: Sequence[list[str]], layers: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    total = sum(layer["macs"] for layer in layers) or 1
    return [[*row, f"{100 * layer['macs'] / total:.1f} %", str(layer["bytes"])] for row, layer in zip(rows, layers, strict=True)]


def show_training(found: Mapping[str, Any] | None, terminal: Terminal) -> None:
    """A line an epoch: its loss, and how good the program was after it."""
    if not found:
        return
    before = found["evaluation"]["before"]
    if before is not None:
        terminal.print(f"trained   from an evaluation of {before:.6g}")
    for epoch in found["history"]:
        score = f", evaluated {epoch['evaluation']:.6g}" if epoch["evaluation"] is not None else ""
        terminal.print(f"trained   epoch {epoch['epoch']}: {epoch['steps']} steps, loss {epoch['loss']:.4g}{score}")


def show_evaluation(found: Mapping[str, float] | None, terminal: Terminal) -> None:
    if found:
        terminal.print(f"evaluated {found['original']:.6g} -> {found['compiled']:.6g}, a drop of {found['drop']:.6g}")


def show_agreement(found: Mapping[str, Any] | None, terminal: Terminal) -> None:
    """A line on quantized activations, each call given the same integers before it."""
    if not found:
        return
    if found["exact"]:
        terminal.print("integers  every output is that of the integer program in PyTorch, bit for bit")
        return
    near, cosine = f"{found['within_one_step']:.2%} or more within one step", number(found["cosine"], ".6f")
    unchecked = f"; {found['unchecked']} calls not found in the artifact" if found["unchecked"] else ""
    terminal.print(f"quantized {found['calls']} calls, {found['equal']:.3%} of the integers equal, {near}, cosine {cosine}{unchecked}")


def show_speedup(found: Mapping[str, Any] | None, terminal: Terminal) -> None:
    if found:
        times = f"{found['float_ms']:.4g} -> {found['quantized_ms']:.4g} ms on {found['runtime']}"
        terminal.print(f"speed     {times}, {found['ratio']:.2f} times as fast as in floating point")


def distance(figures: Mapping[str, Any]) -> str:
    if figures["equal"]:
        return "equal bit for bit"
    sqnr = figures["sqnr_db"]
    return f"max abs {number(figures['max_abs'])}, cosine {number(figures['cosine'], '.9f')}" + (
        f", SQNR {sqnr:.1f} dB" if sqnr is not None else ""
    )


def number(value: float | None, form: str = ".2e") -> str:
    """A figure of the report, where null stands for what is not finite."""
    return "not finite" if value is None else format(value, form)


def size(count: int) -> str:
    """`1.05 MiB`."""
    for unit, name in UNITS:
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count} B"


def show_seconds(seconds: Mapping[str, float], terminal: Terminal) -> None:
    terminal.table(
        ("step", "seconds"), [*((name, f"{spent:.3f}") for name, spent in seconds.items()), ("in all", f"{sum(seconds.values()):.3f}")]
    )


def _moved(step: Mapping[str, Any], which: str) -> str:
    if which not in step:
        return "-"
    return "0" if step[which]["equal"] else number(step[which]["max_abs"])


def _phase_once(rows: Sequence[Sequence[object]]) -> list[Sequence[object]]:
    return [(row[0] if i == 0 or rows[i - 1][0] != row[0] else "", *row[1:]) for i, row in enumerate(rows)]
