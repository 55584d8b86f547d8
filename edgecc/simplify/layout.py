"""Facts about the value of a node that rewrites rest on: its static sizes, and its layout in memory.

Why layout: PyTorch picks its kernels by strides, and a matrix product or a sum over a transposed tensor may differ
in the last bit from the same over a contiguous one. A rewrite that claims equal bits must keep the strides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from edgecc.ir.fake import infer, size_expression
from edgecc.ir.program import Program

aten = torch.ops.aten

Size = int | torch.SymInt


def value(node: fx.Node) -> torch.Tensor:
    """The fake value of a node that is one tensor."""
    found = node.meta["val"]
    assert isinstance(found, torch.Tensor), node.format_node()
    return found


def is_tensor(argument: object) -> bool:
    """Whether the argument is a node whose value is one tensor."""
    return isinstance(argument, fx.Node) and isinstance(argument.meta["val"], torch.Tensor)


def static_size(size: Size) -> int | None:
    """The size as an int, None where it depends on a dynamic dimension."""
    expression = size_expression(size)
    return expression if isinstance(expression, int) else None


def static_shape(tensor: torch.Tensor) -> list[int] | None:
    """The shape as ints, None where any dimension is dynamic."""
    sizes = [static_size(s) for s in tensor.shape]
    return [s for s in sizes if s is not None] if None not in sizes else None


def same_size(a: Size, b: Size) -> bool:
    """Whether two sizes are the same number or the same expression over the dynamic dimensions."""
    return bool(size_expression(a) == size_expression(b))


def same_sizes(a: Sequence[Size], b: Sequence[Size]) -> bool:
    return len(a) == len(b) and all(map(same_size, a, b))


def same_layout(a: object, b: object) -> bool:
    """Whether two tensors have the same dtype, shape and strides, so that no kernel can tell them apart."""
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return False
    return a.dtype == b.dtype and same_sizes(a.shape, b.shape) and same_sizes(a.stride(), b.stride())


def same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two views of one tensor are the same view."""
    return same_layout(a, b) and same_size(a.storage_offset(), b.storage_offset())


def is_contiguous(tensor: torch.Tensor) -> bool:
    """Whether the strides are those of a fresh tensor, dynamic sizes compared as expressions."""
    expected: Size = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if not same_size(stride, expected):
            return False
        expected = expected * size
    return True


def inferred(program: Program, target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Any:
    """The fake value that a call would have, without making it."""
    fake_args, fake_kwargs = fx.node.map_arg((tuple(args), dict(kwargs or {})), lambda n: n.meta["val"])
    return infer(program.graph, target, fake_args, fake_kwargs)


def sizes_as_arguments(program: Program, before: fx.Node, sizes: Sequence[Size], source: fx.Node) -> list[int | fx.Node] | None:
    """Sizes as `aten.reshape` takes them: ints, -1 for a lone dynamic one, else nodes that read `source`.

    None where a dynamic size is no dimension of `source`.
    """
    static = [static_size(s) for s in sizes]
    if static.count(None) == 1 and 0 not in static:
        return [-1 if s is None else s for s in static]
    axes = [
        None if known is not None else next((a for a, s in enumerate(value(source).shape) if same_size(s, size)), -1)
        for known, size in zip(static, sizes, strict=True)
    ]
    if -1 in axes:
        return None
    found: list[int | fx.Node] = []
    for known, axis in zip(static, axes, strict=True):
        found.append(known if known is not None else program.call_before(before, aten.sym_size.int, source, axis))
    return found
