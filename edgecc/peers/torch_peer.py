"""PyTorch eager on the program of a `.pt2`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from edgecc.ir import archive
from edgecc.peers import parse
from edgecc.targeting.timing import serve


def main(words: list[str]) -> int:
    given = parse(words)
    torch.set_num_threads(given.threads)

    def load() -> Callable[[], object]:
        program = archive.load(given.model)
        inputs = [torch.from_numpy(array) for array in given.inputs]
        return lambda: program(*inputs)

    return serve(load)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
