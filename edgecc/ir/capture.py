"""Capture: a PyTorch model to a Program through torch.export, functional, flat and without leftovers of tracing."""

from __future__ import annotations

import inspect
import io
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from edgecc.diagnostics import nearest
from edgecc.errors import CaptureError, UsageError
from edgecc.ir import provenance
from edgecc.ir.fake import UNBOUNDED, size_symbols, size_text
from edgecc.ir.functional import functionalize
from edgecc.ir.inline import inline_regions
from edgecc.ir.program import Program
from edgecc.ir.signature import Dim, Signature, TensorSpec
from edgecc.ir.stand_ins import put_back, stand_ins

Dims = Mapping[str, Mapping[int, Dim]]


def trace(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, *, dims: Dims | None = None) -> Program:
    """Trace `model` in eval mode; it keeps its training flags.

    `args`, `kwargs`: example inputs, nested as `forward` takes them; what is not a tensor is fixed at its value.
    `dims`: the dynamic axes of each input by its flat name: a nested input joins its keys by `_`, as in
    `{"batch_ids": {0: Dim("batch", 1, 8)}}`. The same name is the same size everywhere.
    Raises CaptureError with the user's source line, UsageError for dims of an input that does not exist.
    """
    arguments, positional, named = _bind(model, args, kwargs)
    dynamic_shapes = _dynamic_shapes(arguments, dims or {})
    training = [m for m in model.modules() if m.training]
    try:
        model.eval()
        with torch.no_grad(), warnings.catch_warnings(), _without_partial_graph(), stand_ins(model) as lazy:
            warnings.simplefilter("ignore")
            exported = torch.export.export(model, positional, named, dynamic_shapes=dynamic_shapes)
    except Exception as error:  # torch.export lets whatever the user's forward raises through
        raise CaptureError(f"torch.export could not trace {type(model).__name__}: {_reason(error)}{_user_frame(error)}") from error
    finally:
        for module in training:
            module.training = True
    program = from_exported(exported, _names(exported, arguments, dims or {}))
    put_back(program, lazy)
    return program


