"""The same input gives the same bytes: in two fresh processes, with one and with two threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import ROOT

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.mix = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 64)
        self.attend = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x):
        y = self.mix(self.norm(self.conv(x)).relu().flatten(2).transpose(1, 2))
        return {"attended": self.attend(y, y, y)[0], "pooled": y.mean(1)}

def build():
    torch.manual_seed(0)
    return Net(), (torch.randn(2, 3, 16, 16),)
"""


@pytest.mark.slow
def test_two_processes_with_other_threads_and_hash_seeds_write_the_same_bytes(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    found = []
    for run, threads in (("a", "1"), ("b", "2")):
        command = [
            "compile",
            "net.py:build",
            "--input",
            "x:f32[batch=1..4,3,16,16]",
            "--target",
            "arm_cpu",
            "-o",
            f"{run}/out",
            "--dump-ir",
            "-q",
            "--threads",
            threads,
        ]
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": str(ord(run)),
            "HOME": str(tmp_path),
            "OMP_NUM_THREADS": threads,
        }
        subprocess.run([sys.executable, "-m", "edgecc", *command], cwd=tmp_path, env=environment, check=True)
        files = [p for p in (tmp_path / run / "out").rglob("*") if p.is_file() and p.name not in ("report.json", "remarks.jsonl")]
        found.append({p.relative_to(tmp_path / run): p.read_bytes() for p in files})
    assert {p.name for p in found[0]} >= {"model.so", "manifest.json", "00-trace.ir", "00-trace.pt2", "recipe.toml"}
    assert [p for p in found[0] if found[0][p] != found[1].get(p)] == []
    assert found[0].keys() == found[1].keys()
