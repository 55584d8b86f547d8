"""Capture: a PyTorch model to a Program through torch.export, functional, flat and without leftovers of tracing."""

from __future__ import annotations

import inspect
import re
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
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

Dims = Mapping[str, Mapping[int, Dim]]


def trace(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, *, dims: Dims | None = None) -> Program:
    """Trace `model` in eval mode; it keeps its training flags.

    `args`, `kwargs`: example inputs, nested as `forward` takes them; what is not a tensor is fixed at its value.
    `dims`: the dynamic axes of each input by its flat name: a nested input joins its keys by `_`, as in
    `{"batch_ids": {0: Dim("batch", 1, 8)}}`. The same name is the same size everywhere.
    Raises CaptureError with the user's source line, UsageError for dims of an input that does not exist.
    """
    kwargs = dict(kwargs or {})
    dynamic_shapes, axes = _dynamic_shapes(model, tuple(args), kwargs, dims or {})
    training = [m for m in model.modules() if m.training]
    try:
        model.eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(model, tuple(args), kwargs, dynamic_shapes=dynamic_shapes)
    except Exception as error:
        raise CaptureError(f"torch.export could not trace {type(model).__name__}: {_first_line(error)}{_user_frame(error)}") from error
    finally:
        for module in training:
            module.training = True
    return from_exported(exported, _symbol_names(exported, axes))


def eager(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The original model as a function of the program's flat inputs that returns its flat outputs.

    `args`, `kwargs` are the example inputs that it was traced with: tensors among them are replaced in order, the
    rest stays. It runs in eval mode without gradients; the model keeps its training flags.
    """
    leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs or {})))

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


def from_exported(exported: torch.export.ExportedProgram, dim_names: Mapping[str, str] | None = None) -> Program:
    """Make a Program of an ExportedProgram. `dim_names`: names for the symbols of its dynamic sizes.

    Raises CaptureError for a model that keeps state between runs."""
    exported = functionalize(exported)
    _refuse_state(exported)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    inline_regions(module)
    _remove_assertions(module.graph)
    names = _output_names(exported)
    inputs = _flatten_inputs(module.graph)
    outputs = _flatten_outputs(module.graph, names)
    _inherit_backwards(module.graph)
    module.graph.eliminate_dead_code()
    module.graph.set_codegen(fx.graph.CodeGen())
    owner = fx.GraphModule(module, module.graph, "Program")  # a fresh root: no input hooks, only the weights in use
    return Program(owner, _signature(exported, inputs, outputs, dim_names or {}), _examples(exported))


def _dynamic_shapes(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dims: Dims
) -> tuple[Any, list[Mapping[int, Dim]]]:
    """`dims` as torch.export wants them, and the same flat, one entry for each leaf of the inputs."""
    paths = [p for p, _ in pytree.tree_flatten_with_path(_named_arguments(model, args, kwargs))[0]]
    names = ["_".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path) for path in paths]
    unknown = [name for name in dims if name not in names]
    if unknown:
        raise UsageError(f"dynamic dimensions were given for {unknown[0]!r}, which is no input", hint=nearest(unknown[0], names))
    axes = [dims.get(name, {}) for name in names]
    if not dims:
        return None, axes
    torch_dims = {d.name: torch.export.Dim(d.name, min=d.lower, max=d.upper) for by_axis in axes for d in by_axis.values()}
    leaves = iter(axes)

    def shapes(leaf: Any) -> dict[int, Any] | None:
        by_axis = next(leaves)
        return {axis: torch_dims[d.name] for axis, d in by_axis.items()} if isinstance(leaf, torch.Tensor) else None

    return pytree.tree_map(shapes, _named_arguments(model, args, kwargs)), axes


def _named_arguments(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by parameter name; `*args` stay a tuple, `**kwargs` a dict, as torch.export names them."""
    try:
        return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise UsageError(f"the example inputs do not fit forward of {type(model).__name__}: {error}") from error


def _symbol_names(exported: torch.export.ExportedProgram, axes: list[Mapping[int, Dim]]) -> dict[str, str]:
    values = {n.name: n.meta.get("val") for n in exported.graph.nodes if n.op == "placeholder"}
    leaves = [values[str(name)] for name in exported.graph_signature.user_inputs if str(name) in values]
    return {
        str(value.shape[axis]): dim.name
        for value, by_axis in zip(leaves, axes, strict=False)
        for axis, dim in by_axis.items()
        if isinstance(value.shape[axis], torch.SymInt)
    }


def _examples(exported: torch.export.ExportedProgram) -> tuple[torch.Tensor, ...]:
    return tuple(leaf for leaf in pytree.tree_leaves(exported.example_inputs) if isinstance(leaf, torch.Tensor))


def _refuse_state(exported: torch.export.ExportedProgram) -> None:
    mutated = [*exported.graph_signature.buffers_to_mutate.values(), *exported.graph_signature.user_inputs_to_mutate.values()]
    if mutated:
        raise CaptureError(
            f"the model writes to {', '.join(map(repr, mutated))} while it runs; a compiled model keeps no state between runs",
            hint="return the new value as an output and take the old one as an input",
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
        parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path]
        name = ".".join(parts)
        names.append(name if parts and not parts[0].isdigit() else f"output_{name}" if parts else "output")
    return names


def _inherit_backwards(graph: fx.Graph) -> None:
    """Give inputs, weights and other nodes without a source line that of their first user that has one."""
    for node in reversed(list(graph.nodes)):
        provenance.condense(node)
        if node.op != "output":
            provenance.inherit(node, node.users)


def _signature(
    exported: torch.export.ExportedProgram, inputs: list[fx.Node], outputs: list[tuple[str, fx.Node]], names: Mapping[str, str]
) -> Signature:
    dims = []
    for symbol, limits in exported.range_constraints.items():
        upper = int(limits.upper) if limits.upper.is_finite and int(limits.upper) < UNBOUNDED else None
        dims.append(Dim(names.get(str(symbol), str(symbol)), max(int(limits.lower), 1), upper, str(symbol)))
    renamed = {d.symbol: d.name for d in dims}

    def spec(name: str, node: fx.Node) -> TensorSpec:
        value = node.meta["val"]
        return TensorSpec(name, value.dtype, tuple(size_text(s, renamed) for s in value.shape))

    used = {s for node in inputs for size in node.meta["val"].shape for s in size_symbols(size)}
    return Signature(
        tuple(spec(n.name, n) for n in inputs),
        tuple(spec(name, n) for name, n in outputs),
        tuple(d for d in dims if d.symbol in used),
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _user_frame(error: BaseException) -> str:
    """` at file.py:line` of the innermost frame of the model's own code, as far as the error knows it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename and "/edgecc/" not in f.filename]
    frames = [f for f in frames if not f.filename.startswith("<")]
    if frames:
        return f"\n  at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"
    found = re.findall(r'File "?(?P<file>[^",]+)"?(?:, line |:)(?P<line>\d+)', str(error))
    users = [f"{file}:{line}" for file, line in found if "/torch/" not in file]
    return f"\n  at {users[-1]}" if users else ""