def eager(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The original model as a function of the program's flat inputs that returns its flat outputs.

    `args`, `kwargs` are the example inputs that it was traced with: tensors among them are replaced in order, the
    rest stays. It runs in eval mode without gradients; the model keeps its training flags.
    """
    leaves, spec = pytree.tree_flatten(_bind(model, args, kwargs)[1:])

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = iter(inputs)
        filled = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        positional, named = pytree.tree_unflatten([t.clone() if isinstance(t, torch.Tensor) else t for t in filled], spec)
        training = [m for m in model.modules() if m.training]
        try:
            model.eval()
            with torch.no_grad():
                result = model(*positional, **named)
        finally:
            for module in training:
                module.training = True
        return tuple(leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor))

    return run


@dataclass(frozen=True)
class Names:
    """Names that an ExportedProgram does not keep; None or a missing symbol stands for torch.export's own."""

    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    dims: Mapping[str, str] = field(default_factory=dict)


def from_exported(exported: torch.export.ExportedProgram, names: Names | None = None) -> Program:
    """Make a Program of an ExportedProgram. Raises CaptureError for a model that keeps state between runs."""
    names = names or Names()
    exported = functionalize(exported)
    _refuse_state(exported)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    inline_regions(module)
    _remove_assertions(module.graph)
    output_names = _output_names(exported)
    inputs = _flatten_inputs(module.graph)
    outputs = _flatten_outputs(module.graph, output_names)
    _inherit_backwards(module.graph)
    module.graph.eliminate_dead_code()
    module.graph.set_codegen(fx.graph.CodeGen())
    owner = fx.GraphModule(module, module.graph, "Program")  # a fresh root: no input hooks, only the weights in use
    resolved = Names(names.inputs or tuple(n.name for n in inputs), names.outputs or tuple(n for n, _ in outputs), names.dims)
    return Program(owner, _signature(exported, inputs, [node for _, node in outputs], resolved), _examples(exported))


def _bind(
    model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]:
    """The arguments by parameter name, and as positional and keyword arguments in the order of the parameters."""
    try:
        bound = inspect.signature(model.forward).bind(*args, **(kwargs or {}))
    except TypeError as error:
        raise UsageError(f"the example inputs do not fit forward of {type(model).__name__}: {error}") from error
    return dict(bound.arguments), tuple(args), {k: v for k, v in _flat_keywords(bound).items() if k in (kwargs or {})}


def _flat_keywords(bound: inspect.BoundArguments) -> dict[str, Any]:
    variadic = [p.name for p in bound.signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    flat = {k: v for k, v in bound.arguments.items() if k not in variadic}
    return flat | {k: v for name in variadic for k, v in bound.arguments.get(name, {}).items()}


def _leaf_names(arguments: dict[str, Any]) -> list[tuple[str, Any]]:
    """Every leaf with its flat name: the keys on the way to it, joined by `_`."""
    return [("_".join(map(_key_text, path)), leaf) for path, leaf in pytree.tree_flatten_with_path(arguments)[0]]


def _key_text(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", ""))))


def _dynamic_shapes(arguments: dict[str, Any], dims: Dims) -> Any:
    """`dims` as torch.export wants them: nested as the arguments, with a dict of axes for each tensor."""
    names = [name for name, _ in _leaf_names(arguments)]
    unknown = [name for name in dims if name not in names]
    if unknown:
        raise UsageError(f"dynamic dimensions were given for {unknown[0]!r}, which is no input", hint=nearest(unknown[0], names))
    if not dims:
        return None
    torch_dims = {d.name: torch.export.Dim(d.name, min=d.lower, max=d.upper) for by_axis in dims.values() for d in by_axis.values()}
    axes = iter([dims.get(name, {}) for name in names])

    def shapes(leaf: Any) -> dict[int, Any] | None:
        by_axis = next(axes)
        return {axis: torch_dims[d.name] for axis, d in by_axis.items()} if isinstance(leaf, torch.Tensor) else None

    return pytree.tree_map(shapes, arguments)


def _names(exported: torch.export.ExportedProgram, arguments: dict[str, Any], dims: Dims) -> Names:
    """Names of the inputs, and of the symbols that stand for the dynamic dimensions."""
    values = {n.name: n.meta.get("val") for n in exported.graph.nodes if n.op == "placeholder"}
    tensors = [v for v in (values.get(str(name)) for name in exported.graph_signature.user_inputs) if isinstance(v, torch.Tensor)]
    names = [name for name, leaf in _leaf_names(arguments) if isinstance(leaf, torch.Tensor)]
    symbols = {
        str(value.shape[axis]): dim.name
        for name, value in zip(names, tensors, strict=True)
        for axis, dim in dims.get(name, {}).items()
        if isinstance(value.shape[axis], torch.SymInt)
    }
    return Names(tuple(names), None, symbols)


def _examples(exported: torch.export.ExportedProgram) -> tuple[torch.Tensor, ...]:
    return tuple(leaf for leaf in pytree.tree_leaves(exported.example_inputs) if isinstance(leaf, torch.Tensor))


def _refuse_state(exported: torch.export.ExportedProgram) -> None:
    signature = exported.graph_signature
    for mutated, hint in (
        (signature.buffers_to_mutate, "return the new value as an output and take the old one as an input"),
        (signature.user_inputs_to_mutate, "write to a copy of the input: `x = x.clone()`"),
    ):
        if mutated:
            raise CaptureError(
                f"the model writes to {', '.join(map(repr, mutated.values()))} while it runs; a compiled model keeps no state between runs",
                hint=hint,
            )


def _remove_assertions(graph: fx.Graph) -> None:
    """Drop the run-time assertions of tracing: the signature is checked at the door instead."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_module" or (node.op == "call_function" and "assert" in getattr(node.target, "__name__", "")):
            graph.erase_node(node)


def _flatten_inputs(graph: fx.Graph) -> list[fx.Node]:
    """Erase placeholders that are no tensors: tracing fixed them at their value."""
    for node in [n for n in graph.nodes if n.op == "placeholder" and not isinstance(n.meta.get("val"), torch.Tensor)]:
        if node.users:
            node.replace_all_uses_with(node.meta["val"])
        graph.erase_node(node)
    return [n for n in graph.nodes if n.op == "placeholder"]


def _flatten_outputs(graph: fx.Graph, names: list[str]) -> list[tuple[str, fx.Node]]:
    """Keep the tensors among the outputs, with their names."""
    output = graph.output_node()
    flat = [output.args[0]] if isinstance(output.args[0], fx.Node) else pytree.tree_leaves(output.args[0])
    kept = [
        (name, node)
        for name, node in zip(names, flat, strict=True)
        if isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)
    ]
    output.args = (tuple(node for _, node in kept),)
    if not kept:
        raise CaptureError("the model returns no tensor")
    return kept


def _output_names(exported: torch.export.ExportedProgram) -> list[str]:
    """`output` for a lone tensor, `output_0`, ... for a tuple, the dotted path of keys for dicts and dataclasses."""
    spec = exported.call_spec.out_spec
    assert spec is not None
    paths = [path for path, _ in pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(spec.num_leaves)), spec))[0]]
    names = []
    for path in paths:
        parts = [_key_text(key) for key in path]
        name = ".".join(parts)
        names.append(name if parts and not parts[0].isdigit() else f"output_{name}" if parts else "output")
    return names


def _inherit_backwards(graph: fx.Graph) -> None:
    """Give inputs, weights and other nodes without a source line that of their first user that has one."""
    for node in reversed(list(graph.nodes)):
        provenance.condense(node)
        if node.op != "output":
            provenance.inherit(node, node.users)


def _signature(exported: torch.export.ExportedProgram, inputs: list[fx.Node], outputs: list[fx.Node], names: Names) -> Signature:
    dims = []
    for symbol, limits in exported.range_constraints.items():
        upper = int(limits.upper) if limits.upper.is_Integer and int(limits.upper) < UNBOUNDED else None
        dims.append(Dim(names.dims.get(str(symbol), str(symbol)), max(int(limits.lower), 1), upper, str(symbol)))
    renamed = {d.symbol: d.name for d in dims}
    used = {s for node in inputs for size in node.meta["val"].shape for s in size_symbols(size)}

    def spec(name: str, node: fx.Node) -> TensorSpec:
        value = node.meta["val"]
        return TensorSpec(name, value.dtype, tuple(size_text(s, renamed) for s in value.shape))

    assert names.inputs is not None and names.outputs is not None
    return Signature(
        tuple(spec(n, i) for n, i in zip(names.inputs, inputs, strict=True)),
        tuple(spec(n, o) for n, o in zip(names.outputs, outputs, strict=True)),
        tuple(d for d in dims if d.symbol in used),
    )


@contextmanager
def _without_partial_graph() -> Iterator[None]:
    """Keep back the half-traced graph that torch.export prints for some failures; the error names the model's own line."""
    printed, graph = io.StringIO(), None
    try:
        with redirect_stderr(printed):
            yield
    except Exception as error:  # of any kind: it is only looked at, and goes on
        graph = getattr(error, "partial_fx_graph", None)
        raise
    finally:
        sys.stderr.write(printed.getvalue().replace(f"{graph}\n", "") if graph is not None else printed.getvalue())


def _reason(error: BaseException) -> str:
    """The first line of the message, and the items where it is a list, such as the broken constraints of a dynamic dimension."""
    first, *more = (str(error).strip() or type(error).__name__).splitlines()
    return "\n".join([first, *(line for line in more if line.startswith("  - "))])


def _user_frame(error: BaseException) -> str:
    """` at file.py:line` of the innermost frame of the model's own code, as far as the error knows it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename and "/edgecc/" not in f.filename]
    frames = [f for f in frames if not f.filename.startswith("<")]
    if frames:
        return f"\n  at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"
    found = re.findall(r'File "?(?P<file>[^",]+)"?(?:, line |:)(?P<line>\d+)', str(error))
    users = [f"{file}:{line}" for file, line in found if "/torch/" not in file]
    return f"\n  at {users[-1]}" if users else ""
