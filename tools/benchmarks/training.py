"""`tools/bench.py training`: ResNet-20 on CIFAR-10 with 4-bit weights and 8-bit activations, before and after training.

Calibration and training see the 10,000 training images alone; the accuracy is on the 2,000 test images, of the program that is
lowered and of the artifact on this machine's runtime. `calibration`, `batches` and `accuracy` are what the command line names.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
BATCH = 100
#: Options of train-fake-quant; None for calibration alone.
RUNS = {
    "calibrated": None,
    "trained": "learn_scales=false",
    "trained, scales learned": "",
    "taught by the float model": "learn_scales=false,teacher='kl'",
    "taught, scales learned": "teacher='kl'",
}


@cache
def images(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    sys.path.insert(0, str(DATA))
    import resnet_cifar

    x, y = resnet_cifar.images(DATA / f"cifar10_{name}.npz")
    return x, y


def calibration() -> list[torch.Tensor]:
    x, _ = images("train_10000")
    return [image[None] for image in x[:256]]


def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch: shuffled, half of the images mirrored, all moved by up to 4 pixels. He et al. 2016, section 4.2."""
    x, y = images("train_10000")
    for chosen in torch.randperm(len(x)).split(BATCH):
        batch = torch.where(torch.rand(len(chosen), 1, 1, 1) < 0.5, x[chosen].flip(3), x[chosen])
        padded = functional.pad(batch, (4, 4, 4, 4))
        corners = torch.randint(0, 9, (len(chosen), 2)).tolist()
        yield torch.stack([p[:, r : r + 32, c : c + 32] for p, (r, c) in zip(padded, corners, strict=True)]), y[chosen]


def accuracy(program: Any) -> float:
    x, y = images("test_2000")
    right = sum(int((program(a)[0].argmax(1) == b).sum()) for a, b in zip(x.split(100), y.split(100), strict=True))
    return 100 * right / len(y)


def table(epochs: int, target: str = "x86_cpu") -> None:
    """Print the command and a line a run: accuracy in percent of the program and of the artifact, and minutes."""
    print(f"{'w4a8':28}{'program':>10}{'artifact':>10}{'minutes':>9}", flush=True)
    for name, options in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            report = _compile(Path(folder) / "out", target, epochs, options)
            minutes = (time.perf_counter() - began) / 60
            evaluated = report["evaluation"]
            print(f"{name:28}{evaluated['compiled']:10.2f}{_artifact(Path(folder) / 'out'):10.2f}{minutes:9.1f}", flush=True)
    print(f"{'float':28}{evaluated['original']:10.2f}")


def _compile(output: Path, target: str, epochs: int, options: str | None) -> dict[str, Any]:
    model = [f"{DATA}/resnet20_cifar.pt", "--model", f"{DATA}/resnet_cifar.py:resnet20", "--input", "x:f32[1,3,32,32]"]
    own = f"{Path(__file__)}"
    command = [sys.executable, "-m", "edgecc", "compile", *model, "--target", target, "-o", str(output), "--quant", "w4a8"]
    command += ["--calibration", f"{own}:calibration", "--eval", f"{own}:accuracy", "-q"]
    if options is not None:
        given = ",".join(filter(None, [f"epochs={epochs}", options]))
        command += ["--qat", f"{own}:batches", "--quant-with", f"train-fake-quant{{{given}}}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-3000:]}")
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report


def _artifact(output: Path) -> float:
    """Accuracy on the first runtime of this machine that emulates nothing."""
    import edgecc

    x, y = images("test_2000")
    runner = next(r for r in edgecc.runners(output) if not r.emulated)
    got = np.concatenate([next(iter(o.values())) for o in runner.run_many([{"x": image[None].numpy()} for image in x])])
    return 100 * float(np.mean(got.argmax(1) == y.numpy()))
