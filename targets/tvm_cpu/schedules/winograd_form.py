"""The form of a convolution of three taps along its last spatial axis, as Winograd's algorithm computes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, vector
from edgecc.targets.tvm_cpu.schedules.contraction import Contraction
from edgecc.targets.tvm_cpu.schedules.pieces import chunks
from edgecc.targets.tvm_cpu.schedules.stage import Axis

OUTPUTS, TAPS = 4, 3
SUMS = OUTPUTS + TAPS - 1  # products for OUTPUTS outputs, and elements of the data that they need


@dataclass(frozen=True)
class Form:
    """`x`: the axis that is cut into tiles of OUTPUTS, along which `taps` slides. `around`: the other axes of rows, each
    with the axis of taps that slides along it, or None. `channel`: what remains of the depth.
    """

    contraction: Contraction
    x: Axis
    taps: Axis
    around: tuple[tuple[Axis, Axis | None], ...]
    channel: Axis

    @property
    def tiles(self) -> int:
        return -(-int(self.x.extent) // OUTPUTS)

    @property
    def outer(self) -> list[int]:
        """Rows of results along each other axis."""
        return [int(a.extent) for a, _ in self.around]

    @property
    def other_taps(self) -> list[int]:
        return [int(d.extent) for _, d in self.around if d is not None]

    @property
    def data_rows(self) -> list[int]:
        """Rows of data along each other axis."""
        return [int(a.extent) + (int(d.extent) - 1 if d is not None else 0) for a, d in self.around]


def vectors(code: Code, extent: int, lanes: int) -> Iterator[tuple[Expr, int]]:
    """Where each vector along an innermost axis starts, and its lanes; full ones in a loop. To be iterated to its end."""
    with code.loop("v", extent // lanes) as v:
        if extent >= lanes:
            yield v * lanes, lanes
    for at, width in chunks(extent % lanes):
        yield index(extent - extent % lanes + at), width


class Registers:
    """Vectors that code names: each is stored once and read often."""

    def __init__(self, code: Code, lanes: int) -> None:
        self.code, self.lanes = code, lanes

    def hold(self, name: str, value: Expr) -> Expr:
        """The vector, in a register."""
        held = self.place(name)
        self.code.store(held, [vector(0, self.lanes)], value)
        return held[(vector(0, self.lanes),)]

    def place(self, name: str) -> Buffer:
        return self.code.local(name, self.lanes, "float32")

    def times(self, factor: float, value: Expr) -> Expr:
        from tvm import tirx

        number = tirx.const(factor, "float32")
        return value * (number if self.lanes == 1 else tirx.Broadcast(number, self.lanes))
