"""Check the JSON inside a `.pt2` before torch.export reads it: several of its strings become Python code.

What torch 2.13 does with them, and the rule that closes each:

* sizes (`expr_str`) go through `sympy.sympify`, which evaluates Python: only numbers, symbols, arithmetic and known
  sympy classes pass, decided on the syntax tree;
* node, input and keyword names, and the names of arguments and of parameters, are pasted into the source of a
  generated `forward` that is then executed: names are identifiers, paths of weights hold no quotes or control
  characters;
* targets are attribute paths below `torch`, `math` and `operator` (`torch.os.system` resolves; only torch's verifier
  stands between it and the model): operators of known namespaces and listed arithmetic pass, none that opens files;
* tree specs import modules by name for `defaultdict` factories and enums: only containers without an import pass;
* operators of an extension (`#name:...`), torchbind objects and pickled tensors run code of their own: refused;
* guards (`guards_code`) are Python that `ExportedProgram.module(check_guards=True)` executes: they are erased.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections.abc import Callable, Iterator
from typing import Any

from edgecc.errors import RefusedError, UsageError

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_WEIGHT_PATH = re.compile(r"[^\"'\\\x00-\x1f\x7f\u2028\u2029]*\Z")
_PAYLOAD = re.compile(r"(weight|tensor)_\d+\Z")
_OPERATOR = re.compile(r"torch\.ops\.(?P<space>[A-Za-z]\w*)\.(?P<name>\w+)(\.(?P<overload>\w+))?\Z")
_NAMESPACES = frozenset(["aten", "prims", "quantized_decomposed", "quantized", "torchvision", "torchao", "mkldnn"])
_OPENS_FILES = frozenset(["from_file", "save", "load"])
_REGIONS = frozenset(
    ["wrap_with_set_grad_enabled", "wrap_with_autocast", "cond", "while_loop", "map_impl", "scan", "associative_scan", "flex_attention"],
)
_ARITHMETIC_NAMES = """
    _operator.eq _operator.ne _operator.le _operator.ge _operator.lt _operator.gt _operator.neg _operator.pos _operator.mul
    _operator.add _operator.sub _operator.floordiv _operator.mod _operator.pow _operator.truediv _operator.and_ _operator.or_
    _operator.not_ _operator.lshift _operator.rshift _operator.getitem math.trunc math.floor math.ceil torch.sym_not
    torch.sym_int torch.sym_float torch.sym_ite torch.sym_max torch.sym_min torch.sym_sqrt torch.sym_sum torch._sym_sqrt
"""
_SYMPY_NAMES = """
    Symbol Integer Float Rational Add Mul Pow Max Min Mod Abs floor ceiling Eq Ne Lt Le Gt Ge And Or Not Equality Unequality
    StrictLessThan LessThan StrictGreaterThan GreaterThan FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt FloorToInt
    CeilDiv LShift RShift PowByNatural FloatPow FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt
    RoundToInt RoundDecimal ToFloat Identity
"""
_MAP_FIELDS = """
    tensor_values sym_int_values sym_bool_values sym_float_values custom_obj_values range_constraints opset_version
    treespec_namedtuple_fields metadata as_string_to_argument config
"""
_DUNDER_NAMES = "__and__ __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__ __ixor__ __ilshift__ __irshift__"
_ARITHMETIC = frozenset(_ARITHMETIC_NAMES.split())
_SYMPY_CLASSES = frozenset(_SYMPY_NAMES.split())
_MAPS = frozenset(_MAP_FIELDS.split())
_DUNDER_OPERATORS = frozenset(_DUNDER_NAMES.split())
_EXPRESSION_NODES = (
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.UAdd, ast.Invert, ast.BitAnd, ast.BitOr),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)


def check_model_json(model: Any, entry: str) -> None:
    """Check a parsed `models/*.json` (or an older `serialized_exported_program.json`), and erase its guards.

    Raises RefusedError that names the entry and the offending text, UsageError where it is not an exported model.
    """
    if not isinstance(model, dict) or not isinstance(model.get("graph_module"), dict):
        raise UsageError(f"{entry} of the archive is not an exported model")
    for field, value in _fields(model):
        if field in _CHECKS:
            _CHECKS[field](value, entry)
        elif field in _REFUSED and value is not None:
            raise _refused(entry, f"it holds {_REFUSED[field]}")
    model["guards_code"] = []


def check_payload_json(payloads: Any, entry: str) -> None:
    """Check a parsed `*_weights_config.json` or `*_constants_config.json`: raw tensors in entries of their own."""
    if not isinstance(payloads, dict) or not isinstance(payloads.get("config"), dict):
        raise UsageError(f"{entry} of the archive is not a table of weights")
    for name, payload in payloads["config"].items():
        _check_weight_path(name, entry)
        if not isinstance(payload, dict) or payload.get("use_pickle") or not _PAYLOAD.match(str(payload.get("path_name"))):
            raise _refused(entry, f"{name!r} is not a plain tensor: it is stored as a pickled object, which runs code when loaded")
        for field, value in _fields(payload):
            if field in ("expr_str", "as_expr"):
                raise _refused(entry, f"the size of {name!r} is an expression ({value!r})")


def _fields(value: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """Every (field, value) of nested JSON, depth first. Keys of a map by user-made names are no fields, and are checked here."""
    if isinstance(value, list):
        for item in value:
            yield from _fields(item, field)
    elif isinstance(value, dict) and field in _MAPS:
        for item in value.values():
            yield from _fields(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _fields(item, key)


def _check_name(value: Any, entry: str) -> None:
    if value is None or value == "":
        return
    if not isinstance(value, str) or not _IDENTIFIER.match(value) or keyword.iskeyword(value):
        raise _refused(entry, f"the name {_short(value)} is not an identifier, and torch pastes names into code that it runs")


def _check_names(value: Any, entry: str) -> None:
    for name in value if isinstance(value, list) else [value]:
        _check_name(name, entry)


def _check_weight_path(value: Any, entry: str) -> None:
    if not isinstance(value, str) or not _WEIGHT_PATH.match(value):
        raise _refused(entry, f"the weight name {_short(value)} holds quotes or control characters, and torch pastes names into code")


def _check_target(value: Any, entry: str) -> None:
    if not isinstance(value, str):
        raise _refused(entry, f"the target {_short(value)} is not text")
    if value in _ARITHMETIC:
        return
    match = _OPERATOR.match(value)
    plain = match is not None and not any(part.startswith("__") and part not in _DUNDER_OPERATORS for part in value.split("."))
    if match and plain and match["space"] == "higher_order" and match["overload"] is None and match["name"] in _REGIONS:
        return
    if match and plain and match["space"] in _NAMESPACES and match["overload"] and match["name"] not in _OPENS_FILES:
        return
    raise _refused(entry, f"it calls {_short(value)}, which is not one of the operators that a model may call")


def _check_expression(value: Any, entry: str) -> None:
    try:
        tree = ast.parse(value, mode="eval") if isinstance(value, str) and value.isascii() and "\n" not in value else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if tree is None or not _is_size(tree.body):
        raise _refused(entry, f"the size {_short(value)} is not plain arithmetic, and sympy evaluates sizes as Python")


def _is_size(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        named = isinstance(node.func, ast.Name) and node.func.id in _SYMPY_CLASSES
        return named and all(map(_is_size_argument, node.args)) and all(_is_assumption(k) for k in node.keywords)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float))
    if isinstance(node, ast.Name):
        return node.id not in _SYMPY_CLASSES and re.match(r"((s|u|zf|zuf)\d+|int_oo|oo|true|false)\Z", node.id) is not None
    if isinstance(node, ast.Compare):
        return all(map(_is_size, [node.left, *node.comparators])) and all(isinstance(o, _EXPRESSION_NODES) for o in node.ops)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, _EXPRESSION_NODES) and _is_size(node.left) and _is_size(node.right)
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, _EXPRESSION_NODES) and _is_size(node.operand)


def _is_size_argument(node: ast.AST) -> bool:
    """A size, or the string in `Symbol('s0')` and `Float('0.5')`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.match(r"[A-Za-z_]\w*\Z|-?\d+(\.\d+)?(e[+-]?\d+)?\Z", node.value) is not None
    return _is_size(node)


