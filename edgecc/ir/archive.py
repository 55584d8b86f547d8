"""Save a Program as a `.pt2` archive of torch.export and load one back, without a pickle that could run code.

The graph is lifted by hand (weights become parameters, buffers and constants of the ExportedProgram) rather than
traced again: names, symbols and provenance stay, and it costs no second trace. Names of inputs, outputs and
dynamic dimensions, which torch.export does not keep, travel in an extra JSON entry.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import IO, Any

import torch
from torch import fx
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymIntArgument,
    TensorArgument,
)
from torch.utils import _pytree as pytree

from edgecc.errors import UsageError
from edgecc.ir import (
    lazy,
    quantized,  # noqa: F401  torch reads no archive that calls operators it does not know
)
from edgecc.ir.archive_safety import load_checked
from edgecc.ir.capture import Names, from_exported
from edgecc.ir.fake import ranges
from edgecc.ir.program import Program

_NAMES = "edgecc.json"


def save(program: Program, file: Path | IO[bytes]) -> None:
    """Write `program` as a `.pt2` that edgecc and torch.export.load both read.

    The archive is made in memory first: torch's own file writer ends the process where the disk is full. Its bytes do
    not depend on the name of the file.
    """
    made = io.BytesIO()
    signature = program.signature
    names = {
        "inputs": [s.name for s in signature.inputs],
        "outputs": [s.name for s in signature.outputs],
        "dims": {d.symbol: d.name for d in signature.dims},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(export(program), made, extra_files={_NAMES: json.dumps(names, sort_keys=True)})
    if isinstance(file, Path):
        file.write_bytes(made.getbuffer())
    else:
        file.write(made.getbuffer())


def load(path: Path) -> Program:
    """Read a `.pt2` made by edgecc or by torch.export.save.

    Raises RefusedError for an archive whose loading would run code, UsageError for a broken one.
    """
    return from_exported(*read(path))


def read(path: Path) -> tuple[torch.export.ExportedProgram, Names | None]:
    """The ExportedProgram in a `.pt2`, and the names that edgecc stored beside it. Raises as `load` does."""
    extra = {_NAMES: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = load_checked(path, extra)
    if not extra[_NAMES]:
        return exported, None
    try:
        names = json.loads(extra[_NAMES])
        return exported, Names(tuple(map(str, names["inputs"])), tuple(map(str, names["outputs"])), dict(names["dims"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{_NAMES} in {path} is damaged: {error}", hint="save the program again") from error


def export(program: Program) -> torch.export.ExportedProgram:
    """The program as an ExportedProgram with flat positional inputs and a flat tuple of outputs. Weights are shared, lazy ones read."""
    graph = fx.Graph()
    weights = program.weights()
    lifted, specs = {}, []
    for name, tensor in weights.items():
        node = next(n for n in program.graph.nodes if n.op == "get_attr" and n.target == name)
        kind, prefix = _kind(program, name)
        lifted[name] = placeholder = graph.placeholder(f"{prefix}_{name.replace('.', '_')}")
        placeholder.target = placeholder.name  # FX spells `LayerNorm` as `layer_norm`; torch's decompositions want one name
        placeholder.meta = dict(node.meta)
        specs.append(InputSpec(kind, TensorArgument(placeholder.name), name, persistent=True if kind is InputKind.BUFFER else None))
        del tensor
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            copies[node] = lifted[str(node.target)]
            continue
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node.op == "placeholder":
            copies[node].target = copies[node].name  # FX spells `input` as `input_1`, as above
            specs.append(InputSpec(InputKind.USER_INPUT, TensorArgument(copies[node].name), None))
    results = [copies[n] for n in program.outputs()]
    signature = ExportGraphSignature(specs, [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(n.name), None) for n in results])
    stored = _stored(program)
    parameters = {n: t for n, t in stored.items() if isinstance(t, torch.nn.Parameter)}
    buffers = {n: t for n, t in stored.items() if n not in parameters}
    exported = torch.export.ExportedProgram(
        fx.GraphModule({}, graph),
        graph,
        signature,
        {**parameters, **buffers},
        ranges(program.graph, {d.symbol: (d.lower, d.upper) for d in program.signature.dims}),
        [_call_entry(program, specs, results)],
        (tuple(program.examples), {}),
        constants={},
    )
    # no public way (torch 2.13): these are Python over the names that the first tracing gave the inputs, which
    # run_decompositions would execute; the signature has the bounds
    exported._guards_code = []
    return exported


def _stored(program: Program) -> dict[str, torch.Tensor]:
    return {name: _in_memory(program.stored(name)) for name in program.weights()}


def _in_memory(tensor: torch.Tensor) -> torch.Tensor:
    if not lazy.is_lazy(tensor):
        return tensor
    values = lazy.read(tensor)
    return torch.nn.Parameter(values, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else values


def _kind(program: Program, name: str) -> tuple[InputKind, str]:
    return (InputKind.PARAMETER, "p") if isinstance(program.stored(name), torch.nn.Parameter) else (InputKind.BUFFER, "b")


def _call_entry(program: Program, specs: list[InputSpec], results: list[fx.Node]) -> Any:
    inputs: list[TensorArgument | SymIntArgument | ConstantArgument] = [s.arg for s in specs if s.kind is InputKind.USER_INPUT]  # type: ignore[misc]
    _, in_spec = pytree.tree_flatten((tuple(program.examples), {}))
    _, out_spec = pytree.tree_flatten(tuple(range(len(results))))
    signature = torch.export.ModuleCallSignature(inputs, [TensorArgument(n.name) for n in results], in_spec, out_spec)  # type: ignore[arg-type]
    return torch.export.ModuleCallEntry("", signature)
