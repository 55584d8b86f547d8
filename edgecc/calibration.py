"""Calibration: inputs of the kind that a model will see, from files, from a function, or from any iterable, one sample at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgecc.errors import EdgeccError, UsageError
from edgecc.ir.program import Program
from edgecc.ir.signature import Signature, TensorSpec
from edgecc.pipeline.context import Sample
from edgecc.reference import read_arrays, to_tensor

#: How many rows of a file make one sample where the first dimension is dynamic.
BATCH = 32


@dataclass(frozen=True)
class CalibrationSet:
    """Samples that fit a signature; each iteration goes through `source()` anew. `origin` is what errors call it."""

    source: Callable[[], Iterable[Any]]
    signature: Signature
    origin: str = "the calibration data"

    def __iter__(self) -> Iterator[Sample]:
        """Raises UsageError for an item that does not fit, with its number, and for what the user's code raises."""
        try:
            items = iter(self.source())
        except EdgeccError:
            raise
        except Exception as error:  # the user's function may raise anything
            raise UsageError(f"{self.origin} failed: {type(error).__name__}: {error}") from error
        index = 0
        while True:
            try:
                item = next(items)
            except StopIteration:
                return
            except EdgeccError:
                raise
            except Exception as error:  # as above
                raise UsageError(f"{self.origin} failed at sample {index}: {type(error).__name__}: {error}") from error
            yield self._bound(item, index)
            index += 1

    def _bound(self, item: Any, index: int) -> Sample:
        specs = {s.name: s for s in self.signature.inputs}
        try:
            if isinstance(item, Mapping):
                found = self.signature.bind({str(k): _tensor(v, specs.get(str(k))) for k, v in item.items()})
            else:
                values = item if isinstance(item, (tuple, list)) else (item,)
                found = tuple(_tensor(v, s) for v, s in zip_longest(values, self.signature.inputs[: len(values)]))
                self.signature.check(found)
            _check_numbers(found, self.signature)
        except UsageError as error:
            raise UsageError(f"{self.origin}, sample {index}: {error.message}", hint=error.hint) from error
        return found


def _check_numbers(sample: Sample, signature: Signature) -> None:
    """Infinite numbers are left: masks have them."""
    for tensor, spec in zip(sample, signature.inputs, strict=True):
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise UsageError(f"{spec.name} holds NaN")


def _tensor(value: Any, spec: TensorSpec | None) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    return to_tensor(np.asarray(value), spec)


def of(data: Iterable[Any], signature: Signature) -> CalibrationSet:
    """Of an iterable of dicts by input name, tuples in the order of the inputs, or single arrays. A generator is kept as a list."""
    kept = list(data) if iter(data) is data else data
    return CalibrationSet(lambda: kept, signature)


def from_files(path: Path, signature: Signature) -> CalibrationSet:
    """Of an `.npz` with an array for each input, samples along the first axis, or of all such files of a folder, by name.

    Raises UsageError where there is no file; what is wrong in one is found when it is read.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise UsageError(f"{path} holds no .npz file", hint="numpy.savez(file, x=x) writes one")

    def source() -> Iterator[dict[str, Any]]:
        for file in files:
            yield from _samples(file, signature)

    return CalibrationSet(source, signature, str(path))


def _samples(file: Path, signature: Signature) -> Iterator[dict[str, Any]]:
    """Samples of one file. An array has one axis more than its input, or rows that are split among samples."""
    arrays = {k.removeprefix("input/"): a for k, a in read_arrays(file).items() if not k.startswith("output/")}
    specs = {s.name: s for s in signature.inputs}
    if set(arrays) != set(specs):
        yield dict(arrays)  # binding it says what is missing
        return
    split = {name: _split(array, specs[name], signature, file) for name, array in arrays.items()}
    counts = {name: len(parts) for name, parts in split.items()}
    if len(set(counts.values())) > 1:
        raise UsageError(f"{file}: the arrays hold different numbers of samples: {counts}")
    for index in range(min(counts.values(), default=0)):
        yield {name: parts[index] for name, parts in split.items()}


def _split(array: np.ndarray[Any, Any], spec: TensorSpec, signature: Signature, file: Path) -> list[np.ndarray[Any, Any]]:
    rank = len(spec.shape)
    if array.ndim == rank + 1:
        return list(array)
    if array.ndim != rank or not rank:
        raise UsageError(f"{file}: {spec.name} has shape {list(array.shape)}, want samples of {spec} along a first axis")
    size, dims = spec.shape[0], {d.name: d for d in signature.dims}
    if isinstance(size, str):
        dim = dims.get(size)
        step = min(BATCH, dim.upper or BATCH) if dim else BATCH
        parts = [array[i : i + step] for i in range(0, len(array), step)]
        least = dim.lower if dim else 1
        return [p for p in parts if len(p) >= least] or parts
    if size == 0 or len(array) % size:
        raise UsageError(f"{file}: {spec.name} has {len(array)} rows, want a multiple of {size}: the model takes {spec}")
    return [array[i : i + size] for i in range(0, len(array), size)]


def evaluation(function: Callable[[Program], Any], origin: str) -> Callable[[Program], float]:
    """The user's evaluation: what it raises, and what is no finite number, becomes a UsageError."""

    def evaluate(program: Program) -> float:
        program.recompile()
        try:
            found = float(function(program))
        except Exception as error:  # the user's function may raise anything
            raise UsageError(f"the evaluation {origin} failed: {type(error).__name__}: {error}") from error
        if not math.isfinite(found):
            raise UsageError(f"the evaluation {origin} gave {found}, want a finite number, higher for better")
        return found

    return evaluate
