"""Time a compiled model in the TVM virtual machine: `python -m edgecc.targets.tvm_cpu.measure.time_vm MODEL.so -t THREADS CASE`."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgecc.targeting.timing import serve
from edgecc.targets.tvm_cpu.run_vm import aligned, load_model


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("-t", dest="threads", type=int, required=True)
    parser.add_argument("case", type=Path)
    parsed = parser.parse_args(words)

    def load() -> Callable[[], object]:
        model = load_model(parsed.model, parsed.threads)
        files = itertools.takewhile(Path.is_file, (parsed.case / f"input{i}.npy" for i in itertools.count()))
        inputs = [aligned(np.load(file)) for file in files]
        return lambda: model(*inputs)

    return serve(load)


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi imports it where it can, for nothing here
    sys.exit(main(sys.argv[1:]))
