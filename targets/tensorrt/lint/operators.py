"""Rules on single operators: supported at all, with these types, and within the documented restrictions."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgecc.diagnostics import nearest
from edgecc.targets.tensorrt.lint.graph import DEFAULT_DOMAINS, Graph, attribute, operand, shape
from edgecc.targets.tensorrt.lint.profiles import Profile
from edgecc.targets.tensorrt.lint.restrictions import CHECKS
from edgecc.targets.tensorrt.lint.rule import Hit

#: The table's names of the types that rule T06 does not judge.
TYPES = {
    ir.DataType.FLOAT: "FP32",
    ir.DataType.FLOAT16: "FP16",
    ir.DataType.BFLOAT16: "BF16",
    ir.DataType.INT32: "INT32",
    ir.DataType.INT64: "INT64",
    ir.DataType.BOOL: "BOOL",
}
#: What to write instead of an operator that no release reads.
INSTEAD = {
    "DynamicQuantizeLinear": "quantize statically: QuantizeLinear and DequantizeLinear with calibrated int8 scales",
    "MatMulInteger": "write DequantizeLinear of int8 weights, then MatMul (QDQ format)",
    "ConvInteger": "write DequantizeLinear of int8 weights, then Conv (QDQ format)",
    "QLinearConv": "quantize in QDQ format, not in QOperator format",
    "QLinearMatMul": "quantize in QDQ format, not in QOperator format",
}
#: Operators whose types are those of another input than the first, or of the output.
_TYPED_BY = {"Where": 1, "OneHot": 2}
_TYPED_BY_OUTPUT = {
    "Constant",
    "ConstantOfShape",
    "EyeLike",
    "RandomNormal",
    "RandomUniform",
    "BlackmanWindow",
    "HammingWindow",
    "HannWindow",
}
_NOT_TYPED = {"DequantizeLinear", "If", "Loop", "Scan", "Attention", "NonZero"}


def supported(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T03: the release reads the operator, with the types that it has here (onnx-tensorrt docs/operators.md)."""
    for node in graph.nodes:
        if node.domain not in DEFAULT_DOMAINS:
            continue
        if node.op_type in profile.unsupported:
            yield Hit(node, f"TensorRT {profile.version} does not support {node.op_type}", INSTEAD.get(node.op_type, ""))
        elif node.op_type not in profile.operators:
            hint = nearest(node.op_type, profile.operators)
            yield Hit(node, f"{node.op_type} is not in the table of TensorRT {profile.version}", hint if hint.startswith("did") else "")
        else:
            kind = _type(node)
            if kind is not None and kind not in profile.operators[node.op_type]:
                yield Hit(
                    node,
                    f"{kind} is not among its documented types: {', '.join(sorted(profile.operators[node.op_type]))}",
                    "cast to a documented type; some importers take more than the table says",
                    "W",
                )


def is_read(node: ir.Node, profile: Profile) -> bool:
    """Whether the parser takes the operator at all."""
    return node.domain in DEFAULT_DOMAINS and node.op_type in profile.operators


def _type(node: ir.Node) -> str | None:
    if node.op_type in _NOT_TYPED:
        return None
    value = node.outputs[0] if node.op_type in _TYPED_BY_OUTPUT else operand(node, _TYPED_BY.get(node.op_type, 0))
    return TYPES.get(value.dtype) if value is not None and value.dtype is not None else None


def restricted(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T04: each operator keeps the restrictions of its row (onnx-tensorrt docs/operators.md)."""
    for node in graph.nodes:
        if node.domain not in DEFAULT_DOMAINS or node.op_type not in profile.operators:
            continue
        for restriction in profile.restrictions.get(node.op_type, ()):
            name, _, argument = restriction.partition(":")
            found = CHECKS[name](graph, node, int(argument or 0))
            if found:
                yield Hit(node, found)


def attention(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T12: Attention keeps the restrictions of its row; it came with TensorRT 10.14 (onnx-tensorrt docs/operators.md)."""
    if "Attention" not in profile.operators:
        return
    for node in graph.of("Attention"):
        for index, name in enumerate(("Q", "K", "V", "attn_mask")):
            sizes = shape(operand(node, index))
            if sizes is not None and len(sizes) != 4:
                yield Hit(node, f"{name} has {len(sizes)} dimensions, want 4 [batch, heads, sequence, size]")
        extra = [n for i, n in enumerate(("past_key", "past_value", "nonpad_kv_seqlen"), 4) if operand(node, i)]
        extra += [n for v, n in zip(node.outputs[1:], ("present_key", "present_value", "qk_matmul_output"), strict=False) if v.name]
        extra += [n for n in ("softcap", "qk_matmul_output_mode") if attribute(node, n, 0)]
        if extra:
            yield Hit(node, f"it uses {', '.join(extra)}")
