"""Checks of single restrictions of the operator tables, which name them. Each returns what is wrong, `""` if nothing.

The facts: onnx-tensorrt docs/operators.md, column Restrictions. What cannot be known from the file breaks no restriction.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import onnx_ir as ir

from edgecc.targets.tensorrt.lint.graph import SPARSE, Graph, attribute, operand, shape

MODES = {
    "mode": ("nearest", "linear"),
    "coordinate_transformation_mode": ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"),
    "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
    "keep_aspect_ratio_policy": ("stretch",),
}
LARGEST_K = 3840


def _pools_2d_or_3d(graph: Graph, node: ir.Node, _: int) -> str:
    window = len(attribute(node, "kernel_shape", ()))
    return "" if window in (2, 3) else f"it pools over {window} dimensions, want 2 or 3"


def _no_dilations(graph: Graph, node: ir.Node, _: int) -> str:
    dilations = attribute(node, "dilations", ())
    return f"dilations are {list(dilations)}, want ones" if any(d != 1 for d in dilations) else ""


def _first_output_only(graph: Graph, node: ir.Node, _: int) -> str:
    used = [v.name for v in node.outputs[1:] if v.name]
    return f"it has the further output {used[0]!r}" if used else ""


def _numeric_constant(graph: Graph, node: ir.Node, _: int) -> str:
    found = [n for n in ("value_string", "value_strings") if n in node.attributes] or [node.metadata_props.get(SPARSE, "")]
    return f"it holds a {found[0]}" if found[0] else ""


def _constant(graph: Graph, node: ir.Node, index: int) -> str:
    value = operand(node, index)
    return f"input {index}, {value.name!r}, is computed; want a constant" if value is not None and not graph.is_constant(value) else ""


def _rank(graph: Graph, node: ir.Node, rank: int) -> str:
    sizes = shape(operand(node, 0))
    return f"its input has {len(sizes)} dimensions, want {rank}" if sizes is not None and len(sizes) != rank else ""


def _deforms_1d_or_2d(graph: Graph, node: ir.Node, _: int) -> str:
    sizes = shape(operand(node, 0))
    return f"it deforms {len(sizes) - 2} spatial dimensions, want 1 or 2" if sizes is not None and len(sizes) not in (3, 4) else ""


def _same_pads(graph: Graph, node: ir.Node, _: int) -> str:
    pads = list(attribute(node, "pads", ()))
    half = len(pads) // 2
    return f"pads are {pads}, want the same at both ends" if pads[:half] != pads[half:] else ""


def _not_training(graph: Graph, node: ir.Node, _: int) -> str:
    mode = operand(node, 2)
    if mode is None:
        return ""
    known = graph.read(mode)
    return "" if known is not None and not known.any() else "training_mode is not constantly false"


def _static_input(graph: Graph, node: ir.Node, _: int) -> str:
    sizes = shape(operand(node, 0)) or []
    return f"its input has the shape {sizes}, want fixed sizes" if not all(isinstance(d, int) for d in sizes) else ""


def _static_axis(graph: Graph, node: ir.Node, _: int) -> str:
    sizes, axis = shape(operand(node, 0)), attribute(node, "axis", -1)
    return f"axis {axis} has the size {sizes[axis]}, want a number" if sizes and not isinstance(sizes[axis], int) else ""


def _same_activations(graph: Graph, node: ir.Node, _: int) -> str:
    used = list(attribute(node, "activations", ()))
    half = len(used) // 2
    two = attribute(node, "direction", "forward") == "bidirectional"
    return f"forward and backward activations differ: {used}" if two and used[:half] != used[half:] else ""


def _no_input_forget(graph: Graph, node: ir.Node, _: int) -> str:
    return "input_forget is set" if attribute(node, "input_forget", 0) else ""


def _layout_0(graph: Graph, node: ir.Node, _: int) -> str:
    return "layout is 1, want 0 [sequence, batch, size]" if attribute(node, "layout", 0) else ""


def _branches_agree(graph: Graph, node: ir.Node, _: int) -> str:
    branches = attribute(node, "then_branch"), attribute(node, "else_branch")
    for one, other in zip(*(b.outputs for b in branches), strict=False):
        ranks = [len(s) for s in (shape(one), shape(other)) if s is not None]
        if len(ranks) == 2 and ranks[0] != ranks[1]:
            return f"its branches give {ranks[0]} and {ranks[1]} dimensions"
        if one.name == other.name:
            return f"both branches name an output {one.name!r}"
    return ""


def _resizes_known_modes(graph: Graph, node: ir.Node, _: int) -> str:
    if attribute(node, "antialias", 0):
        return "antialias is set"
    for name, known in MODES.items():
        mode = attribute(node, name, known[0])
        if mode not in known:
            return f"{name} is {mode}, want one of {', '.join(known)}"
    axes, sizes = attribute(node, "axes"), shape(operand(node, 0))
    scaled_by_tensor = operand(node, 2) is not None and not graph.is_constant(operand(node, 2))
    if scaled_by_tensor and axes is not None and sizes is not None and list(axes) != list(range(len(sizes))):
        return f"scales are computed and axes are {list(axes)}, want all axes in order"
    return ""


def _no_reduction(graph: Graph, node: ir.Node, _: int) -> str:
    reduction = attribute(node, "reduction", "none")
    return f"reduction is {reduction}, want none" if reduction != "none" else ""


def _sorted(graph: Graph, node: ir.Node, _: int) -> str:
    return "" if attribute(node, "sorted", 1) else "sorted is 0, want 1"


def _k_below_3840(graph: Graph, node: ir.Node, _: int) -> str:
    k = graph.read(operand(node, 1))
    return f"k is {int(k.max())}, want less than {LARGEST_K}" if k is not None and k.size and k.max() >= LARGEST_K else ""


def _int64_positions(graph: Graph, node: ir.Node, _: int) -> str:
    positions = operand(node, 3)
    dtype = positions.dtype if positions is not None else None
    return f"position_ids are {dtype.name}, want INT64" if dtype is not None and dtype != ir.DataType.INT64 else ""


def _real_signal(graph: Graph, node: ir.Node, _: int) -> str:
    sizes = shape(operand(node, 0))
    return "its signal is complex, want real" if sizes and len(sizes) == 3 and sizes[-1] == 2 else ""


def _scatters_rows_of_4d(graph: Graph, node: ir.Node, _: int) -> str:
    axis = attribute(node, "axis", -2)
    ranks = [len(sizes) for sizes in (shape(operand(node, i)) for i in (0, 1)) if sizes is not None]
    if any(r != 4 for r in ranks):
        return f"past_cache and update have {ranks} dimensions, want 4"
    return f"axis is {axis}, want -2" if axis != -2 else ""


CHECKS: MappingProxyType[str, Callable[[Graph, ir.Node, int], str]] = MappingProxyType(
    {
        "branches-agree": _branches_agree,
        "constant": _constant,
        "deforms-1d-or-2d": _deforms_1d_or_2d,
        "first-output-only": _first_output_only,
        "int64-positions": _int64_positions,
        "k-below-3840": _k_below_3840,
        "layout-0": _layout_0,
        "no-dilations": _no_dilations,
        "no-input-forget": _no_input_forget,
        "no-reduction": _no_reduction,
        "not-training": _not_training,
        "numeric-constant": _numeric_constant,
        "pools-2d-or-3d": _pools_2d_or_3d,
        "rank": _rank,
        "real-signal": _real_signal,
        "resizes-known-modes": _resizes_known_modes,
        "same-activations": _same_activations,
        "same-pads": _same_pads,
        "scatters-rows-of-4d": _scatters_rows_of_4d,
        "sorted": _sorted,
        "static-axis": _static_axis,
        "static-input": _static_input,
    }
)
