"""Let a `.pt2` whose model returns a container of some package load where that package is not imported.

torch.export stores the type of a nested output by name and finds it only if its package registered it. The values
need no more than the names of its fields: a dataclass, a named tuple or a transformers ModelOutput becomes a dict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgecc.errors import UsageError

_PYTHON_TYPES = frozenset(
    [None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", "collections.deque", "builtins.NoneType"]
)


def use_plain_containers(model: dict[str, Any]) -> None:
    """Rewrite the tree specs of a checked model JSON in place.

    Raises UsageError for an input in a container of its own, and for an output whose fields have no names.
    """
    graph_module = model["graph_module"]
    tuples = graph_module.get("treespec_namedtuple_fields") or {}
    for entry in graph_module.get("module_call_graph") or ():
        signature = entry.get("signature")
        if not signature:
            continue
        _require_plain(json.loads(signature["in_spec"])[1])
        protocol, root = json.loads(signature["out_spec"])
        signature["out_spec"] = json.dumps([protocol, _plain(root, tuples)])


def _plain(node: dict[str, Any], tuples: Mapping[str, Any]) -> dict[str, Any]:
    children = [_plain(child, tuples) for child in node["children_spec"]]
    if node["type"] in _PYTHON_TYPES:
        return {**node, "children_spec": children}
    names = _field_names(node, tuples)
    if names is None or len(names) != len(children):
        raise UsageError(
            f"the model returns {node['type']}, whose fields the archive does not name",
            hint="let the model return tensors, tuples, lists and dicts, and export it again",
        )
    return {"type": "builtins.dict", "context": json.dumps(names), "children_spec": children}


def _field_names(node: Mapping[str, Any], tuples: Mapping[str, Any]) -> list[str] | None:
    """The fields in order: `["a", "b"]`, for a dataclass `[["a", "b"], [fields that are None]]`, or those of a named tuple."""
    if node["type"] == "collections.namedtuple":
        fields = tuples.get(str(node["context"]))
        names = fields.get("field_names") if isinstance(fields, dict) else None
    else:
        try:
            names = json.loads(node["context"])
        except (TypeError, ValueError):
            return None
        if isinstance(names, list) and len(names) == 2 and all(isinstance(part, list) for part in names):
            names = names[0]
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else None


def _require_plain(node: dict[str, Any]) -> None:
    if node["type"] not in _PYTHON_TYPES:
        raise UsageError(
            f"the model takes an input in {node['type']}",
            hint="let the model take tensors, tuples, lists and dicts, and export it again",
        )
    for child in node["children_spec"]:
        _require_plain(child)
