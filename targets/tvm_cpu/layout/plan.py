"""Plans: the order of every tensor of a program, chosen so that few tensors are copied into another one.

Readers wish: going backwards, each tensor collects the orders that its readers would like, as far as they follow from
what their own readers like. Then, going forwards, each kernel chooses (`choose`), transpositions and reshapes become
other names of the same memory where they can, and a tensor whose reader wants another order is copied for it, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edgecc.targets.tvm_cpu.layout.choose import Choice, Operand, Wish, choose, inputs, wanted
from edgecc.targets.tvm_cpu.layout.graph import (
    Expr,
    KernelCall,
    Node,
    Reshape,
    Transposition,
    Var,
    bounds,
    is_constant,
    nbytes,
    nodes,
    sizes,
)
from edgecc.targets.tvm_cpu.layout.kernels import buffers
from edgecc.targets.tvm_cpu.layout.order import Order, before, permuted, plain, same_memory, through
from edgecc.targets.tvm_cpu.layout.views import view


@dataclass(frozen=True)
class Copy:
    """A tensor that is copied into another order. `why`: which reader wants it."""

    tensor: str
    sizes: tuple[Any, ...]
    source: Order
    target: Order
    bytes: float
    why: str

    def __str__(self) -> str:
        return (
            f"{self.tensor} {list(self.sizes)}: from {permuted(self.sizes, self.source)} to {permuted(self.sizes, self.target)}, {self.why}"
        )


@dataclass
class Plan:
    """`orders`: of each variable of `main`. `choices`: of each kernel's buffers. `reads`: the order in which each reshape reads."""

    nodes: list[Node]
    orders: dict[Var, Order] = field(default_factory=dict)
    choices: dict[Var, Choice] = field(default_factory=dict)
    reads: dict[Var, Order] = field(default_factory=dict)
    copies: list[Copy] = field(default_factory=list)
    packed: float = 0.0

    @property
    def cost(self) -> float:
        """Bytes that are copied, and bytes that kernels pack for the vectors while they run."""
        return sum(copy.bytes for copy in self.copies) + self.packed


def plan(module: Any) -> Plan:
    """Choose the orders of a legalized module.

    A first round does not know what a reader without an order of its own will choose. Another one takes what the
    round before chose as the wishes, as long as that saves copies.
    """
    planner = _Planner(module)
    best = planner.round(None)
    while (found := planner.round(best)).cost < best.cost:
        best = found
    return best


