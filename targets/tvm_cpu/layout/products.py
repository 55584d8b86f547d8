"""Products: the orders that convolutions, pools and products of matrices are wanted in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.layout.links import Product, links, order_read, swapped, windows
from edgecc.targets.tvm_cpu.layout.order import Order, follow, innermost, plain, unit
from edgecc.targets.tvm_cpu.schedules.stage import Stage, loads, shape, variables

Buffer = Any
Load = Any
Seeds = list[tuple[Buffer, Order]]
OrderOf = Callable[[Buffer], Order | None]


@dataclass(frozen=True)
class Way:
    """Orders of some buffers of a kernel.

    `packed`: an operand that the kernel then has to pack while it runs. `padded`: one that it copies in any case, so
    that a parameter that this is made of may come in any order.
    """

    seeds: Seeds
    packed: Buffer | None = None
    padded: Buffer | None = None


def convolution(found: Product) -> Way:
    """Channels innermost: data [n, .., c], weight [.., c / groups, out], result [n, .., out]."""
    result = _with_last(plain(len(found.stage.axes)), found.columns or found.shared)
    return Way(
        [
            (found.stage.buffer, result),
            (found.data.source, _data_order(found, result)),
            (found.weight.source, _weight_order(found, result)),
        ],
        padded=None if found.shared else found.data.source,
    )


def pool(stage: Stage) -> Way | None:
    """The last axis without windows innermost. None for a stage that is no reduction over windows."""
    if not stage.reduction:
        return None
    every = tuple(range(len(stage.axes)))
    for load in loads(stage.update):
        windowed = windows(stage, load, every)
        free = [axis for dim, axis in links(stage, load).items() if dim not in windowed and not unit(stage.axes[axis].extent)]
        if windowed and free:
            result = _with_last(every, [max(free)])
            return Way([(stage.buffer, result), (load.source, order_read(result, links(stage, load), len(load.indices)))])
    return None


def matrices(found: Product, fixed: tuple[bool, bool], order_of: OrderOf, wish: Order | None) -> list[Way]:
    """Ways to have a dimension of the matrix innermost, the preferred one first.

    `fixed`: whether the data and the weight are constants; `order_of`: the order that a parameter comes in, None for
    other buffers. Data times a constant is wanted as rows of depth, which gives rows of columns; where the readers of
    the result wish its rows innermost, the data may have them innermost too. Products of two operands that are
    computed take them as they are, unless a shared dimension is innermost, and give what is wished.
    """
    if not found.rows and not found.columns:
        return []
    if fixed[0] and not fixed[1]:
        found = swapped(found)
    if fixed[0] != fixed[1]:
        given = order_of(found.data.source)
        return [way for way in (_by_columns(found, given), _by_rows(found, given, wish)) if way]
    results = [plain(len(found.stage.axes))] if wish is None else [wish, plain(len(found.stage.axes))]
    matrix = (*found.rows, *found.columns)
    suitable = [r for r in results if innermost(r, _extents(found.stage)) in matrix]
    operands = [(x.source, _operand_order(found, x, order_of(x.source))) for x in (found.data, found.weight)]
    return [Way([(found.stage.buffer, r), *operands]) for r in suitable]


def _by_columns(found: Product, given: Order | None) -> Way:
    along = links(found.stage, found.data)
    order = plain(len(found.data.indices)) if given is None else given
    last = found.columns or (found.shared if _is_grouped(found) else ())
    result = _with_last(follow(order, along, len(found.stage.axes)), last)
    if innermost(result, _extents(found.stage)) in found.shared and not last:
        result = _with_last(result, found.rows[-1:])
    depth = given is not None and _innermost(found.data, given) not in along
    return Way(
        [
            (found.stage.buffer, result),
            (found.data.source, order if depth else _data_order(found, result)),
            (found.weight.source, _weight_order(found, result)),
        ]
    )


def _is_grouped(found: Product) -> bool:
    """Whether the shared axes are channels in groups, a dimension of the data along which the reduction moves too."""
    return bool(windows(found.stage, found.data, found.shared))


def _by_rows(found: Product, given: Order | None, wish: Order | None) -> Way | None:
    row = None if wish is None else innermost(wish, _extents(found.stage))
    if wish is None or row not in found.rows:
        return None
    as_given = given is not None and links(found.stage, found.data).get(_innermost(found.data, given), -1) == row
    data = given if given is not None and as_given else _row_order(found, wish)
    seeds = [(found.stage.buffer, wish), (found.data.source, data), (found.weight.source, plain(len(found.weight.indices)))]
    return Way(seeds, found.data.source)


def _row_order(found: Product, result: Order) -> Order:
    """The dimensions of the data as the result has them, those that are summed over in the place of the columns."""
    along = links(found.stage, found.data)
    dim_of = {axis: dim for dim, axis in along.items()}
    summed = [d for d in range(len(found.data.indices)) if d not in along]
    place = next((axis for axis in result if axis not in dim_of), result[-1])
    dims: list[int] = []
    for axis in result:
        dims += summed if axis == place else []
        dims += [dim_of[axis]] if axis in dim_of else []
    return tuple(dims)


def _operand_order(found: Product, load: Load, given: Order | None) -> Order:
    """The order that an operand comes in, but for one with a shared dimension innermost."""
    natural = plain(len(load.indices))
    if given is None:
        return natural
    return natural if links(found.stage, load).get(_innermost(load, given), -1) in found.shared else given


def _data_order(found: Product, result: Order) -> Order:
    """The dimensions of the data as the result has them, then those that are summed over."""
    dim_of = {axis: dim for dim, axis in links(found.stage, found.data).items()}
    sizes = shape(found.data.source)
    linked = [dim_of[axis] for axis in result if axis in dim_of]
    summed = [d for d in range(len(sizes)) if d not in linked and not unit(sizes[d])]
    return _with_units([*linked, *summed], len(sizes))


def _weight_order(found: Product, result: Order) -> Order:
    """Shared dimensions, windows, depth, then what is innermost in the result."""
    along = links(found.stage, found.weight)
    reduction = {axis.var for axis in found.stage.reduction}
    in_windows = {v for dim in found.windows for v in variables(found.data.indices[dim])} & reduction

    def rank(dim: int) -> tuple[int, int]:
        if dim in along:
            last = along[dim] in (found.columns or found.shared)
            return (3 if last else 0), result.index(along[dim])
        moving = variables(found.weight.indices[dim])
        return (1 if not moving or moving & in_windows else 2), dim

    return tuple(sorted(range(len(found.weight.indices)), key=rank))


def _with_last(order: Order, last: Sequence[int]) -> Order:
    return (*(d for d in order if d not in last), *(d for d in order if d in last))


def _with_units(dims: list[int], rank: int) -> Order:
    """`dims`, and every other dimension behind the one before it."""
    for dim in range(rank):
        if dim not in dims:
            dims.insert(dims.index(dim - 1) + 1 if dim else 0, dim)
    return tuple(dims)


def _innermost(load: Load, order: Order) -> int:
    """The innermost dimension of an operand, -1 where it has one element."""
    dim = innermost(order, shape(load.source))
    return -1 if dim is None else dim


def _extents(stage: Stage) -> list[Any]:
    return [axis.extent for axis in stage.axes]
