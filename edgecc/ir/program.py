"""Program: the one IR that every pass reads and writes, an FX graph of ATen calls that owns its weights.

The graph takes flat tensors and returns a flat tuple of tensors, in the order of `signature`. Every node carries
its fake value in `meta["val"]`, with symbolic sizes where a dimension is dynamic, and its provenance.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument

from edgecc.errors import InternalError
from edgecc.ir import provenance
from edgecc.ir.fake import fake_weight, infer, size_expression
from edgecc.ir.ops import short_name
from edgecc.ir.signature import Signature

Target = Callable[..., Any]


@dataclass
class Program:
    """A traced model. `examples` are inputs that the program was traced with, one for each of `signature.inputs`."""

    module: fx.GraphModule
    signature: Signature
    examples: tuple[torch.Tensor, ...]

    @property
    def graph(self) -> fx.Graph:
        return self.module.graph

    def clone(self) -> Program:
        """A copy with its own graph and its own weights."""
        return Program(copy.deepcopy(self.module), self.signature, self.examples)

    def snapshot(self) -> Program:
        """A copy with its own graph that shares the tensors of the weights, which passes replace but never write to."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        return Program(fx.GraphModule(self.module, graph, "Program"), self.signature, self.examples)

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run in PyTorch eager, without gradients. One tensor for each of `signature.inputs`, in order."""
        with torch.no_grad():
            return tuple(self.module(*inputs))

    # -- reading

    def calls(self, *targets: Target) -> list[fx.Node]:
        """The call nodes of these operators in graph order; all call nodes if none is named."""
        return [n for n in self.graph.nodes if n.op == "call_function" and (not targets or n.target in targets)]

    def inputs(self) -> list[fx.Node]:
        return [n for n in self.graph.nodes if n.op == "placeholder"]

    def outputs(self) -> tuple[fx.Node, ...]:
        result = self.graph.output_node().args[0]
        assert isinstance(result, tuple)
        return tuple(n for n in result if isinstance(n, fx.Node))

    def is_weight(self, value: object) -> bool:
        return isinstance(value, fx.Node) and value.op == "get_attr"

    def weight(self, node: Argument) -> torch.Tensor:
        """The tensor that a weight node stands for, detached. Raises InternalError for any other node."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            raise InternalError(f"{node} is not a weight of the program")
        return self.stored(str(node.target)).detach()

    def stored(self, name: str) -> torch.Tensor:
        """The parameter or buffer itself, as training needs it."""
        return _get(self.module, name)

    def weights(self) -> dict[str, torch.Tensor]:
        """The tensors in use by name, a tied one once, in graph order."""
        names = dict.fromkeys(str(n.target) for n in self.graph.nodes if n.op == "get_attr")
        return {name: _get(self.module, name).detach() for name in names}

    def dtypes(self) -> set[torch.dtype]:
        """Those of all values."""
        found = (v for n in self.graph.nodes if "val" in n.meta for v in torch.utils._pytree.tree_leaves(n.meta["val"]))
        return {v.dtype for v in found if isinstance(v, torch.Tensor)}

    def example_sizes(self) -> dict[str, int]:
        """The size of each symbol in the example inputs."""
        sizes: dict[str, int] = {}
        for node, example in zip(self.inputs(), self.examples, strict=True):
            for size, found in zip(node.meta["val"].shape, example.shape, strict=True):
                expression = size_expression(size)
                if not isinstance(expression, int) and expression.is_Symbol:
                    sizes[str(expression)] = found
        return sizes

    # -- writing

    def add_weight(self, name: str, tensor: torch.Tensor, like: fx.Node) -> fx.Node:
        """Add a weight node at the head of the graph, with the provenance of `like`.

        `name` is a dotted path; a free number is appended where it is taken.
        """
        free, count = name, 0
        while _has(self.module, free):
            count += 1
            free = f"{name}_{count}"
        _set(self.module, free, tensor.detach().contiguous())
        first = next(iter(self.graph.nodes))
        with self.graph.inserting_before(first):
            node = self.graph.get_attr(free)
        node.meta["val"] = fake_weight(self.graph, _get(self.module, free))
        provenance.inherit(node, [like])
        return node

    def set_weight(self, node: fx.Node, tensor: torch.Tensor) -> None:
        """Replace the tensor of a weight node. Every user of a tied weight sees the new one."""
        _set(self.module, str(node.target), tensor.detach().contiguous())
        for twin in self.graph.nodes:
            if twin.op == "get_attr" and twin.target == node.target:
                twin.meta["val"] = fake_weight(self.graph, tensor)

    def call_before(self, node: fx.Node, target: Target, *args: Any, **kwargs: Any) -> fx.Node:
        """Insert a call before `node`, infer its value and give it the provenance of `node`.

        A tensor among the arguments becomes a weight, named after the module that `node` came from.
        """
        args, kwargs = self._as_arguments(node, args), dict(zip(kwargs, self._as_arguments(node, tuple(kwargs.values())), strict=True))
        with self.graph.inserting_before(node):
            new = self.graph.create_node("call_function", target, args, kwargs, name=short_name(target))
        self.infer(new)
        provenance.inherit(new, [node])
        return new

    def replace(self, node: fx.Node, new: fx.Node) -> None:
        """Let every user of `node` read `new` instead, and erase `node` with what only it used."""
        node.replace_all_uses_with(new)
        provenance.inherit(new, [node])
        self.erase_dead([node])

    def replace_args(self, node: fx.Node, *args: Any) -> None:
        """Replace the first `len(args)` arguments of a call, and infer its value again."""
        old = list(node.all_input_nodes)
        node.args = self._as_arguments(node, args) + tuple(node.args[len(args) :])
        self.infer(node)
        self.erase_dead(old)

    def retarget(self, node: fx.Node, target: Target, *args: Any, **kwargs: Any) -> None:
        """Turn a call into another one in place; its users stay."""
        old = list(node.all_input_nodes)
        node.target, node.args, node.kwargs = target, self._as_arguments(node, args), kwargs
        self.infer(node)
        self.erase_dead(old)

    def infer(self, node: fx.Node) -> None:
        """Compute `meta["val"]` of a call from those of its arguments."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        target = node.target
        assert callable(target)
        node.meta["val"] = infer(self.graph, target, args, kwargs)

    def keep_outputs(self, count: int) -> None:
        """Keep the first `count` outputs, and drop the others with what only they need."""
        output = self.graph.output_node()
        kept, dropped = self.outputs()[:count], self.outputs()[count:]
        output.args = (kept,)
        self.signature = replace(self.signature, outputs=self.signature.outputs[:count])
        self.erase_dead(dropped)

    def erase_dead(self, nodes: Iterable[fx.Node]) -> None:
        """Erase those of `nodes` that nothing uses, and then what only they used. Inputs stay."""
        pending = list(nodes)
        while pending:
            node = pending.pop()
            if node.users or node.op in ("placeholder", "output") or node._erased:
                continue
            pending.extend(node.all_input_nodes)
            self.graph.erase_node(node)

    def drop_unused_weights(self) -> list[str]:
        """Delete weight nodes without users, and tensors without a node; return the names of the tensors."""
        self.erase_dead([n for n in self.graph.nodes if n.op == "get_attr"])
        used = {str(n.target) for n in self.graph.nodes if n.op == "get_attr"}
        stray = [name for name in stored_weights(self.module) if name not in used]
        for name in stray:
            parent, _, leaf = name.rpartition(".")
            delattr(self.module.get_submodule(parent), leaf)
        return stray

    def recompile(self) -> None:
        self.module.recompile()

    def _as_arguments(self, node: fx.Node, args: Sequence[Any]) -> tuple[Any, ...]:
        stem = provenance.module_path(node) or node.name
        return tuple(self.add_weight(f"{stem}.{node.name}_weight", a, node) if isinstance(a, torch.Tensor) else a for a in args)


def stored_weights(module: torch.nn.Module) -> list[str]:
    """Names of all tensors that the module stores: parameters, buffers and plain tensor attributes."""
    names = [n for n, _ in module.named_parameters(remove_duplicate=False)] + [n for n, _ in module.named_buffers(remove_duplicate=False)]
    for path, part in module.named_modules():
        names += [f"{path}.{k}".lstrip(".") for k, v in vars(part).items() if isinstance(v, torch.Tensor)]
    return names


def _get(module: torch.nn.Module, path: str) -> torch.Tensor:
    parent, _, leaf = path.rpartition(".")
    value = getattr(module.get_submodule(parent), leaf)
    assert isinstance(value, torch.Tensor), path
    return value


def _has(module: torch.nn.Module, path: str) -> bool:
    for part in path.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


def _set(module: torch.nn.Module, path: str, tensor: torch.Tensor) -> None:
    *parents, leaf = path.split(".")
    for part in parents:
        if not isinstance(getattr(module, part, None), torch.nn.Module):
            module.add_module(part, torch.nn.Module())
        module = getattr(module, part)
    if hasattr(module, leaf):
        delattr(module, leaf)
    if tensor.is_floating_point():
        module.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
    else:
        module.register_buffer(leaf, tensor)
