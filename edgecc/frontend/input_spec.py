"""Input specs: `--input x:f32[1,3,224,224]`, `ids:i64[batch=1..8,seq]` or `x=FILE.npy`, parsed, printed and made tensors.

    spec  = NAME ":" DTYPE "[" [ dim { "," dim } ] "]"  |  NAME "=" FILE [ ":" MEMBER ]
    dim   = INT  |  NAME [ "=" [ INT ] ".." [ INT ] ]

A name in place of a number is a dynamic dimension with inclusive bounds. The same name is the same size in all specs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from edgecc.errors import UsageError
from edgecc.frontend.reason import reason
from edgecc.ir.dtypes import dtype_name, dtype_of
from edgecc.ir.signature import Dim

_EXAMPLE = "write for example 'x:f32[1,3,224,224]', 'ids:i64[batch=1..8,seq=1..512]' or 'x=FILE.npy'"
_NAME = re.compile(r"[A-Za-z_]\w*")
_DIM = re.compile(r"(?P<size>\d+)\Z|(?P<name>[A-Za-z_]\w*)(=(?P<lower>\d*)\.\.(?P<upper>\d*))?\Z")


@dataclass(frozen=True)
class InputSpec:
    """One input by its flat name: dtype and shape, or a file of values. A dimension is an int or a `Dim`."""

    name: str
    dtype: torch.dtype = torch.float32
    shape: tuple[int | Dim, ...] = ()
    file: Path | None = None
    member: str = ""

    def __str__(self) -> str:
        if self.file is not None:
            return f"{self.name}={self.file}" + (f":{self.member}" if self.member else "")
        return f"{self.name}:{dtype_name(self.dtype)}[{','.join(map(_dim_text, self.shape))}]"

    @property
    def dims(self) -> dict[int, Dim]:
        """The dynamic axes."""
        return {axis: d for axis, d in enumerate(self.shape) if isinstance(d, Dim)}


def parse_input(text: str) -> InputSpec:
    """Parse one spec. Raises UsageError with the position of the first character that does not fit."""
    name = _NAME.match(text)
    if not name:
        raise _wrong(text, 0, "a name")
    rest = text[name.end() :]
    if rest.startswith("="):
        return _parse_file(text, name.group(), rest[1:])
    if not rest.startswith(":"):
        raise _wrong(text, name.end(), "':' and a dtype, or '=' and a file")
    dtype, bracket, shape = rest[1:].partition("[")
    try:
        parsed = dtype_of(dtype.strip())
    except UsageError as error:
        raise UsageError(f"input {text!r}: {error.message}", hint=error.hint) from error
    start = name.end() + 1 + len(dtype)
    if not bracket:
        raise _wrong(text, start, "'[' and the shape, '[]' for a scalar")
    if not shape.endswith("]"):
        raise _wrong(text, len(text), "']' at the end")
    return InputSpec(name.group(), parsed, _parse_shape(text, shape[:-1], start + 1))


def parse_inputs(texts: Sequence[str]) -> tuple[InputSpec, ...]:
    """Parse the values of several `--input` flags.

    A dimension takes its bounds from the spec that states them. Raises UsageError for an input given twice, and for
    a dimension with two different bounds.
    """
    specs = [parse_input(t) for t in texts]
    names = [s.name for s in specs]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise UsageError(f"input {twice!r} is given twice")
    bounds: dict[str, Dim] = {}
    for dim in (d for s in specs for d in s.dims.values()):
        known = bounds.get(dim.name)
        if known is None or _is_unbounded(known):
            bounds[dim.name] = dim
        elif not _is_unbounded(dim) and dim != known:
            raise UsageError(f"dimension {dim.name!r} has two different bounds, {known} and {dim}", hint="give the bounds once")
    return tuple(replace(s, shape=tuple(bounds[d.name] if isinstance(d, Dim) else d for d in s.shape)) for s in specs)


def example_sizes(specs: Sequence[InputSpec]) -> dict[str, int]:
    """A size to trace with for each dynamic dimension.

    torch.export fixes a dimension of size 0 or 1, and merges two of one size: sizes are at least 2 and differ where
    the bounds allow it. Raises UsageError for a dimension that cannot be dynamic.
    """
    sizes: dict[str, int] = {}
    fixed = {d for s in specs for d in s.shape if isinstance(d, int)}
    for dim in {d.name: d for s in specs for d in s.dims.values()}.values():
        upper = dim.upper if dim.upper is not None else max(dim.lower, 2) + 64
        allowed = range(max(dim.lower, 2), upper + 1)
        if not allowed:
            raise UsageError(f"dimension {dim} cannot be dynamic: it takes no size above 1", hint=f"write {dim.lower} instead")
        taken = set(sizes.values())
        apart = (n for n in allowed if n not in taken and n not in fixed)
        sizes[dim.name] = next(apart, next((n for n in allowed if n not in taken), allowed[0]))
    return sizes


def example_tensor(spec: InputSpec, sizes: Mapping[str, int], seed: int) -> torch.Tensor:
    """Values to trace with: those of the file, else standard normal floats from `seed`, else ones (valid ids and masks)."""
    if spec.file is not None:
        return _read(spec)
    shape = [sizes[d.name] if isinstance(d, Dim) else d for d in spec.shape]
    try:
        if spec.dtype.is_floating_point or spec.dtype.is_complex:
            draw_dtype = torch.complex64 if spec.dtype.is_complex else torch.float32
            return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=draw_dtype).to(spec.dtype)
        return torch.ones(shape, dtype=spec.dtype)
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:  # torch has no error of its own for what is too large
        raise UsageError(f"input {spec} cannot be made: {reason(error)}", hint="are these the sizes that were meant?") from error


def _dim_text(dim: int | Dim) -> str:
    return str(dim) if isinstance(dim, int) else dim.name if _is_unbounded(dim) else str(dim)


def _is_unbounded(dim: Dim) -> bool:
    return dim.lower == 1 and dim.upper is None


def _parse_file(text: str, name: str, rest: str) -> InputSpec:
    if not rest:
        raise _wrong(text, len(text), "a file")
    file, _, member = rest.partition(".npz:")
    path = f"{file}.npz" if member else rest
    if Path(path).suffix not in (".npy", ".npz"):
        raise UsageError(f"input {text!r} names {path}, which is neither .npy nor .npz", hint=_EXAMPLE)
    return InputSpec(name, file=Path(path), member=member)


def _parse_shape(text: str, body: str, start: int) -> tuple[int | Dim, ...]:
    if not body.strip():
        return ()
    shape: list[int | Dim] = []
    position = start
    for part in body.split(","):
        match = _DIM.match(part.strip())
        if not match:
            raise _wrong(text, position, "a size, a name, or a name with bounds as in 'seq=1..512'")
        shape.append(int(match["size"]) if match["size"] else _parse_dim(text, match))
        position += len(part) + 1
    return tuple(shape)


def _parse_dim(text: str, match: re.Match[str]) -> Dim:
    dim = Dim(match["name"], int(match["lower"] or 1), int(match["upper"]) if match["upper"] else None)
    if dim.upper is not None and dim.upper < max(dim.lower, 1):
        wrong = "are the wrong way round" if dim.upper else "allow no size above 0"
        raise UsageError(f"input {text!r}: the bounds of {dim} {wrong}", hint=_EXAMPLE)
    return dim


def _read(spec: InputSpec) -> torch.Tensor:
    import numpy as np

    assert spec.file is not None
    try:
        loaded = np.load(spec.file, allow_pickle=False)
        members = list(getattr(loaded, "files", []))
        key = spec.member or (spec.name if spec.name in members else members[0] if len(members) == 1 else "")
        if members and key not in members:
            raise UsageError(
                f"{spec.file} holds {', '.join(members)}, not {key or spec.name}", hint=f"write {spec.name}={spec.file}:{members[0]}"
            )
        return torch.from_numpy(np.ascontiguousarray(loaded[key] if members else loaded))
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise UsageError(f"input {spec} cannot be read: {error}", hint="write it with numpy.save, without object arrays") from error


def _wrong(text: str, position: int, wanted: str) -> UsageError:
    return UsageError(f"input {text!r} is wrong at character {position + 1}: want {wanted}\n  {text}\n  {' ' * position}^", hint=_EXAMPLE)
