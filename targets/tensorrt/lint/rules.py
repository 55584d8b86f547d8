"""The rules, in the order in which they are reported. The identifiers are stable: one is retired, never reused (T07 was)."""

from __future__ import annotations

from edgecc.targets.tensorrt.lint import blocks, operators, patterns, placement, precision, quantization, shapes, structure
from edgecc.targets.tensorrt.lint.rule import Rule

_TABLE = "onnx-tensorrt docs/operators.md"
_DOCS = "TensorRT documentation"
_EXPLICIT = f"{_DOCS}, Working with Quantized Types: Explicit Quantization"
_PLACEMENT = f"{_EXPLICIT}, Q/DQ Layer-Placement Recommendations"

T10 = Rule(
    "T10",
    "E",
    "the protobuf stays below 2 GiB and its external data is relative and complete",
    "save again with external data beside the model",
    "ONNX docs/ExternalData.md; protobuf's limit",
    structure.external_data,
)

RULES: tuple[Rule, ...] = (
    Rule(
        "T01", "E", "the opset is one that the release reads", "export with an opset of the range", f"{_TABLE}, first line", structure.opset
    ),
    Rule("T02", "E", "no operator of a foreign domain", "write it in ONNX operators, or give a plugin", _TABLE, structure.domain),
    Rule("T03", "E", "every operator and its type is supported", "write it in supported operators", _TABLE, operators.supported),
    Rule("T04", "E", "operators keep their restrictions", "rewrite the node within the restriction", _TABLE, operators.restricted),
    Rule(
        "T05",
        "W",
        "the asked precision stands in the graph",
        "cast weights and activations to float16, or insert Q/DQ: TensorRT 11 has no --fp16 and no --int8",
        f"{_DOCS}, Strongly Typed Networks",
        precision.asked_precision,
    ),
    Rule(
        "T06",
        "E",
        "no float64, quantized types only between Q and DQ, uint8 only as input or output",
        "dequantize before computing",
        f"{_TABLE}, notes on types",
        precision.held_types,
    ),
    Rule("T08", "E", "no constant beyond 65504 in float16", "clamp mask constants to -1e4", "IEEE 754 binary16", precision.half_range),
    Rule(
        "T09",
        "W",
        "dynamic dimensions are named, and the batch has one name",
        "name the dimensions when exporting, alike on all inputs",
        f"{_DOCS}, Working with Dynamic Shapes",
        shapes.symbols,
    ),
    T10,
    Rule(
        "T11",
        "W",
        "normalizations and GELU are whole operators",
        "emit the operator",
        f"{_DOCS}, Best Practices; TensorRT issues 2564 and 4493",
        patterns.decomposed,
    ),
    Rule("T12", "E", "Attention keeps its restrictions", "give 4-D Q, K and V, and no cache or capping", _TABLE, operators.attention),
    Rule(
        "T13",
        "W",
        "attention is in the form that is fused",
        "scale before the first matmul",
        f"{_DOCS}, Multi-Head Attention Fusion; TensorRT issues 3243 and 3620",
        patterns.attention,
    ),
    Rule("T14", "W", "every tensor has a known rank and type", "run onnx.shape_inference", f"{_DOCS}, ONNX parser", shapes.inferred),
    Rule(
        "T15",
        "W",
        "no control flow and no data-dependent shapes",
        "export the path that is taken, or do it outside of the engine",
        f"{_DOCS}, Working with Dynamic Shapes: Dynamically Shaped Output",
        shapes.data_dependent,
    ),
    Rule("T16", "W", "names are unique and stable", "name nodes and weights", f"{_DOCS}, Refitting an Engine", structure.names),
    Rule(
        "Q01", "E", "zero points are zero, of int8, fp8, int4 or fp4", "quantize symmetrically to int8", _EXPLICIT, quantization.zero_points
    ),
    Rule("Q02", "E", "scales are constant, finite and above zero", "calibrate again", _EXPLICIT, quantization.scales),
    Rule(
        "Q03",
        "E",
        "scales per channel are on constants, along the output channels",
        "quantize weights along axis 0 of Conv, 1 of ConvTranspose, 0 of Gemm with transB=1, the last of MatMul",
        _EXPLICIT,
        quantization.channels,
    ),
    Rule("Q04", "W", "both inputs of a weighted operator are quantized", "quantize both, or none", _PLACEMENT, placement.half_quantized),
    Rule(
        "Q05",
        "E",
        "biases are not quantized",
        "keep the bias in float32: QuantizeBias=False in ONNX Runtime's quantizer",
        f"{_EXPLICIT}; onnx-tensorrt issue 850",
        quantization.biases,
    ),
    Rule(
        "Q06",
        "W",
        "outputs of weighted operators are not quantized before their activation or Add",
        "quantize the inputs of weighted operators only",
        _PLACEMENT,
        placement.quantized_outputs,
    ),
    Rule(
        "Q07",
        "E",
        "blocks have a size and a type that TensorRT has",
        "use blocks of 64 or 128 for int4, 16 for fp4",
        f"{_DOCS}, Working with Quantized Types: Quantization Schemes",
        blocks.sizes,
    ),
    Rule("Q08", "E", "Q is followed by DQ of the same scale", "give the pair one scale", _EXPLICIT, quantization.pairs),
    Rule(
        "Q09",
        "W",
        "residuals of quantized convolutions are quantized",
        "quantize the residual input of the Add",
        _PLACEMENT,
        placement.residuals,
    ),
    Rule(
        "Q10",
        "W",
        "what is quantized gains from it",
        "leave it in floating point",
        "TensorRT issues 3197 and 4554",
        placement.small_quantized,
    ),
    Rule("Q11", "W", "masks are not quantized", "leave masks out of the quantization", _PLACEMENT, placement.masks),
)
