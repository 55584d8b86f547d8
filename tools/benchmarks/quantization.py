"""`tools/bench.py quantization`: accuracy and size of quantized ResNet-20 and MiniLM, as PyTorch programs and as ONNX files in ONNX
Runtime, ours beside ONNX Runtime's own quantizers and torchao's PT2E.

Calibration never sees a label. ResNet-20: the first 256 training images. MiniLM: the 256 sentences of the last 128 pairs of STS-B
dev; Spearman is over all 1,500 pairs and, in brackets, over the 1,372 that were not calibrated on; cosines are to the float32
embeddings of the 500 first other sentences.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edgecc
from edgecc import CompileOptions, Dim
from edgecc.ir import capture
from edgecc.ir.program import Program
from edgecc.pipeline import manager
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.spec import parse
from edgecc.quantization.layers import stored_bytes, summarize
from edgecc.registry import Registry

FLOAT = (
    "normalize: decompose, canonicalize, fold-constants, eliminate-common-subexpressions"
    " | fuse: fold-batch-norm, fuse-layer-norm, fuse-gelu, fuse-attention, canonicalize"
)
SYMMETRIC = "insert-fake-quant{placement=clean,symmetric=true}, calibrate{symmetric=true}"
SMOOTH = "smooth-quant{insert=true,alpha=0.7}"
Sample = tuple[torch.Tensor, ...]


def table(names: Sequence[str], data: Path, minilm: Path) -> None:
    """`names`: resnet20, minilm, minilm-files (its ONNX files alone); all where empty."""
    for name in ("torch", "torchao", "onnxscript", "root", ""):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, onnxruntime {_version('onnxruntime')}, torchao {_version('torchao')}; one thread, seed 0")
    if not names or "resnet20" in names:
        ResNet20(data).table()
    if not names or "minilm" in names:
        MiniLM(data, minilm).table()
    elif "minilm-files" in names:
        MiniLM(data, minilm).table(programs=False)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def quantized(program: Program, text: str, data: Sequence[Sample], **given: Any) -> Program:
    """The program after the passes, in a copy."""
    done = program.snapshot()
    context = PassContext([done.examples], calibration=list(data), **given)
    manager.run(parse(f"compress: {text}, finalize-quant", Registry.create().passes), done, context)
    done.recompile()
    return done


def compiled(program: Program, target: str, folder: Path, data: Iterable[Sample], **options: Any) -> Path:
    """The ONNX file that `edgecc.compile` writes, verified by it."""
    chosen = CompileOptions(**{"verify": "structure", **options})
    result = edgecc.compile(program, target=target, options=chosen, output=folder, calibration=list(data) if options.get("quant") else None)
    return result.artifact / "model.onnx"


def size(file: Path) -> int:
    return sum(f.stat().st_size for f in file.parent.glob(f"{file.name}*"))


def session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def latency(file: Path, feeds: dict[str, Any], seconds: float = 2.0) -> float:
    """Milliseconds of processor time, p50: what else the machine does counts little."""
    run = session(file)
    run.run(None, feeds)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.process_time()
        run.run(None, feeds)
        times.append(time.process_time() - began)
    return 1e3 * float(np.median(times))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


class Reader:
    """What ONNX Runtime's static quantizer reads its calibration inputs from."""

    def __init__(self, feeds: Iterable[dict[str, Any]]) -> None:
        self._feeds = iter(list(feeds))

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


