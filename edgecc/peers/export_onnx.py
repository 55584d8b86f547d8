"""`python -m edgecc.peers.export_onnx PROGRAM.pt2 MODEL.onnx`: write a program as ONNX with PyTorch's own exporter."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

from edgecc.ir import archive


def main(words: list[str]) -> int:
    program, file = map(Path, words)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(archive.export(archive.load(program)), f=file, dynamo=True, external_data=False, verbose=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
