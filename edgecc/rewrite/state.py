"""State: a match so far, the rest that the root computes besides, and whether the shapes of both sides agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import sympy
from torch import fx

from edgecc.rewrite import permutation
from edgecc.rewrite.expression import Extent, Shape, Term

Binding = Term | float


@dataclass(frozen=True)
class State:
    """A match so far: what the parameters stand for, the nodes it covers, and shapes that have to agree.

    `here` is the node looked at last; `anchor` the first one that is a call of the pattern, which a near miss is told about.
    """

    bindings: Mapping[str, Binding] = field(default_factory=dict)
    nodes: frozenset[fx.Node] = frozenset()
    shapes: tuple[tuple[Shape, Shape], ...] = ()
    matched: int = 0
    here: fx.Node | None = None
    anchor: fx.Node | None = None

    def bind(self, name: str, value: Binding) -> State:
        return replace(self, bindings={**self.bindings, name: value})


@dataclass(frozen=True)
class Rest:
    """What the root computes besides the pattern: `literal * factors` or `literal + terms`, its axes permuted at last."""

    literal: float
    terms: tuple[tuple[float, Term], ...] = ()
    factors: tuple[tuple[Term, float], ...] = ()
    order: permutation.Order = ()
    is_empty: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        neutral = self.literal in (0.0, 1.0)
        object.__setattr__(self, "is_empty", neutral and not self.terms and not self.factors)


def shape_conflict(pairs: Sequence[tuple[Shape, Shape]]) -> str | None:
    """Why no choice of sizes fits all reshapes, (pattern, program): every prime size of the pattern stands for one size."""
    if any(len(want) != len(found) for want, found in pairs):
        return "a reshape has another number of axes"
    sizes: dict[int, Extent] = {}
    extents = [(w, f) for want, found in pairs for w, f in zip(want, found, strict=True)]
    for want, found in extents:
        if want != 1 and len(_primes(want)) == 1:
            sizes.setdefault(int(want), found)
    for want, found in extents:
        primes = _primes(want)
        product = math.prod((sizes[p] for p in primes), start=sympy.Integer(1)) if all(p in sizes for p in primes) else None
        if product != found:
            return f"a reshape has size {found} where the other sizes ask for {product}"
    return None


def _primes(size: Extent) -> list[int]:
    return [p for p, count in sympy.factorint(int(size)).items() for _ in range(count)]