class ResNet20:
    """Accuracy on 2,000 test images."""

    def __init__(self, data: Path) -> None:
        sys.path.insert(0, str(data))
        import resnet_cifar

        self.net, _ = resnet_cifar.resnet20()
        self.net.load_state_dict(torch.load(data / "resnet20_cifar.pt", weights_only=True))
        self.x, self.y = resnet_cifar.images(data / "cifar10_test_2000.npz")
        train, _ = resnet_cifar.images(data / "cifar10_train_10000.npz")
        self.data = [(part,) for part in train[:256].split(64)]
        self.dims = {"x": {0: Dim("batch", 1, 512)}}

    def accuracy(self, run: Callable[[torch.Tensor], Any]) -> float:
        parts = [np.asarray(run(part)) for part in self.x.split(250)]
        return 100 * float(np.mean(np.concatenate(parts).argmax(1) == self.y.numpy()))

    def table(self) -> None:
        program = capture.trace(self.net, (self.x[:2],), dims=self.dims)
        plain = program.snapshot()
        manager.run(parse(FLOAT, Registry.create().passes), plain, PassContext([plain.examples]))
        plain.recompile()
        whole = stored_bytes(plain)
        print("\nResNet-20, CIFAR-10, 2,000 test images, 256 calibration images")
        print(f"{'':64}{'accuracy':>9}{'bytes':>10}{'smaller':>9}{'ms':>8}")
        self._line("float32, program in PyTorch", self.accuracy(lambda x: plain(x)[0]), whole, whole)
        for text in (
            "insert-fake-quant, calibrate",
            SYMMETRIC,
            "insert-fake-quant{scheme='int8-weight'}",
            "insert-fake-quant{scheme='int4-weight'}",
            "insert-fake-quant{scheme='int4-weight'}, compensate-rounding",
            "insert-fake-quant{scheme='int4-weight-channel'}",
            "insert-fake-quant{scheme='int4-weight-channel'}, compensate-rounding",
            "insert-fake-quant{scheme='w4a8'}, compensate-rounding, calibrate",
            "insert-fake-quant{scheme='w3a8'}, calibrate",
            "insert-fake-quant{scheme='w3a8'}, compensate-rounding, calibrate",
            "insert-fake-quant{scheme='nf4'}",
            "insert-fake-quant{scheme='nvfp4'}",
        ):
            done = quantized(plain, text, self.data)
            self._line(text, self.accuracy(lambda x, p=done: p(x)[0]), stored_bytes(done), whole)  # type: ignore[misc]
        self._torchao(whole)
        with tempfile.TemporaryDirectory() as folder:
            self._onnx(program, Path(folder))

    def _line(self, what: str, accuracy: float, count: int, whole: int, ms: float | None = None) -> None:
        time_text = f"{ms:8.2f}" if ms is not None else ""
        print(f"{what:64}{accuracy:9.2f}{count:10}{whole / count:8.2f}x{time_text}", flush=True)

    def _onnx(self, program: Program, folder: Path) -> None:
        """Files, ours and those of ONNX Runtime's quantizer from our float32 one; latency of one image."""
        image = {"x": self.x[:1].numpy()}
        files = {
            "float32, onnxruntime": compiled(program.snapshot(), "onnxruntime", folder / "float", ()),
            "int8, onnxruntime": compiled(program.snapshot(), "onnxruntime", folder / "ort", self.data, quant="int8"),
            "int8, tensorrt": compiled(program.snapshot(), "tensorrt", folder / "trt", self.data, quant="int8"),
        }
        files["ONNX Runtime quantize_static, QDQ, per channel"] = self._peer(files["float32, onnxruntime"], folder / "peer.onnx")
        whole = size(files["float32, onnxruntime"])
        for name, file in files.items():
            run = session(file)
            accuracy = self.accuracy(lambda x, r=run: r.run(None, {"x": x.numpy()})[0])  # type: ignore[misc]
            self._line(f"{name}: file in ONNX Runtime", accuracy, size(file), whole, latency(file, image))

    def _peer(self, file: Path, output: Path) -> Path:
        from onnxruntime import quantization as ort
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with quiet():
            quant_pre_process(str(file), str(output.with_suffix(".pre.onnx")))
            reader = Reader({"x": x.numpy()} for (x,) in self.data)
            ort.quantize_static(str(output.with_suffix(".pre.onnx")), str(output), reader, per_channel=True)
        return output

    def _torchao(self, whole: int) -> None:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
            X86InductorQuantizer,
            get_default_x86_inductor_quantization_config,
        )

        with quiet():
            exported = torch.export.export(self.net, (self.x[:2],), dynamic_shapes=({0: torch.export.Dim("n", min=2, max=512)},)).module()
            quantizer = X86InductorQuantizer()
            quantizer.set_global(get_default_x86_inductor_quantization_config())
            prepared = prepare_pt2e(exported, quantizer)
            with torch.no_grad():
                for (x,) in self.data:
                    prepared(x)
                done = convert_pt2e(prepared)
                accuracy = self.accuracy(lambda x: done(x))
        count = sum(t.numel() * t.element_size() for t in done.state_dict().values())
        self._line("torchao PT2E, X86InductorQuantizer: program in PyTorch", accuracy, count, whole)


