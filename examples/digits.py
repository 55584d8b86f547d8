"""Train a small CNN on scikit-learn's digits, compile it for an ARM CPU, and compare the artifact with PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import edgecc


class DigitNet(nn.Module):
    """x f32 [batch, 1, 8, 8] with values 0 to 1 -> logits f32 [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.classify = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.gelu(self.norm2(self.conv2(x)))
        return self.classify(x.mean((2, 3)))


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images f32 [n, 1, 8, 8] and labels i64 [n], the first 1,437 to train with and the last 360 to test with."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    return x[:1437], y[:1437], x[1437:], y[1437:]


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 15) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


def main(output: Path) -> None:
    torch.manual_seed(0)
    train_x, train_y, test_x, test_y = digits()
    model = DigitNet()
    train(model, train_x, train_y)
    model.eval()

    batch = edgecc.Dim("batch", 1, 512)
    result = edgecc.compile(model, test_x[:2], target="arm_cpu", dims={"x": {0: batch}}, output=output, overwrite=True)

    with torch.no_grad():
        want = model(test_x).numpy()
    report = result.report.as_dict()
    print(f"weights in PyTorch   {report['size_bytes']['original_weights']:>9,} bytes")
    print(f"model.so             {report['size_bytes']['model']:>9,} bytes")
    print(f"accuracy in PyTorch  {np.mean(want.argmax(1) == test_y.numpy()):9.2%}")
    for runner in edgecc.runners(output):
        got = runner.run({"x": test_x.numpy()})["output"]
        accuracy, error = np.mean(got.argmax(1) == test_y.numpy()), np.abs(got - want).max()
        print(f"accuracy of artifact {accuracy:9.2%}   largest error {error:.1e}   on {runner.runtime}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "digits-arm"))