def _is_assumption(argument: ast.keyword) -> bool:
    """`positive=True`, `precision=53` and their like."""
    return argument.arg is not None and isinstance(argument.value, ast.Constant) and isinstance(argument.value.value, int)


def _check_tree(value: Any, entry: str) -> None:
    """Check a tree spec: `[1, {"type": ..., "context": ..., "children_spec": [...]}]` as text."""
    if value in (None, ""):
        return
    try:
        _, root = json.loads(value)
        _check_tree_node(root, entry)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise _refused(entry, f"a tree of its inputs or outputs cannot be read ({error})") from error


def _check_tree_node(node: dict[str, Any], entry: str) -> None:
    kind, context = node["type"], node["context"]
    if kind == "collections.defaultdict" or _names_an_enum(context):
        raise _refused(entry, f"its inputs or outputs hold {kind} with {_short(context)}, for which torch imports a module by name")
    for child in node["children_spec"]:
        _check_tree_node(child, entry)


def _names_an_enum(context: Any) -> bool:
    """Whether the context of a tree node, JSON in text for most types, holds an object that torch resolves by import."""
    try:
        content = json.loads(context) if isinstance(context, str) else context
    except ValueError:
        return False
    return '"__enum__"' in json.dumps(content)


def _check_input_tree(value: Any, entry: str) -> None:
    """As `_check_tree`; the keys of the outermost dict are parameter names of the generated `forward`."""
    _check_tree(value, entry)
    if value in (None, ""):
        return
    for child in json.loads(value)[1]["children_spec"]:
        for name in json.loads(child["context"]) if child["type"] == "builtins.dict" else ():
            _check_name(name, entry)


def _check_number(value: Any, entry: str) -> None:
    """A bound, or a hint as `{"as_int": 6}`."""
    for number in value.values() if isinstance(value, dict) else [value]:
        if number is not None and not isinstance(number, (int, float)) and number not in ("Infinity", "-Infinity"):
            raise _refused(entry, f"the bound or hint of a size, {_short(number)}, is not a number")


def _check_metadata(value: Any, entry: str) -> None:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise _refused(entry, f"the metadata {_short(value)} is not a table of text")


_CHECKS: dict[str, Callable[[Any, str], None]] = {
    "name": _check_name,
    "as_name": _check_name,
    "forward_arg_names": _check_names,
    "parameter_name": _check_weight_path,
    "buffer_name": _check_weight_path,
    "tensor_constant_name": _check_weight_path,
    "user_input_name": _check_name,
    "fqn": _check_weight_path,
    "target": _check_target,
    "as_operator": _check_target,
    "expr_str": _check_expression,
    "in_spec": _check_input_tree,
    "out_spec": _check_tree,
    "hint": _check_number,
    "min_val": _check_number,
    "max_val": _check_number,
    "metadata": _check_metadata,
}
_REFUSED = {"custom_obj": "a torchbind object", "as_custom_obj": "a torchbind object", "custom_obj_name": "a torchbind object"}


def _refused(entry: str, reason: str) -> RefusedError:
    return RefusedError(
        f"loading this archive could run code: in {entry}, {reason}",
        hint="export the model again with torch.export.save from sources that you trust",
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
