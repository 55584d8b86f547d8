"""`tools/bench.py x86`: milliseconds of each model on this machine, ours beside ONNX Runtime and PyTorch eager.

With one thread the runtimes take turns and their processor time is compared; with more, each is alone and the clock is.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.arm import TOOLS, run

PEERS = ("onnxruntime", "torch")
_CPUS = ("skylake-avx512", "x86-64-v3", "x86-64-v2")  # the peers choose their kernels when they run: ours are built for the best


def table(names: Sequence[str], threads: int, *, seconds: float) -> None:
    """Print a line a model: milliseconds of each runtime, and how many times as long as ours the peers take."""
    from edgecc.targets.tvm_cpu.machines import machine

    python = Path(run([str(TOOLS / "peers")]).strip()) / "venv/bin/python"
    key = "cpu_ms" if threads == 1 else "latency_ms"
    cpu = next(name for name in _CPUS if machine(name, "x86_64-linux-gnu").is_this_machine())
    print(f"{cpu}, {threads} thread{'s' * (threads > 1)}, p50 of {'processor time' if threads == 1 else 'latency'} in ms, float32, batch 1")
    print(f"{'model':14}{'edgecc':>10}{'onnxruntime':>13}{'torch':>10}{'ORT/ours':>10}{'torch/ours':>12}{'size':>10}", flush=True)
    ratios: dict[str, list[float]] = {peer: [] for peer in PEERS}
    for name in names:
        found = _bench(python, name, cpu, threads, seconds)
        ours, theirs = found[key]["p50"], [found["peers"][peer][key]["p50"] for peer in PEERS]
        for peer, milliseconds in zip(PEERS, theirs, strict=True):
            ratios[peer].append(milliseconds / ours)
        print(
            f"{name:14}{ours:10.3f}{theirs[0]:13.3f}{theirs[1]:10.3f}{theirs[0] / ours:10.3f}{theirs[1] / ours:12.3f}{found['size_bytes'] / 2**20:7.2f} MiB",
            flush=True,
        )
    for peer, found_ratios in ratios.items():
        mean = math.exp(sum(map(math.log, found_ratios)) / len(names))
        print(f"{peer} / ours: geometric mean {mean:.3f}, least {min(found_ratios):.3f}")


def _bench(python: Path, name: str, cpu: str, threads: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        edgecc = [str(python), "-m", "edgecc"]
        source = f"{TOOLS}/benchmarks/models.py:{name}"
        run([*edgecc, "compile", source, "--target", "x86_cpu", "--cpu", cpu, "-o", f"{folder}/out", "-q"])
        versus = [word for peer in PEERS for word in ("--vs", peer)]
        flags = ["--threads", str(threads), "--seconds", str(seconds), "--json", "-q"]
        document: dict[str, Any] = json.loads(run([*edgecc, "bench", f"{folder}/out", *versus, *flags]))
        return document
