"""Choose: the orders of all buffers of one kernel, for operands that come in some orders.

Any choice computes the same. Convolutions and pools are wanted with their channels innermost, where the vectors run;
products of matrices with a dimension of the matrix innermost; every other kernel follows what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgecc.targets.tvm_cpu.layout.kernels import buffers
from edgecc.targets.tvm_cpu.layout.links import Links, order_read, product, reads
from edgecc.targets.tvm_cpu.layout.order import Order, follow, plain, same_memory, unit
from edgecc.targets.tvm_cpu.layout.products import Seeds, Way, convolution, matrices, pool
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, shape

Buffer = Any
FOLLOWS, CHANNELS, MATRIX = "follows its operands", "wants channels innermost", "wants a dimension of the matrix innermost"


@dataclass(frozen=True)
class Operand:
    """What a parameter is given. `order`: None for a constant, which costs nothing to reorder."""

    order: Order | None
    bytes: float


@dataclass(frozen=True)
class Wish:
    """An order that the readers of a tensor would like, and what another one costs them: bytes to copy."""

    order: Order
    bytes: float


@dataclass(frozen=True)
class Choice:
    """Orders of all buffers of a kernel, as `buffers` lists them. `why`: what they are for. `packed`, `padded`: see `Way`."""

    orders: tuple[Order, ...]
    why: str
    packed: Buffer | None = None
    padded: Buffer | None = None


def choose(kernel: Kernel, operands: Sequence[Operand], wish: Wish | None) -> tuple[Choice, float]:
    """The choice that costs the fewest bytes, of operands to copy or pack and of the result for its readers; and those it packs.

    `operands`: those of the parameters that the kernel reads; `wish`: None where no reader of the result minds.
    """
    given = list(zip(inputs(kernel), operands, strict=True))
    result = kernel.outputs[0]
    choices = _choices(kernel, [(p, o.order) for p, o in given], wish.order if wish else None)

    def packed(choice: Choice) -> float:
        return sum(o.bytes for p, o in given if p.same_as(choice.packed))

    def cost(choice: Choice) -> float:
        order_of = _lookup(kernel, choice.orders)
        moved = (o.bytes for p, o in given if o.order is not None and not same_memory(order_of(p), o.order, shape(p)))
        unwanted = wish.bytes if wish and not same_memory(order_of(result), wish.order, shape(result)) else 0.0
        return sum(moved) + packed(choice) + unwanted

    best = min(choices, key=cost)
    return _reordered_by_padding(kernel, best, {p: o.order for p, o in given if o.order is not None}), packed(best)


def _reordered_by_padding(kernel: Kernel, choice: Choice, given: Mapping[Buffer, Order]) -> Choice:
    """The choice with parameters as they are given where only the stage that pads them reads them."""
    readers = [(buffer, stage.buffer) for stage in kernel.stages for buffer, _ in reads(stage)]
    free = {
        p for p in given if choice.padded is not None and all(made.same_as(choice.padded) for buffer, made in readers if buffer.same_as(p))
    }
    orders = tuple(given[b] if b in free else order for b, order in zip(buffers(kernel), choice.orders, strict=True))
    return replace(choice, orders=orders)


def wanted(kernel: Kernel, operands: Sequence[Operand], wish: Wish | None) -> list[Wish | None]:
    """What a kernel would like to be given for each parameter that it reads; None where it does not mind.

    `operands`: only which are constants, and their sizes.
    """
    params = inputs(kernel)
    given = [(p, None if o.order is None else plain(len(shape(p)))) for p, o in zip(params, operands, strict=True)]
    strong = _strong(kernel, given, wish.order if wish else None)
    result = kernel.outputs[0]
    if strong is None:
        if wish is None:
            return [None] * len(params)
        order_of = _lookup(kernel, _spread(kernel, [(result, wish.order)]))
        return [
            Wish(order_of(p), min(o.bytes, wish.bytes)) if _keeps_dimensions(kernel, p) else None
            for p, o in zip(params, operands, strict=True)
        ]
    if strong[0].why == MATRIX and all(o.order is not None for o in operands):
        return [None] * len(params)
    preferred, most = strong[0], float("inf")
    for choice in strong[1:]:
        if wish is not None and same_memory(_lookup(kernel, choice.orders)(result), wish.order, shape(result)):
            preferred, most = choice, wish.bytes
    order_of = _lookup(kernel, preferred.orders)
    return [Wish(order_of(p), min(o.bytes, most)) for p, o in zip(params, operands, strict=True)]


def inputs(kernel: Kernel) -> list[Buffer]:
    """The parameters that the kernel reads."""
    return [p for p in kernel.params if not kernel.is_output(p)]


def _choices(kernel: Kernel, given: Sequence[tuple[Buffer, Order | None]], wish: Order | None) -> list[Choice]:
    """What to choose from, the preferred one first."""
    strong = _strong(kernel, given, wish)
    if strong is not None:
        return strong
    seeds: list[Seeds] = [[(p, order)] for p, order in given if order is not None]
    seeds += [[(kernel.outputs[0], wish)]] if wish is not None else []
    return [Choice(_spread(kernel, seed), FOLLOWS) for seed in seeds or [[]]]


def _strong(kernel: Kernel, given: Sequence[tuple[Buffer, Order | None]], wish: Order | None) -> list[Choice] | None:
    """The choices of a kernel with a stage that wants an order of its own; None where it has no such stage."""
    fixed = _constants(kernel, [p for p, order in given if order is None])
    order_of = {p: order for p, order in given if order is not None}
    for stage in kernel.stages:
        found, why = product(stage), CHANNELS
        ways: Sequence[Way | None]
        if found is None:
            ways = [pool(stage)]
        elif found.windows:
            ways = [convolution(found)]
        else:
            own_wish = wish if kernel.is_output(stage.buffer) else None
            ways, why = matrices(found, (found.data.source in fixed, found.weight.source in fixed), order_of.get, own_wish), MATRIX
        found_ways = [way for way in ways if way is not None]
        if found_ways:
            return [Choice(_spread(kernel, way.seeds), why, way.packed, way.padded) for way in found_ways]
    return None


def _constants(kernel: Kernel, params: Sequence[Buffer]) -> set[Buffer]:
    """The buffers that depend on constants only."""
    fixed = set(params)
    for stage in kernel.stages:
        if all(buffer in fixed for buffer, _ in reads(stage)):
            fixed.add(stage.buffer)
    return fixed


def _spread(kernel: Kernel, seeds: Seeds) -> tuple[Order, ...]:
    """The orders of all buffers where some are given: stage by stage, each buffer follows one that is known."""
    known = dict(seeds)
    while True:
        before = len(known)
        for stage in kernel.stages:
            made, rank = stage.buffer, len(stage.axes)
            if made not in known:
                found = [(buffer, along) for buffer, along in reads(stage) if buffer in known and along]
                if found:
                    buffer, along = max(found, key=lambda pair: len(pair[1]))
                    known[made] = follow(known[buffer], along, rank)
        for stage in reversed(kernel.stages):
            for buffer, along in reads(stage):
                if stage.buffer in known and buffer not in known and along:
                    known[buffer] = order_read(known[stage.buffer], along, len(shape(buffer)))
        if len(known) == before:
            return tuple(known.get(b, plain(len(shape(b)))) for b in buffers(kernel))


def _keeps_dimensions(kernel: Kernel, param: Buffer) -> bool:
    """Whether every dimension of a parameter is one of the result, so that a wish for the result is one for it."""
    kept: dict[Buffer, Links] = {kernel.outputs[0]: {d: d for d in range(len(shape(kernel.outputs[0])))}}
    for stage in reversed(kernel.stages):
        of_made = kept.get(stage.buffer, {})
        for buffer, along in reads(stage):
            mine = {dim: of_made[axis] for dim, axis in along.items() if axis in of_made}
            if len(mine) >= len(kept.get(buffer, {})):
                kept[buffer] = mine
    return all(d in kept.get(param, {}) for d, size in enumerate(shape(param)) if not unit(size))


def _lookup(kernel: Kernel, orders: Sequence[Order]) -> Callable[[Buffer], Order]:
    return dict(zip(buffers(kernel), orders, strict=True)).__getitem__
