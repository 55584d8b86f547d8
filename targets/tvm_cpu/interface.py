"""The interface file `model.txt`: what the compiled model takes and gives, checked before every run.

TVM's runtime checks ranks and dtypes late and never the upper bound of a dynamic dimension, whose buffers were sized
at compile time. So the runner on the device and the ones here read this file. One line an item:

    cpu NAME
    dim NAME LOWER UPPER            (UPPER is `-` where there is none)
    input DTYPE RANK SIZE... NAME   (SIZE: a number, a dimension, `a*dim+b`, or `?` where it is not checked)
    output DTYPE RANK SIZE... NAME
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecc.diagnostics import nearest
from edgecc.errors import ContractError, UsageError
from edgecc.ir.signature import Signature, TensorSpec

FILE = "model.txt"
_AFFINE = re.compile(r"(?:(?P<scale>\d+)\*)?(?P<dim>[A-Za-z_]\w*)(?P<offset>[+-]\d+)?")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Port:
    """One input or output; `dtype` is numpy's name."""

    name: str
    dtype: str
    sizes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(self.sizes)}]"


@dataclass(frozen=True)
class Interface:
    """`dims`: inclusive bounds by name, an upper bound of None where there is none."""

    cpu: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    dims: Mapping[str, tuple[int, int | None]]

    @staticmethod
    def of(signature: Signature, cpu: str) -> Interface:
        dims = {d.name: (d.lower, d.upper) for d in signature.dims}
        return Interface(cpu, tuple(map(_port, signature.inputs)), tuple(map(_port, signature.outputs)), dims)

    def text(self) -> str:
        """The file's content."""
        lines = [f"cpu {self.cpu}"]
        lines += [f"dim {name} {lower} {'-' if upper is None else upper}" for name, (lower, upper) in self.dims.items()]
        for kind, ports in (("input", self.inputs), ("output", self.outputs)):
            lines += [" ".join([kind, p.dtype, str(len(p.sizes)), *p.sizes, p.name]) for p in ports]
        return "\n".join(lines) + "\n"

    @staticmethod
    def read(directory: Path) -> Interface:
        """Read it beside a model. Raises UsageError where it is missing."""
        path = directory / FILE
        if not path.is_file():
            raise UsageError(f"{path} is missing", hint="the run directory is incomplete: compile the model again")
        cpu, dims, ports = "", {}, {"input": list[Port](), "output": list[Port]()}
        for line in path.read_text().splitlines():
            kind, *words = line.split(" ")
            if kind == "cpu":
                cpu = words[0]
            elif kind == "dim":
                dims[words[0]] = (int(words[1]), None if words[2] == "-" else int(words[2]))
            else:
                rank = int(words[1])
                ports[kind].append(Port(" ".join(words[2 + rank :]), words[0], tuple(words[2 : 2 + rank])))
        return Interface(cpu, tuple(ports["input"]), tuple(ports["output"]), dims)

    def bind(self, named: Mapping[str, Array]) -> list[Array]:
        """Inputs in order, contiguous. Raises UsageError that lists every wrong name, dtype, rank, size and bound."""
        wrong = [f"input {p.name} is missing" for p in self.inputs if p.name not in named]
        names = [p.name for p in self.inputs]
        wrong += [f"there is no input {name!r}, {nearest(name, names)}" for name in named if name not in names]
        sizes: dict[str, int] = {}
        for port in self.inputs:
            if port.name in named:
                wrong += _problems(port, named[port.name], sizes)
        for name, size in sizes.items():
            lower, upper = self.dims.get(name, (0, None))
            if size < lower or (upper is not None and size > upper):
                wrong.append(f"dimension {name} is {size}, want {lower}..{'' if upper is None else upper}")
        if wrong:
            raise UsageError("the inputs do not fit the model: " + "; ".join(wrong), hint="it takes " + "; ".join(map(str, self.inputs)))
        return [np.require(named[name], requirements="C") for name in names]

    def name_outputs(self, arrays: Sequence[Array]) -> dict[str, Array]:
        """Outputs by name. Raises ContractError where the runtime gave another number of them."""
        if len(arrays) != len(self.outputs):
            raise ContractError(f"the runtime gave {len(arrays)} outputs, the program has {len(self.outputs)}")
        return {port.name: array for port, array in zip(self.outputs, arrays, strict=True)}


def _port(spec: TensorSpec) -> Port:
    return Port(spec.name, str(spec.dtype).removeprefix("torch."), tuple(_size(s) for s in spec.shape))


def _size(size: int | str) -> str:
    """A size as it stands in the file; what is not affine in one dimension is left to the runtime's own check."""
    text = str(size).replace(" ", "")
    return text if text.isdigit() or _AFFINE.fullmatch(text) else "?"


def _problems(port: Port, array: Array, sizes: dict[str, int]) -> list[str]:
    if array.dtype.name != port.dtype:
        return [f"{port.name} is {array.dtype.name}, want {port.dtype}"]
    if array.ndim != len(port.sizes):
        return [f"{port.name} has shape {list(array.shape)}, want {port}"]
    wrong = []
    for axis, (want, found) in enumerate(zip(port.sizes, array.shape, strict=True)):
        affine = _AFFINE.fullmatch(want)
        fits = want in ("?", str(found))
        if affine:
            scale, offset = int(affine["scale"] or 1), int(affine["offset"] or 0)
            value, rest = divmod(found - offset, scale)
            fits = not rest and sizes.setdefault(affine["dim"], value) == value
            want = f"{want} with {affine['dim']}={sizes[affine['dim']]}" if not fits and not rest else want
        if not fits:
            wrong.append(f"{port.name} has size {found} at axis {axis}, want {want}")
    return wrong
