"""Other runtimes on the same program, each started as `python -m edgecc.peers.NAME MODEL -t THREADS CASE` and timed by its parent."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Arguments:
    """`inputs`: the arrays of CASE/input0.npy, ... in the order of the model's inputs."""

    model: Path
    threads: int
    inputs: list[np.ndarray[Any, Any]]


def parse(words: list[str]) -> Arguments:
    """The arguments that every peer takes, the case read."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("-t", dest="threads", type=int, required=True)
    parser.add_argument("case", type=Path)
    parsed = parser.parse_args(words)
    files = (parsed.case / f"input{i}.npy" for i in itertools.count())
    return Arguments(parsed.model, parsed.threads, [np.load(file) for file in itertools.takewhile(Path.is_file, files)])