class _Planner:
    def __init__(self, module: Any) -> None:
        self.main = module["main"]
        self.upper = bounds(self.main)
        self.nodes = nodes(module)

    def round(self, last: Plan | None) -> Plan:
        self.plan = Plan(self.nodes)
        self.copied: set[tuple[Any, Order]] = set()
        wishes = self._collect_wishes(last)
        for param in self.main.params:
            self.plan.orders[param] = plain(len(sizes(param)))
        for node in self.nodes:
            self._assign(node, wishes[node.var])
        return self.plan

    # -- backwards

    def _collect_wishes(self, last: Plan | None) -> dict[Var, Wish | None]:
        votes: dict[Var, list[Wish]] = {}
        wishes: dict[Var, Wish | None] = {}

        def vote(value: Expr, wish: Wish | None) -> None:
            if wish is not None and not is_constant(value):
                votes.setdefault(value, []).append(wish)

        for node in reversed(self.nodes):
            wish = _heaviest(votes.get(node.var, []), self._bytes(node.var))
            wishes[node.var] = wish
            if isinstance(node, KernelCall):
                for argument, wished in zip(node.arguments, self._wanted(node, wish, last), strict=True):
                    vote(argument, wished)
            elif isinstance(node, Transposition):
                vote(node.source, None if wish is None else Wish(before(wish.order, node.axes), wish.bytes))
            elif isinstance(node, Reshape):
                order = None if wish is None else view(wish.order, sizes(node.var), sizes(node.source))
                vote(node.source, None if wish is None or order is None else Wish(order, wish.bytes))
            else:
                for tensor in _tensors(node.value):
                    vote(tensor, Wish(plain(len(sizes(tensor))), self._bytes(tensor)))
        return wishes

    def _wanted(self, node: KernelCall, wish: Wish | None, last: Plan | None) -> list[Wish | None]:
        operands = [Operand(None if is_constant(a) else plain(len(sizes(a))), self._bytes(a)) for a in node.arguments]
        if last is None:
            return wanted(node.kernel, operands, wish)
        order_of = dict(zip(buffers(node.kernel), last.choices[node.var].orders, strict=True))
        return [Wish(order_of[p], o.bytes) for p, o in zip(inputs(node.kernel), operands, strict=True)]

    # -- forwards

    def _assign(self, node: Node, wish: Wish | None) -> None:
        if isinstance(node, KernelCall):
            self._assign_kernel(node, wish)
        elif isinstance(node, Transposition):
            self.plan.orders[node.var] = through(self._order(node.source), node.axes)
        elif isinstance(node, Reshape):
            self._assign_reshape(node, wish.order if wish else None)
        else:
            why = "which the program gives back" if _is_tuple(node.value) else "which a function reads that is not made of stages"
            for tensor in _tensors(node.value):
                self._want(tensor, plain(len(sizes(tensor))), why)
            if _is_tensor(node.var):
                self.plan.orders[node.var] = plain(len(sizes(node.var)))

    def _assign_kernel(self, node: KernelCall, wish: Wish | None) -> None:
        operands = [Operand(None if is_constant(a) else self._order(a), self._bytes(a)) for a in node.arguments]
        choice, packed = choose(node.kernel, operands, wish)
        order_of = dict(zip(buffers(node.kernel), choice.orders, strict=True))
        for argument, param in zip(node.arguments, inputs(node.kernel), strict=True):
            self._want(argument, order_of[param], f"as {node.function.name_hint} {choice.why}")
        self.plan.packed += packed
        self.plan.choices[node.var] = choice
        self.plan.orders[node.var] = order_of[node.kernel.outputs[0]]

    def _assign_reshape(self, node: Reshape, wish: Order | None) -> None:
        old, new = sizes(node.source), sizes(node.var)
        read = self._order(node.source)
        made = view(read, old, new)
        if made is None:
            read = (None if wish is None else view(wish, new, old)) or plain(len(old))
            made = view(read, old, new) or plain(len(new))
        if wish is not None and same_memory(made, wish, new):
            made = wish
        self._want(node.source, read, f"as {node.var.name} is another shape of it")
        self.plan.reads[node.var], self.plan.orders[node.var] = read, made

    def _bytes(self, value: Expr) -> float:
        return nbytes(value, self.upper) if _is_tensor(value) else 0.0

    def _order(self, value: Expr) -> Order:
        return plain(len(sizes(value))) if is_constant(value) else self.plan.orders[value]

    def _want(self, value: Expr, order: Order, why: str) -> None:
        """Note the copy that a reader needs."""
        if is_constant(value) or same_memory(self._order(value), order, sizes(value)) or (value, order) in self.copied:
            return
        self.copied.add((value, order))
        self.plan.copies.append(Copy(value.name, tuple(sizes(value)), self._order(value), order, nbytes(value, self.upper), why))


def _heaviest(wishes: Sequence[Wish], most: float) -> Wish | None:
    """The wish that costs most where it is not fulfilled; the first one of several. One copy, of `most` bytes, fulfils it for all."""
    total: dict[Order, float] = {}
    for wish in wishes:
        total[wish.order] = total.get(wish.order, 0.0) + wish.bytes
    if not total:
        return None
    order = max(total, key=total.__getitem__)
    return Wish(order, min(most, total[order]))


def _tensors(value: Expr) -> list[Expr]:
    """The tensors that an expression reads: variables and, for a tuple, those in it."""
    from tvm import relax

    if isinstance(value, relax.Var):
        return [value] if _is_tensor(value) else []
    parts = value.fields if isinstance(value, relax.Tuple) else value.args if isinstance(value, relax.Call) else []
    return [t for part in parts for t in _tensors(part)]


def _is_tensor(value: Expr) -> bool:
    from tvm import relax

    return isinstance(value.ty, relax.TensorType)


def _is_tuple(value: Expr) -> bool:
    from tvm import relax

    return isinstance(value, relax.Tuple)
