"""Samples: seeded inputs for a program, at several sizes where a dimension is dynamic."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from edgecc.ir.program import Program
from edgecc.ir.signature import Dim, TensorSpec
from edgecc.pipeline.context import Sample

aten = torch.ops.aten
_SAME_INDICES = {aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten._to_copy.default, aten.view.default, aten.reshape.default}
_SAME_INDICES |= {
    aten.unsqueeze.default,
    aten.expand.default,
    aten.slice.Tensor,
    aten.clone.default,
    aten.contiguous.default,
    aten.select.int,
}


def samples(program: Program, *, seed: int, count: int = 3) -> list[Sample]:
    """`count` inputs, the first at the sizes of the program's examples, the others at the lower bounds and in between.

    Floats are normal. Integers that index a table stay inside it; others are drawn from the range of the example,
    and where that is all ones (an attention mask), a prefix of ones is kept. The same seed gives the same samples.
    """
    generator = torch.Generator().manual_seed(seed)
    cases = list(_sizes(program))
    limits = [_table_rows(node) for node in program.inputs()]
    return [
        tuple(
            _draw(spec, example, cases[i % len(cases)], rows, i, generator)
            for spec, example, rows in zip(program.signature.inputs, program.examples, limits, strict=True)
        )
        for i in range(count)
    ]


def _sizes(program: Program) -> Iterator[dict[str, int]]:
    """Sizes by dimension name: those of the examples, the smallest, and odd ones between the bounds."""
    dims = program.signature.dims
    yield {}
    if dims:
        yield {d.name: d.lower for d in dims}
        yield {d.name: _between(d, k) for k, d in enumerate(dims)}


def _between(dim: Dim, rank: int) -> int:
    wanted = dim.lower + (3, 7, 5)[rank % 3]
    return min(wanted, dim.upper) if dim.upper is not None else wanted


def _draw(
    spec: TensorSpec, example: torch.Tensor, sizes: dict[str, int], rows: int | None, case: int, generator: torch.Generator
) -> torch.Tensor:
    shape = [sizes.get(s, example.shape[i]) if isinstance(s, str) else s for i, s in enumerate(spec.shape)]
    if spec.dtype.is_floating_point or spec.dtype.is_complex:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(spec.dtype)
    if spec.dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5 if case else torch.ones(shape, dtype=torch.bool)
    if rows is not None:
        return torch.randint(0, rows, shape, generator=generator, dtype=spec.dtype)
    low, high = (int(example.min()), int(example.max())) if example.numel() else (0, 1)
    if low == high == 1 and shape:
        kept = shape[-1] if not case else max(1, shape[-1] - case)
        return (torch.arange(shape[-1]) < kept).to(spec.dtype).expand(shape).contiguous()
    return torch.randint(low, high + 1, shape, generator=generator, dtype=spec.dtype)


def _table_rows(node: fx.Node) -> int | None:
    """Rows of the smallest embedding table that an integer input indexes, through views and casts."""
    rows: list[int] = []
    pending, seen = [node], {node}
    while pending:
        current = pending.pop()
        for user in current.users:
            if user.target is aten.embedding.default and user.args[1] is current:
                table = user.args[0]
                assert isinstance(table, fx.Node)
                rows.append(int(table.meta["val"].shape[0]))
            elif user.target in _SAME_INDICES and user not in seen:
                seen.add(user)
                pending.append(user)
    return min(rows) if rows else None
