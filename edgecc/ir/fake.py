"""Fake tensors and symbolic sizes: the one place that touches torch's private tracing API (tried with torch 2.13).

`FakeTensorMode` and `ShapeEnv` have no public counterpart, and a pass that makes a node must give it a value with
the same symbols as the rest of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import sympy
import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from edgecc.errors import InternalError
from edgecc.ir.lazy import is_lazy

UNBOUNDED = 2**31


def fake_mode(graph: fx.Graph) -> FakeTensorMode:
    """The mode that made the fake values of the graph. Raises InternalError where no node has one."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            return value.fake_mode
    raise InternalError("no node of the graph has a fake value, so no new one can be inferred")


#: Operators that give a value like their first argument, and of which torch infers no dynamic sizes (tried with torch 2.13).
_WITHOUT_META = frozenset(
    {torch.ops.aten.fake_quantize_per_tensor_affine.tensor_qparams, torch.ops.aten.fake_quantize_per_channel_affine.default}
)


def infer(graph: fx.Graph, target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The value of a call on fake arguments.

    Sizes stay symbolic: the C++ body of a composite operator such as `aten.pad` would read them as ints, which turns a
    dynamic dimension into its example for the whole graph; torch.export traces with torch's Python bodies instead, and
    so does this. They are slower, and only used where a size is dynamic.
    """
    if target in _WITHOUT_META and isinstance(args[0], torch.Tensor):
        target, args, kwargs = torch.ops.aten.contiguous.default, args[:1], {}
    dynamic = any(_is_dynamic(leaf) for leaf in pytree.tree_leaves((tuple(args), dict(kwargs))))
    with enable_python_dispatcher() if dynamic else nullcontext(), fake_mode(graph), torch.no_grad():
        return target(*args, **kwargs)


def _is_dynamic(value: object) -> bool:
    return isinstance(value, torch.SymInt) or (isinstance(value, torch.Tensor) and any(isinstance(s, torch.SymInt) for s in value.shape))


def fake_weight(graph: fx.Graph, tensor: torch.Tensor) -> torch.Tensor:
    """The fake value of a weight, with static sizes."""
    if is_lazy(tensor):
        with fake_mode(graph):
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return fake_mode(graph).from_tensor(tensor.detach(), static_shapes=True)


def size_expression(size: int | torch.SymInt) -> sympy.Expr | int:
    """A dimension as an int where it is static, else as an expression over symbols."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression) if expression.is_Integer else expression


def size_symbols(size: int | torch.SymInt) -> set[str]:
    """Names of the symbols that a dimension depends on."""
    return set() if isinstance(size, int) else {str(s) for s in size.node.expr.free_symbols}


def size_text(size: int | torch.SymInt, names: Mapping[str, str]) -> int | str:
    """A dimension as an int where it is static, else as text over `names`, which maps symbols to dimension names."""
    expression = size_expression(size)
    if isinstance(expression, int):
        return expression
    return str(expression.subs({s: sympy.Symbol(names.get(str(s), str(s)), integer=True) for s in expression.free_symbols}))


def evaluate(size: int | torch.SymInt, sizes: Mapping[str, int]) -> int:
    """A dimension as a number, with `sizes` for the symbols. Raises KeyError for a symbol that has none."""
    expression = size_expression(size)
    if isinstance(expression, int):
        return expression
    return int(expression.subs({s: sizes[str(s)] for s in expression.free_symbols}))


def ranges(graph: fx.Graph, limits: Mapping[str, tuple[int, int | None]]) -> dict[sympy.Symbol, ValueRanges[sympy.Expr]]:
    """Range constraints of an ExportedProgram for the symbols in the inputs: inclusive limits by symbol name."""
    found: dict[sympy.Symbol, ValueRanges[sympy.Expr]] = {}
    for node in graph.nodes:
        value = node.meta.get("val")
        for size in value.shape if node.op == "placeholder" and isinstance(value, torch.Tensor) else ():
            symbols: set[sympy.Symbol] = set() if isinstance(size, int) else size.node.expr.free_symbols
            for symbol in symbols:
                lower, upper = limits.get(str(symbol), (1, None))
                found[symbol] = ValueRanges(lower, int_oo if upper is None else upper)
    return found
