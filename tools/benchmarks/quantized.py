"""`tools/bench.py quantized`: how far a quantized program in PyTorch is from itself, where float32 rounds otherwise, and from ONNX Runtime.

MiniLM on sentences of STS-B, mean pooled and normalized, and ResNet-20 on CIFAR-10; min-max scales at the inputs of what
multiplies by weights, from the first 64 sentences or images. Rounded otherwise: with oneDNN's kernels off; and with every float32 result
moved by one unit in the last place up, down or not at all.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx
from transformers import AutoModel, AutoTokenizer

from edgecc.ir import capture
from edgecc.ir.quantized import is_dequantize
from edgecc.registry import Registry
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner
from tests.targets.onnx import quantize_host as host

SENTENCES, BATCH, LENGTH = 512, 64, 48
Model = Callable[..., torch.Tensor]


class Moved(fx.Interpreter):
    """Every float32 result one unit in the last place up, down or as it is, at random."""

    def __init__(self, program: Any, seed: int) -> None:
        super().__init__(program.module)
        self._generator = torch.Generator().manual_seed(seed)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op != "call_function" or is_dequantize(n) or not isinstance(value, torch.Tensor) or value.dtype is not torch.float32:
            return value
        return value * (1 + torch.randint(-1, 2, value.shape, generator=self._generator) * 2.0**-23)


def compare(program: Any, evaluate: Callable[[Model], torch.Tensor], say: Callable[[torch.Tensor], str]) -> None:
    """Print how near each way to run the quantized program is to PyTorch's. evaluate(model) -> [rows, k]."""
    target = Registry.create().create_target("tensorrt", {})
    plain = host.optimized(program, target)
    quantized = plain.snapshot()
    host.quantize(quantized, *quantized.examples)
    host.optimized(quantized, target, "legalize: fold-constants, eliminate-common-subexpressions")
    want = evaluate(lambda *x: quantized(*x)[0])
    _line("float32 model", want, evaluate(lambda *x: plain(*x)[0]), say)
    torch.backends.mkldnn.enabled = False
    _line("PyTorch, oneDNN off", want, evaluate(lambda *x: quantized(*x)[0]), say)
    torch.backends.mkldnn.enabled = True
    for seed in range(2):
        _line(f"PyTorch, last places moved, {seed}", want, evaluate(lambda *x, s=seed: Moved(quantized, s).run(*x)[0]), say)  # type: ignore[misc]
    for name in ("tensorrt", "onnxruntime"):
        with tempfile.TemporaryDirectory() as folder:
            file = host.written(quantized, Registry.create().create_target(name, {}), Path(folder))
            runner = OnnxRuntimeRunner(file, 1)

        def run(*x: torch.Tensor, runner: OnnxRuntimeRunner = runner) -> torch.Tensor:
            given = {s.name: t.numpy() for s, t in zip(program.signature.inputs, x, strict=True)}
            return torch.from_numpy(next(iter(runner.run(given).values())))

        _line(f"ONNX Runtime, {name}", want, evaluate(run), say)


def _line(name: str, want: torch.Tensor, got: torch.Tensor, say: Callable[[torch.Tensor], str]) -> None:
    cosines = torch.nn.functional.cosine_similarity(want.double(), got.double())
    print(f"  {name:32} cosine to PyTorch: least {cosines.min():.5f}, mean {cosines.mean():.6f}; {say(got)}", flush=True)


def minilm(place: Path, sentences: Path) -> None:
    with sentences.open() as file:
        rows = list(csv.reader(file))[: SENTENCES // 2]
    scores = torch.tensor([float(r[2]) for r in rows])
    text = [r[0] for r in rows] + [r[1] for r in rows]
    tokens = AutoTokenizer.from_pretrained(place)(text, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    model = AutoModel.from_pretrained(place).eval()
    program = capture.trace(model, (), {"input_ids": ids[:BATCH], "attention_mask": mask[:BATCH]})

    def embed(run: Model) -> torch.Tensor:
        batches = [(ids[k : k + BATCH], mask[k : k + BATCH]) for k in range(0, SENTENCES, BATCH)]
        pooled = [(run(i, m) * m[..., None]).sum(1) / m.sum(1, keepdim=True) for i, m in batches]
        return torch.nn.functional.normalize(torch.cat(pooled), dim=-1)

    def correlation(e: torch.Tensor) -> str:
        similar = (e[: SENTENCES // 2] * e[SENTENCES // 2 :]).sum(-1)
        return f"Pearson with STS-B {torch.corrcoef(torch.stack([similar, scores]))[0, 1]:.4f}"

    print(f"MiniLM, embeddings of {SENTENCES} sentences")
    compare(program, embed, correlation)


def resnet20(data: Path) -> None:
    sys.path.insert(0, str(data))
    import resnet_cifar

    net, _ = resnet_cifar.resnet20()
    net.load_state_dict(torch.load(data / "resnet20_cifar.pt", weights_only=True))
    images, labels = resnet_cifar.images(data / "cifar10_test_2000.npz")
    program = capture.trace(net.eval(), (images[:BATCH],))

    def logits(run: Model) -> torch.Tensor:
        return torch.cat([run(images[k : k + BATCH]) for k in range(0, SENTENCES, BATCH)])

    def accuracy(found: torch.Tensor) -> str:
        return f"right {(found.argmax(1) == labels[:SENTENCES]).double().mean():.2%}"

    print(f"ResNet-20, logits of {SENTENCES} images of CIFAR-10")
    compare(program, logits, accuracy)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        minilm(Path(sys.argv[1]), Path(sys.argv[2], "stsb_dev.csv"))
        resnet20(Path(sys.argv[2]))
