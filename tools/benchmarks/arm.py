"""`tools/bench.py arm`: what one inference of each model costs on aarch64, ours beside ONNX Runtime and ExecuTorch with XNNPACK.

Everything runs under the same emulator, one thread, float32. The peers' figures are measured once and kept beside them.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import models

TOOLS = Path(__file__).resolve().parents[1]
PEERS = ("onnxruntime", "executorch")
COLUMNS = ("instructions", "cortex-a72", "neoverse-n1", "l1_misses", "l2_misses")
_ROOTS = {"cortex-a72": "root", "neoverse-n1": "root-n1"}
_ENVIRONMENT = ("PYTHONHASHSEED=0", "OMP_NUM_THREADS=1", "PYTHONDONTWRITEBYTECODE=1")


def table(names: Sequence[str], cpu: str, *, fresh: bool) -> None:
    """Print a line a model and runtime: millions of instructions, of estimated cycles, of modelled misses; then the ratios.

    `cpu`: what is emulated, and what ours is compiled for. `fresh`: measure the peers again.
    """
    folder = Path(run([str(TOOLS / "peers")]).strip())
    print(f"-cpu {cpu}, float32, one thread, batch 1; millions. Best: the smaller of the two peers.\n")
    print(
        f"{'model':14}{'runtime':14}{'instructions':>13}{'a72 cycles':>12}{'n1 cycles':>12}{'L1 misses':>11}{'L2 misses':>11}{'max error':>11}"
    )
    ratios: dict[str, list[float]] = {column: [] for column in COLUMNS}
    for name in names:
        found = {peer: _kept(folder, peer, name, cpu, fresh) for peer in PEERS}
        for peer, figures in found.items():
            _line(name, peer, figures)
        ours = _ours(name, cpu)
        _line(name, "edgecc", ours)
        for column in COLUMNS:
            ratios[column].append(ours[column] / max(1.0, min(figures[column] for figures in found.values())))
        print(f"{'':14}{'ours / best':14}{ratios['instructions'][-1]:13.3f}{ratios['cortex-a72'][-1]:12.3f}{ratios['neoverse-n1'][-1]:12.3f}"
              f"{ratios['l1_misses'][-1]:11.2f}{ratios['l2_misses'][-1]:11.2f}", flush=True)  # fmt: skip
    for column in COLUMNS[:3]:
        mean = math.exp(sum(map(math.log, ratios[column])) / len(names))
        print(f"{column}: geometric mean of ours / best {mean:.3f}, worst {max(ratios[column]):.3f}")


def _line(name: str, runtime: str, figures: dict[str, Any]) -> None:
    millions = [figures[column] / 1e6 for column in COLUMNS]
    widths = (13, 12, 12, 11, 11)
    print(
        f"{name:14}{runtime:14}" + "".join(f"{n:{w}.3f}" for n, w in zip(millions, widths, strict=True)) + f"{figures['error']:11.1e}",
        flush=True,
    )


def _kept(folder: Path, peer: str, name: str, cpu: str, fresh: bool) -> dict[str, Any]:
    file = folder / "results" / cpu / f"{name}.{peer}.json"
    if fresh or not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_measure(folder, peer, name, cpu), indent=1))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _measure(folder: Path, peer: str, name: str, cpu: str) -> dict[str, Any]:
    """Export a model with the peer's own tools and count one inference of it."""
    from edgecc.targets.tvm_cpu.measure import benchmarks, counting

    made = folder / "models"
    made.mkdir(exist_ok=True)
    kind = {"onnxruntime": "onnx", "executorch": "executorch"}[peer]
    run([str(folder / "venv/bin/python"), str(TOOLS / "benchmarks/export.py"), kind, str(made), name])
    root = folder / _ROOTS[cpu]
    output = made / f"{name}.{peer}.npy"
    if peer == "onnxruntime":
        environment = [f"PYTHONPATH={folder}/site", f"PYTHONHOME={root}/usr"]
        command = [f"{root}/usr/bin/python3.11", str(TOOLS / "benchmarks/ort_runner.py"), f"{made}/{name}.onnx", f"{made}/{name}.npz"]
    else:
        environment = [f"LD_LIBRARY_PATH={folder}/executorch/executorch/lib"]
        command = [str(folder / "executorch_runner"), f"{made}/{name}.pte", f"{made}/{name}.inputs"]
    emulated = ["qemu-aarch64", "-L", str(root), "-cpu", cpu]
    for assignment in (*_ENVIRONMENT, *environment):
        emulated += ["-E", assignment]
    counts = counting.count(emulated, [*command, str(output), "1"])
    want = np.load(made / f"{name}.npy").ravel()
    got = np.load(output).ravel() if peer == "onnxruntime" else np.fromfile(output, np.float32)
    return _figures(benchmarks.describe(counts), benchmarks.estimates(counts, _ROOTS), float(np.abs(got - want).max()))


def _ours(name: str, cpu: str) -> dict[str, Any]:
    """Compile and verify a model as users do, and count one inference of its ARM binary."""
    with tempfile.TemporaryDirectory() as folder:
        source = f"{TOOLS}/benchmarks/models.py:{name}"
        edgecc = [sys.executable, "-m", "edgecc"]
        run([*edgecc, "compile", source, "--target", "arm_cpu", "--cpu", cpu, "-o", f"{folder}/out", "-q"])
        cost = json.loads(run([*edgecc, "bench", f"{folder}/out", "--vs", "none", "--seconds", "0.01", "--json", "-q"]))
        report = json.loads((Path(folder) / "out/report.json").read_text())
    return _figures(cost, cost, report["verify"]["max_abs"])


def _figures(cost: dict[str, Any], cycles: dict[str, Any], error: float) -> dict[str, Any]:
    if cycles.get("missing"):
        sys.exit("\n".join(cycles["missing"]))
    figures = {column: {**cost, **cycles["cycles"]}[column] for column in COLUMNS}
    return {**figures, "error": error, "kinds": cost["instructions_by_kind"]}


def run(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=TOOLS.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def names_of(wanted: Sequence[str]) -> Sequence[str]:
    """The models of these names; all where none is named. `tuned` and `held-out` stand for their lists."""
    groups = {"tuned": models.TUNED, "held-out": models.HELD_OUT}
    return [name for word in wanted or ("tuned", "held-out") for name in groups.get(word, (word,))]
