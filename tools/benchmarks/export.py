"""Write a benchmark model for the peers: `export.py {onnx,executorch} FOLDER NAME...` in the peers' own environment.

FOLDER/NAME.onnx or FOLDER/NAME.pte, the inputs as NAME.npz and NAME.inputs (executorch_runner.cc), PyTorch's output as NAME.npy.
"""

from __future__ import annotations

import struct
import sys
import warnings
from pathlib import Path

import models
import numpy as np
import torch


def main() -> None:
    warnings.simplefilter("ignore")
    runtime, folder, *names = sys.argv[1:]
    for name in names:
        model, inputs = models.build(name)
        write_inputs(Path(folder) / name, inputs)
        with torch.no_grad():
            np.save(Path(folder) / f"{name}.npy", model(*inputs).numpy())
        {"onnx": write_onnx, "executorch": write_executorch}[runtime](model, inputs, Path(folder) / name)


def write_inputs(stem: Path, inputs: tuple[torch.Tensor, ...]) -> None:
    np.savez(stem.with_suffix(".npz"), *(t.numpy() for t in inputs))
    with stem.with_suffix(".inputs").open("wb") as file:
        file.write(struct.pack("i", len(inputs)))
        for tensor in inputs:
            file.write(struct.pack(f"{2 + tensor.ndim}i", not tensor.is_floating_point(), tensor.ndim, *tensor.shape))
            file.write(tensor.numpy().tobytes())


def write_onnx(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], stem: Path) -> None:
    torch.onnx.export(model, inputs, stem.with_suffix(".onnx"), dynamo=True, external_data=False, verbose=False)


def write_executorch(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], stem: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = to_edge_transform_and_lower(torch.export.export(model, inputs), partitioner=[XnnpackPartitioner()])
    stem.with_suffix(".pte").write_bytes(program.to_executorch().buffer)


if __name__ == "__main__":
    main()
