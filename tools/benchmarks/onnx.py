"""`tools/bench.py onnx`: what edgecc writes beside what torch.onnx.export(dynamo=True) writes of the same MiniLM, in one run, and the
memory that lowering a large language model takes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPSET = 20
ROWS, LENGTH = 1, 128  # of the inputs that are timed
WEIGHT_BYTES = {"float16": 2, "float32": 4}


def table(model: Path, seconds: float) -> None:
    """Print, for static and dynamic sizes, seconds, nodes, bytes and latency of both files.

    `lowered`: from edgecc's program, and from the ExportedProgram, to the file; `in all`: from the module, with tracing and passes.
    """
    for name in ("torch", "onnxscript"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    print(f"MiniLM, opset {OPSET}, one thread; latency at {ROWS} x {LENGTH}, p50 of runs in turns")
    print(f"{'sizes':9}{'':8}{'lowered s':>10}{'ratio':>7}{'in all s':>10}{'ratio':>7}{'nodes':>7}{'MiB':>8}{'ms':>9}")
    with tempfile.TemporaryDirectory() as folder:
        _export(*_minilm(model, dynamic=False), Path(folder))  # imports, once for all
    for dynamic in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            places = Path(folder, "edgecc"), Path(folder, "torch")
            for place in places:
                place.mkdir()
            module, inputs, shapes = _minilm(model, dynamic=dynamic)
            spent = _compile(module, inputs, places[0], dynamic=dynamic), _export(module, inputs, shapes, places[1])
            latency = _in_turns([place / "model.onnx" for place in places], seconds)
            for place, (lowered, whole), milliseconds in zip(places, spent, latency, strict=True):
                size = sum(f.stat().st_size for f in place.iterdir()) / 2**20
                ratios = f"{lowered / spent[0][0]:.1f}x", f"{whole / spent[0][1]:.1f}x"
                label = ("dynamic" if dynamic else "static") if place is places[0] else ""
                times = f"{lowered:10.2f}{ratios[0]:>7}{whole:10.2f}{ratios[1]:>7}"
                print(f"{label:9}{place.name:8}{times}{_nodes(place):7}{size:8.1f}{milliseconds:9.2f}", flush=True)


def memory(dtype: str) -> None:
    """Print the peak resident memory while a Llama of random weights becomes a file. Run it in a process of its own."""
    import torch

    print(f"resident {_status('VmRSS') / 2**30:.2f} GiB with torch alone", flush=True)
    program = _llama(getattr(torch, dtype))
    weights = sum(t.numel() * t.element_size() for t in program.weights().values())
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building and tracing
    before = _status("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        spent = _seconds(lambda: _lower(program, Path(folder)))
        written, nodes = sum(f.stat().st_size for f in Path(folder).iterdir()), _nodes(Path(folder))
    peak = _status("VmHWM")
    print(f"Llama of {weights / WEIGHT_BYTES[dtype] / 1e9:.2f} B {dtype} parameters: {weights / 2**30:.2f} GiB of weights, {nodes} nodes")
    print(f"lowered and written in {spent:.1f} s, {written / 2**30:.2f} GiB of files")
    print(f"resident {before / 2**30:.2f} GiB before, {peak / 2**30:.2f} GiB at the peak: {peak / weights:.2f} x the weights")


def _minilm(place: Path, *, dynamic: bool) -> tuple[Any, dict[str, Any], Any]:
    """The module, its inputs by name, and the dynamic shapes as torch.export has them; two rows where the batch is dynamic."""
    import torch
    from transformers import AutoModel

    module = AutoModel.from_pretrained(place).eval()
    rows = 2 if dynamic else ROWS
    ids = torch.randint(1, 30000, (rows, LENGTH), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    axes = {0: torch.export.Dim("batch", min=1, max=4), 1: torch.export.Dim("seq", min=1, max=LENGTH)}
    return module, inputs, dict.fromkeys(inputs, axes) if dynamic else None


def _compile(module: Any, inputs: dict[str, Any], place: Path, *, dynamic: bool) -> tuple[float, float]:
    """Seconds of the lowering and in all."""
    from edgecc.ir.signature import Dim

    axes = {0: Dim("batch", 1, 4), 1: Dim("seq", 1, LENGTH)}
    began = time.perf_counter()
    program = _traced(module, inputs, dict.fromkeys(inputs, axes) if dynamic else None)
    lowered = _seconds(lambda: _lower(program, place))
    return lowered, time.perf_counter() - began


def _traced(module: Any, inputs: dict[str, Any], dims: Any) -> Any:
    """The program after the target's passes."""
    from edgecc.ir import capture
    from edgecc.pipeline import manager
    from edgecc.pipeline.context import PassContext
    from edgecc.pipeline.spec import parse
    from edgecc.registry import Registry

    registry = Registry.create()
    program = capture.trace(module, (), inputs, dims=dims)
    manager.run(parse(registry.create_target("onnxruntime", {}).pipeline(), registry.passes), program, PassContext(), [])
    return program


def _lower(program: Any, place: Path) -> None:
    from edgecc.targets.onnx_common.lowering import lower
    from edgecc.targets.onnx_common.write import write

    write(lower(program, OPSET), place)


def _export(module: Any, inputs: dict[str, Any], shapes: Any, place: Path) -> tuple[float, float]:
    """Seconds of PyTorch's exporter from an ExportedProgram, and in all."""
    import torch

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        began = time.perf_counter()
        exported = torch.export.export(module, (), inputs, dynamic_shapes=shapes)
        options: dict[str, Any] = {"dynamo": True, "opset_version": OPSET, "external_data": True, "verbose": False}
        file = place / "model.onnx"
        lowered = _seconds(lambda: torch.onnx.export(exported, (), file, kwargs=inputs, dynamic_shapes=shapes, **options))
        return lowered, time.perf_counter() - began


def _in_turns(files: list[Path], seconds: float) -> list[float]:
    """Median milliseconds of each file in ONNX Runtime, one run of each after the other."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    sessions = [onnxruntime.InferenceSession(str(f), options, providers=["CPUExecutionProvider"]) for f in files]
    ids = np.random.default_rng(0).integers(1, 30000, (ROWS, LENGTH))
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    found: list[list[float]] = [[] for _ in files]
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(found[0]) < 5:
        for session, times in zip(sessions, found, strict=True):
            times.append(1000 * _seconds(lambda s=session: s.run(None, given)))
    return [statistics.median(times[2:]) for times in found]


def _llama(dtype: Any) -> Any:
    import torch

    from tools.benchmarks.llama import VOCABULARY, llama

    ids = torch.randint(0, VOCABULARY, (1, 16), generator=torch.Generator().manual_seed(0))
    return _traced(llama(dtype), {"input_ids": ids}, None)


def _nodes(place: Path) -> int:
    import onnx

    return len(onnx.load(place / "model.onnx", load_external_data=False).graph.node)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=memory.__doc__)
    parser.add_argument("dtype", choices=sorted(WEIGHT_BYTES))
    memory(parser.parse_args().dtype)
