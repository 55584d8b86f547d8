"""Statistics of the inputs of layers over calibration data: largest magnitudes of channels, and second moments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import fx
from torch.nn import functional as F

from edgecc.diagnostics import Progress
from edgecc.ir.ops import bound_arguments
from edgecc.ir.program import Program
from edgecc.pipeline.context import Sample
from edgecc.quantization import fake_quant
from edgecc.quantization import operators as ops
from edgecc.quantization.ranges import FloatRun, check_finite, run_all


def channel_peaks(program: Program, axes: dict[fx.Node, int], data: Iterable[Sample], progress: Progress) -> dict[fx.Node, torch.Tensor]:
    """max|x| of each channel of values, in floating point; `axes`: where the channels of each lie. -> [channels] f32."""
    found: dict[fx.Node, torch.Tensor] = {}

    def watch(node: fx.Node, value: torch.Tensor) -> None:
        check_finite(node, value)
        if value.numel():
            peak = value.abs().movedim(axes[node], 0).flatten(1).amax(1)
            found[node] = torch.maximum(found[node], peak) if node in found else peak

    run_all(FloatRun(program, axes, watch, float_weights=True), data, progress, "largest magnitudes")
    return found


def channel_means(program: Program, axes: dict[fx.Node, int], data: Iterable[Sample], progress: Progress) -> dict[fx.Node, torch.Tensor]:
    """Mean |x| of each channel of values. -> [channels] f32."""
    sums: dict[fx.Node, torch.Tensor] = {}
    counts: dict[fx.Node, int] = {}

    def watch(node: fx.Node, value: torch.Tensor) -> None:
        check_finite(node, value)
        seen = value.abs().movedim(axes[node], 0).flatten(1)
        sums[node] = sums.get(node, torch.zeros(len(seen), dtype=torch.float64)) + seen.double().sum(1)
        counts[node] = counts.get(node, 0) + seen.shape[1]

    run_all(FloatRun(program, axes, watch, float_weights=True), data, progress, "mean magnitudes")
    return {node: (total / max(1, counts[node])).float() for node, total in sums.items()}


def second_moments(program: Program, layers: Sequence[fx.Node], data: Iterable[Sample], progress: Progress) -> dict[fx.Node, torch.Tensor]:
    """H = sum of x x^T over every vector that a row of the weight is multiplied by: [groups, k, k] f64 for each layer.

    Of a convolution, the patches of its input: k = in / groups * taps. Layers that read one value the same way share one H.
    """
    keys = {node: _way(node) for node in layers}
    first = {key: node for node, key in reversed(keys.items())}
    by_value: dict[fx.Node, list[fx.Node]] = {}
    for node in first.values():
        by_value.setdefault(_read(node), []).append(node)
    moments: dict[fx.Node, torch.Tensor] = {}

    def watch(value: fx.Node, tensor: torch.Tensor) -> None:
        check_finite(value, tensor)
        for node in by_value[value]:
            x = vectors(node, tensor)
            h = (x.transpose(1, 2) @ x).double()
            moments[node] = moments[node] + h if node in moments else h

    run_all(FloatRun(program, by_value, watch, float_weights=True), data, progress, "second moments")
    return {node: moments[first[key]] for node, key in keys.items() if first[key] in moments}


def _read(node: fx.Node) -> fx.Node:
    x, _ = ops.operands(node)
    found = fake_quant.behind(x)
    assert isinstance(found, fx.Node)
    return found


def _way(node: fx.Node) -> tuple[object, ...]:
    """What decides which vectors a layer sees: the value, and for a convolution its geometry."""
    if node.target is torch.ops.aten.linear.default:
        return (_read(node), "rows")
    bound = bound_arguments(node)
    geometry = [str(bound[k]) for k in ("stride", "padding", "dilation", "groups")]
    return (_read(node), *geometry, tuple(bound["weight"].meta["val"].shape[2:]))


def vectors(node: fx.Node, x: torch.Tensor) -> torch.Tensor:
    """The vectors that the rows of the weight are multiplied by: [groups, count, k]. x [.., k], or [n, c, h, w] for a convolution."""
    if node.target is torch.ops.aten.linear.default:
        return x.reshape(1, -1, x.shape[-1])
    bound = bound_arguments(node)
    kernel = bound["weight"].meta["val"].shape[2:]
    if len(kernel) == 1:
        x = x.unsqueeze(2)
    wide = [1] * (2 - len(kernel))
    stride, dilation, padding = (_each(bound[name], len(kernel)) for name in ("stride", "dilation", "padding"))
    sizes, strides, dilations = (*wide, *kernel), (*wide, *stride), (*wide, *dilation)
    around = (*[0] * len(wide), *padding)
    patches = F.unfold(x, sizes, dilation=dilations, padding=around, stride=strides)  # [n, c * taps, places]
    groups = int(bound["groups"])
    split = patches.view(len(patches), groups, -1, patches.shape[-1])
    return split.permute(1, 0, 3, 2).reshape(groups, -1, split.shape[2])


def _each(given: Sequence[int], axes: int) -> list[int]:
    """One number for each axis; a single one stands for all."""
    return list(given) * axes if len(given) == 1 else list(given)
