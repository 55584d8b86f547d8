"""ONNX Runtime on an ONNX file, optimized when it is loaded, as its users do."""

from __future__ import annotations

import sys
from collections.abc import Callable

import onnxruntime

from edgecc.peers import parse
from edgecc.targeting.timing import serve


def main(words: list[str]) -> int:
    given = parse(words)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = given.threads, 1
    options.log_severity_level = 3  # errors only

    def load() -> Callable[[], object]:
        session = onnxruntime.InferenceSession(given.model, options, providers=["CPUExecutionProvider"])
        feeds = {port.name: array for port, array in zip(session.get_inputs(), given.inputs, strict=True)}
        return lambda: session.run(None, feeds)

    return serve(load)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