class MiniLM:
    """Spearman on STS-B dev, cosines of embeddings."""

    def __init__(self, data: Path, model: Path) -> None:
        import transformers
        from tokenizers import Tokenizer

        transformers.logging.set_verbosity_error()
        with quiet():
            self.net = transformers.AutoModel.from_pretrained(model).eval()
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(128)
        with (data / "stsb_dev.csv").open(encoding="utf-8") as file:
            self.pairs = [(a, b, float(score)) for a, b, score in csv.reader(file)]
        self.sentences = sorted({s for a, b, _ in self.pairs for s in (a, b)})
        seen = [s for a, b, _ in self.pairs[-128:] for s in (a, b)]
        self.data = [sample for _, sample in self.batches(seen, 16)]
        unseen = [s for s in self.sentences if s not in set(seen)]
        self.held_out, self.all = self.batches(unseen[:500], 50), self.batches(self.sentences, 50)

    def batches(self, sentences: Sequence[str], count: int) -> list[tuple[list[int], Sample]]:
        """Token ids and mask i64 [count, length] of sentences of like length, with their numbers."""
        ids = [self.tokenizer.encode(s).ids for s in sentences]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = []
        for start in range(0, len(order), count):
            chosen = order[start : start + count]
            rows = torch.zeros(len(chosen), len(ids[chosen[-1]]), dtype=torch.int64)
            mask = torch.zeros_like(rows)
            for row, index in enumerate(chosen):
                rows[row, : len(ids[index])], mask[row, : len(ids[index])] = torch.tensor(ids[index]), 1
            found.append((chosen, (rows, mask)))
        return found

    def embed(self, run: Callable[..., Any], batches: Sequence[tuple[list[int], Sample]]) -> torch.Tensor:
        """Mean over tokens, normalized [sentences, 384]."""
        out = torch.zeros(sum(len(chosen) for chosen, _ in batches), 384)
        for chosen, (ids, mask) in batches:
            hidden = torch.as_tensor(run(ids, mask))
            weight = mask[..., None].float()
            out[chosen] = torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)
        return out

    def spearman(self, embedded: torch.Tensor, pairs: Sequence[tuple[str, str, float]]) -> float:
        from scipy.stats import spearmanr

        place = {s: i for i, s in enumerate(self.sentences)}
        a, b = (embedded[[place[pair[k]] for pair in pairs]] for k in (0, 1))
        return float(spearmanr((a * b).sum(1).numpy(), [score for *_, score in pairs]).statistic)

    def score(self, program: Program) -> float:
        return self.spearman(self.embed(lambda *x: program(*x)[0], self.all), self.pairs)

    def table(self, *, programs: bool = True) -> None:
        ids, mask = self.data[0][0][:2], self.data[0][1][:2]
        sizes = {0: Dim("batch", 1, 64), 1: Dim("seq", 2, 128)}
        program = capture.trace(
            self.net, (), {"input_ids": ids, "attention_mask": mask}, dims={"input_ids": sizes, "attention_mask": sizes}
        )
        plain = program.snapshot()
        manager.run(parse(FLOAT, Registry.create().passes), plain, PassContext([plain.examples]))
        plain.recompile()
        self.want = self.embed(lambda *x: plain(*x)[0], self.held_out)
        print("\nMiniLM, STS-B dev, 256 calibration sentences; ms of 1 x 128 tokens")
        print(f"{'':76}{'Spearman':>19}{'drop':>9}{'cosine':>9}{'least':>8}{'bytes':>11}{'smaller':>9}{'ms':>8}")
        self.float_score, self.whole = 0.0, stored_bytes(plain)
        if programs:
            self._programs(plain)
        with tempfile.TemporaryDirectory() as folder:
            self._onnx(program, Path(folder))

    def _programs(self, plain: Program) -> None:
        self._program("float32, program in PyTorch", plain)
        for text in (
            "insert-fake-quant, calibrate",
            SYMMETRIC,
            f"{SMOOTH}, insert-fake-quant, calibrate",
            f"{SMOOTH}, {SYMMETRIC}",
            "insert-fake-quant{scheme='int8-dynamic'}",
            "insert-fake-quant{scheme='int4-weight'}",
            "insert-fake-quant{scheme='int4-weight'}, compensate-rounding",
            "insert-fake-quant{scheme='nf4'}",
        ):
            self._program(text, quantized(plain, text, self.data))
        text = "insert-fake-quant, calibrate, assign-precision"
        done = quantized(plain, text, self.data, evaluate=self.score, max_drop=0.002)
        self._program(f"{text}, with max_drop 0.002", done)
        print(f"{100 * summarize(plain, done, self.data[:1]).integer_share:.1f} % of multiply-accumulates in integers")

    def _program(self, what: str, program: Program) -> None:
        embedded = self.embed(lambda *x: program(*x)[0], self.all)
        near = self.embed(lambda *x: program(*x)[0], self.held_out)
        self._line(what, embedded, near, stored_bytes(program))

    def _line(self, what: str, embedded: torch.Tensor | None, near: torch.Tensor, count: int, ms: float | None = None) -> None:
        scores = [self.spearman(embedded, pairs) for pairs in (self.pairs, self.pairs[:-128])] if embedded is not None else []
        self.float_score = self.float_score or (scores[0] if scores else 0.0)
        shown = f"{scores[0]:10.4f} ({scores[1]:.4f}){self.float_score - scores[0]:9.4f}" if scores else f"{'':28}"
        cosines = (near * self.want).sum(1)
        time_text = f"{ms:8.2f}" if ms is not None else ""
        figures = f"{float(cosines.mean()):9.4f}{float(cosines.min()):8.4f}{count:11}{self.whole / count:8.2f}x"
        print(f"{what:76}{shown}{figures}{time_text}", flush=True)

    def _onnx(self, program: Program, folder: Path) -> None:
        plain = compiled(program.snapshot(), "onnxruntime", folder / "float", ())
        self.whole = size(plain)
        tables, plain_passes = (("embeddings", "int8-weight"),), ("smooth-quant",)
        cases: dict[str, dict[str, Any]] = {
            "int8, onnxruntime": {"target": "onnxruntime", "quant": "int8"},
            "int8 without smooth-quant, onnxruntime": {"target": "onnxruntime", "quant": "int8", "disable": plain_passes},
            "int8 with int8 embeddings, onnxruntime": {"target": "onnxruntime", "quant": "int8", "quant_layers": tables},
            "int8-dynamic, onnxruntime": {"target": "onnxruntime", "quant": "int8-dynamic", "verify": "off"},
            "int4-weight, onnxruntime": {"target": "onnxruntime", "quant": "int4-weight"},
            "int8, tensorrt": {"target": "tensorrt", "quant": "int8"},
            "int8 without smooth-quant, tensorrt": {"target": "tensorrt", "quant": "int8", "disable": plain_passes},
            "int8 with int8 embeddings, tensorrt": {"target": "tensorrt", "quant": "int8", "quant_layers": tables},
        }
        self._file("float32, onnxruntime", plain)
        for name, options in cases.items():
            target = options.pop("target")
            self._file(name, compiled(program.snapshot(), target, folder / name.replace(" ", "-").replace(",", ""), self.data, **options))
        for name, make in self._peers(plain, folder).items():
            with quiet():
                file = make()
            self._file(name, file)

    def _file(self, what: str, file: Path) -> None:
        run = session(file)
        ids = np.random.default_rng(0).integers(1, 30000, (1, 128))
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}

        def hidden(ids: torch.Tensor, mask: torch.Tensor) -> Any:
            return run.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]

        self._line(f"{what}: file in ONNX Runtime", None, self.embed(hidden, self.held_out), size(file), latency(file, feeds))

    def _peers(self, file: Path, folder: Path) -> dict[str, Callable[[], Path]]:
        import onnx
        from onnxruntime import quantization as ort
        from onnxruntime.quantization.shape_inference import quant_pre_process

        ready, whole = folder / "ready.onnx", folder / "whole.onnx"
        with quiet():
            onnx.save(onnx.load(file), whole)  # the quantizer does not find data beside a file
            quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)

        def static(name: str, **options: Any) -> Path:
            feeds = [{"input_ids": ids.numpy(), "attention_mask": mask.numpy()} for ids, mask in self.data]
            ort.quantize_static(str(ready), str(folder / name), Reader(feeds), **options)
            return folder / name

        def dynamic() -> Path:
            ort.quantize_dynamic(str(ready), str(folder / "dynamic.onnx"))
            return folder / "dynamic.onnx"

        return {
            "ONNX Runtime quantize_static, as it comes": lambda: static("static.onnx"),
            "ONNX Runtime quantize_static, MatMul alone": lambda: static("matmul.onnx", op_types_to_quantize=["MatMul"]),
            "ONNX Runtime quantize_dynamic": dynamic,
        }
