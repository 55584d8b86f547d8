"""Links: which dimension of what a stage reads belongs to which axis of what it makes, and what kind of stage it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.layout.order import Order, follow, unit
from edgecc.targets.tvm_cpu.schedules.contraction import narrow
from edgecc.targets.tvm_cpu.schedules.stage import Stage, loads, variables

Buffer = Any
Load = Any
Links = dict[int, int]


def links(stage: Stage, load: Load) -> Links:
    """Dimension of the loaded buffer -> the one axis of the stage that moves along it."""
    number = {axis.var: k for k, axis in enumerate(stage.axes)}
    found: Links = {}
    for dim, index in enumerate(load.indices):
        axes = [number[v] for v in variables(index) if v in number]
        if len(axes) == 1 and axes[0] not in found.values():
            found[dim] = axes[0]
    return found


def reads(stage: Stage) -> list[tuple[Buffer, Links]]:
    """Every buffer that a stage reads but its own, with the links of the load that has most of them."""
    found: list[tuple[Buffer, Links]] = []
    for load in loads(stage.update):
        if load.source.same_as(stage.buffer):
            continue
        mine = links(stage, load)
        known = next((k for k, (buffer, _) in enumerate(found) if buffer.same_as(load.source)), None)
        if known is None:
            found.append((load.source, mine))
        elif len(mine) > len(found[known][1]):
            found[known] = (load.source, mine)
    return found


def order_read(order: Order, links: Links, rank: int) -> Order:
    """The order of what a stage reads, that of what it makes followed."""
    return follow(order, {axis: dim for dim, axis in links.items()}, rank)


@dataclass(frozen=True)
class Product:
    """A sum of products: a matrix product, a convolution. `data` and `weight` are its loads.

    Axes of the result by who moves along them: `rows` by the data, `columns` by the weight, `shared` by both.
    `windows`: dimensions of the data that the reduction moves along too.
    """

    stage: Stage
    data: Load
    weight: Load
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    shared: tuple[int, ...]
    windows: tuple[int, ...]


def product(stage: Stage) -> Product | None:
    """The product that a stage is; the factor with windows, or else the first one, is called the data."""
    import tvm
    from tvm import tirx

    if stage.combine != "sum" or not isinstance(stage.term, tirx.Mul):
        return None
    factors = [narrow(stage.term.a), narrow(stage.term.b)]
    if not all(isinstance(f, tvm.ir.TensorLoad) for f in factors) or factors[0].source.same_as(factors[1].source):
        return None
    return next((p for p in (_product(stage, *factors), _product(stage, *reversed(factors))) if p.windows), _product(stage, *factors))


def swapped(found: Product) -> Product:
    """The product with the other factor as the data."""
    return _product(found.stage, found.weight, found.data)


def _product(stage: Stage, data: Load, weight: Load) -> Product:
    moved_by = [{v for i in load.indices for v in variables(i)} for load in (data, weight)]
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for k, axis in enumerate(stage.axes):
        if not unit(axis.extent):
            kinds.setdefault((axis.var in moved_by[0], axis.var in moved_by[1]), []).append(k)
    rows, columns, shared = (tuple(kinds.get(kind, ())) for kind in ((True, False), (False, True), (True, True)))
    return Product(stage, data, weight, rows, columns, shared, windows(stage, data, rows))


def windows(stage: Stage, load: Load, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions of a load along which both one of these axes and the reduction move."""
    of_axes = {stage.axes[k].var for k in axes if not unit(stage.axes[k].extent)}
    of_reduction = {axis.var for axis in stage.reduction}
    moving = [variables(i) for i in load.indices]
    return tuple(dim for dim, found in enumerate(moving) if found & of_axes and found & of_reduction)
