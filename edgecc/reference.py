"""References: seeded inputs and the original model's outputs, stored beside the artifact and compared with it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgecc.errors import UsageError
from edgecc.ir.signature import Signature, TensorSpec
from edgecc.pipeline.context import Sample
from edgecc.pipeline.numerics import Distance, compare
from edgecc.targeting.base import Arrays, Runner

Outputs = tuple[torch.Tensor, ...]


def write(directory: Path, names: tuple[Sequence[str], Sequence[str]], samples: Sequence[Sample], outputs: Sequence[Outputs]) -> None:
    """Write `case-NN.npz` files; `names` are those of the inputs and of the outputs.

    Keys are `input/NAME` and `output/NAME`. bfloat16, which numpy lacks, is stored as float32.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for index, (sample, result) in enumerate(zip(samples, outputs, strict=True)):
        arrays = {f"input/{n}": to_numpy(t) for n, t in zip(names[0], sample, strict=True)}
        arrays |= {f"output/{n}": to_numpy(t) for n, t in zip(names[1], result, strict=True)}
        np.savez(directory / f"case-{index:02d}.npz", **arrays)  # type: ignore[arg-type]


def read(directory: Path) -> list[tuple[Arrays, Arrays]]:
    """Inputs and outputs by name of every stored case. Raises UsageError where there is none or one is damaged."""
    cases = [read_case(path) for path in sorted(directory.glob("case-*.npz"))]
    if not cases:
        raise UsageError(f"{directory} holds no reference case")
    return cases


def read_case(path: Path) -> tuple[Arrays, Arrays]:
    """Inputs and outputs by name of one `.npz` file. Raises UsageError where it is damaged."""
    arrays = read_arrays(path)
    inputs, outputs = ({k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(side)} for side in ("input/", "output/"))
    return inputs, outputs


def read_arrays(path: Path) -> Arrays:
    """The arrays of an `.npz` by name. Raises UsageError where it is damaged or is none."""
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                raise UsageError(f"{path} holds one array without a name, want an .npz", hint="numpy.savez(file, x=x) writes one")
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def read_samples(path: Path, signature: Signature) -> list[Sample]:
    """Inputs from an `.npz` file with an array for each input, `NAME` or `input/NAME`, or from all files of a folder by name.

    Raises UsageError for a file that is damaged or does not fit the signature.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path} holds no .npz file", hint="numpy.savez(file, x=x) writes one")
    specs = {s.name: s for s in signature.inputs}
    samples = []
    for file in files:
        named = {k.removeprefix("input/"): array for k, array in read_arrays(file).items() if not k.startswith("output/")}
        try:
            samples.append(signature.bind({name: to_tensor(array, specs.get(name)) for name, array in named.items()}))
        except UsageError as error:
            raise UsageError(f"{file}: {error.message}", hint=error.hint) from error
    return samples


def run_cases(runner: Runner, cases: Sequence[tuple[Arrays, Arrays]]) -> Distance:
    """The worst distance of the artifact's outputs to the stored ones."""
    got = runner.run_many([inputs for inputs, _ in cases])
    return compare([_ordered(want, want) for _, want in cases], [_ordered(want, have) for (_, want), have in zip(cases, got, strict=True)])


def _ordered(want: Arrays, have: Mapping[str, np.ndarray[Any, Any]]) -> list[torch.Tensor]:
    missing = [name for name in want if name not in have]
    if missing:
        raise UsageError(f"the artifact gave no output {missing}; it gave {list(have)}")
    return [torch.from_numpy(np.ascontiguousarray(have[name])).reshape(have[name].shape) for name in want]


def to_tensor(array: np.ndarray[Any, Any], spec: TensorSpec | None) -> torch.Tensor:
    """The tensor of an array; float32 stands for bfloat16, which numpy lacks. Raises UsageError for a dtype that no tensor has."""
    try:
        tensor = torch.from_numpy(array)
    except TypeError as error:
        raise UsageError(f"an input has dtype {array.dtype}, which no model takes") from error
    return tensor.to(torch.bfloat16) if spec is not None and spec.dtype == torch.bfloat16 and tensor.dtype == torch.float32 else tensor


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    detached = tensor.detach().cpu().contiguous()
    array: np.ndarray[Any, Any] = (detached.float() if detached.dtype == torch.bfloat16 else detached).numpy()
    return array
