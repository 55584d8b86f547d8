"""Load a directory lazily, rewrite and run it; print by how many MiB the peak of memory grew beyond what the imports took."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, LlamaForCausalLM

from edgecc.frontend.load import load
from edgecc.pipeline import manager
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.spec import parse
from edgecc.registry import Registry


def peak() -> float:
    """Of this process alone: `ru_maxrss` would start at the memory of the parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main(directory: str, pipeline: str) -> None:
    torch.set_num_threads(1)
    passes = Registry.create().passes
    assert AutoConfig and LlamaForCausalLM
    before, grown = peak(), {}
    program = load(directory, lazy=True).program
    grown["loaded"] = peak() - before
    manager.run(parse(pipeline, passes), program, PassContext())
    grown["rewritten"] = peak() - before
    program(*program.examples)
    grown["run"] = peak() - before
    sys.stdout.write(json.dumps(grown) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
