"""Rules on the file itself: opset, domains, external data, names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from edgecc.targets.tensorrt.lint.external import fault
from edgecc.targets.tensorrt.lint.graph import DEFAULT_DOMAINS, Graph
from edgecc.targets.tensorrt.lint.profiles import Profile
from edgecc.targets.tensorrt.lint.rule import Hit

#: How TensorRT names operators and plugins of its own (onnx-tensorrt, docs/TRT_custom_ops.md; TensorRT, plugin/README.md).
OWN = re.compile(r"TRT_\w+|\w+_TRT")
#: A name that counts: it changes when an unrelated part of the model does.
COUNTED = re.compile(r"(onnx::\w+?_|val_|_)?\d+")
#: Smaller constants are literals of the program, which nobody refits.
WEIGHT = 64


def opset(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T01: the default domain's opset lies in what the release reads (onnx-tensorrt docs/operators.md, first line)."""
    low, high = profile.opsets
    for function, version in graph.opsets.items():
        if not low <= version <= high:
            yield Hit(None, f"{f'function {function}' if function else 'the model'} has opset {version}, want {low} to {high}")
    for function in graph.closed:
        yield Hit(
            None,
            f"function {function} is written for another opset than the model: its body was not checked",
            "export the model and its functions with one opset",
            "W",
        )


def domain(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T02: nodes are of the default domain, or call a function of the file.

    The parser chooses importers by operator name alone, so a contrib operator may even be read as the standard one of that name
    (onnx-tensorrt 10.1, ModelImporter.cpp, parseNode). What it does not know must be a plugin.
    """
    functions = {(f.domain, f.name) for f in graph.model.functions.values()}
    for node in graph.nodes:
        if node.domain in DEFAULT_DOMAINS or (node.domain, node.op_type) in functions:
            continue
        if OWN.fullmatch(node.op_type):
            yield Hit(node, f"{node.op_type} is TensorRT's own: no rule checks it", "see that the release on the device has it", "W")
        else:
            yield Hit(node, f"it is of domain {node.domain!r}, which needs a plugin named {node.op_type}")


def external_data(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T10: the weights beside the model are all there, below its folder (ONNX docs/ExternalData.md; protobuf's limit of 2 GiB)."""
    for value in graph.initializers():
        if isinstance(value.const_value, ir.ExternalTensor):
            wrong = fault(value.const_value)
            if wrong:
                yield Hit(value, wrong)


def names(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T16: nodes have names of their own, and weights names that survive the next export (refitting goes by name)."""
    count = Counter(n.name for n in graph.nodes)
    if count[""] + count[None]:
        yield Hit(None, f"{count[''] + count[None]} nodes have no name", "name the nodes: error messages and per-layer profiles go by name")
    for name, times in count.items():
        if name and times > 1:
            yield Hit(None, f"{times} nodes are named {name!r}")
    for value in graph.initializers():
        tensor = value.const_value
        if tensor is not None and tensor.size >= WEIGHT and COUNTED.fullmatch(value.name or ""):
            yield Hit(value, "the weight is named by a counter", "export with the names of the parameters kept")
