"""`tools/bench.py gguf-quality`: what rounding costs at equal bytes, ours with calibration beside llama.cpp's with its importance matrix.

Both sides give every tensor the same type. llama.cpp's is ggml's own quantizer with the mean squares of the inputs over the same
calibration text; both are decoded and run in PyTorch, so that nothing but the rounding differs.

pyllama: KL divergence from the float32 model and perplexity over the first 200 windows of 256 tokens of heldout.txt; calibrated on
calibration.txt, which shares no module with it. MiniLM: 1 - cosine to float32 embeddings of the STS-B dev sentences that are in no
pair of the last 375, whose sentences calibrate; Spearman is over the other 1,125 pairs.
"""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from edgecc import Dim
from edgecc.ir import capture
from edgecc.targets.gguf import mixture
from edgecc.targets.gguf.blocks import decode, encode
from edgecc.targets.gguf.rounding import Moments, observe, round_compensated, sensitivity
from tests.targets.gguf.ggml_host import Job, quantize

WINDOW, WINDOWS, BATCH = 256, 200, 8
MIXTURES = ("q4_k_m", "q4_0")
Weights = Mapping[str, torch.Tensor]


def table(names: Sequence[str], models: Path, data: Path, minilm: Path) -> None:
    """`names`: pyllama, minilm; both where empty."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for name in names or ("pyllama", "minilm"):
        case = Pyllama(models / "pyllama") if name == "pyllama" else MiniLM(data, minilm)
        print(f"\n{name}: {case.about}")
        print(f"{'':34}{'bits':>6}" + "".join(f"{m:>12}" for m in case.measures) + f"{'ratio':>8}{'CPU s':>8}")
        _line("float32", case, {}, 32.0)
        case.compare()


class Case:
    """A model, its tensors by GGUF name, and how good it is with other weights. Lower measures are better, but for the last of `quality`."""

    measures: tuple[str, ...] = ()
    about = ""
    architecture: mixture.Model
    logits: bool

    def __init__(self, net: nn.Module, places: Mapping[str, str], program: Any, samples: Sequence[Any], masks: Any) -> None:
        self.net, self.places, self.program, self.samples, self.masks = net, places, program, samples, masks
        self.weights = {name: net.get_submodule(place).weight for name, place in places.items()}

    def run(self) -> list[float]:
        raise NotImplementedError

    def quality(self, weights: Weights) -> list[float]:
        """With these weights [rows, columns] in place of the model's own."""
        kept = {name: self.weights[name].data for name in weights}
        for name, values in weights.items():
            self.weights[name].data = values
        found = self.run()
        for name, values in kept.items():
            self.weights[name].data = values
        return found

    def compare(self) -> None:
        moments = self.moments()
        for kind in MIXTURES:
            formats = self.formats(kind)
            bits = sum(8 * encode(w[:1], formats[n]).numel() / w.shape[1] * w.numel() for n, w in self.weights.items())
            bits /= sum(w.numel() for w in self.weights.values())
            _line(f"{kind}, ggml", self, self.theirs(formats, {}), bits)
            peer = _line(f"{kind}, ggml, importance matrix", self, self.theirs(formats, moments), bits)
            began = time.process_time()
            ours = dict(self.ours(formats))
            _line(f"{kind}, edgecc, compensated", self, ours, bits, peer, time.process_time() - began)

    def formats(self, kind: str) -> dict[str, str]:
        """By GGUF name."""
        chosen = mixture.assign({n: tuple(w.shape) for n, w in self.weights.items()}, self.architecture, kind)
        return {name: choice.format for name, choice in chosen.items()}

    def moments(self) -> dict[str, Moments]:
        """Mean squares of the float32 model's inputs by GGUF name."""
        named = self._named()
        steps = observe(self.program, self.samples, named, masks=self.masks, products=False)
        return {named[node]: step.moments for step in steps for node in step.nodes}

    def theirs(self, formats: Mapping[str, str], moments: Mapping[str, Moments]) -> Weights:
        jobs = [
            Job(w.detach().numpy(), formats[name], moments[name].importance.numpy() if name in moments else None)
            for name, w in self.weights.items()
        ]
        return {name: torch.from_numpy(found.values) for name, found in zip(self.weights, quantize(jobs), strict=True)}

    def ours(self, formats: Mapping[str, str]) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors in the order of the graph, each rounded knowing those before it."""
        weight = self.weights["token_embd.weight"].detach()
        (node,) = (n for n in self.program.calls(torch.ops.aten.embedding.default) if self._place(n.args[0]) == "token_embd.weight")
        format = formats["token_embd.weight"]
        if format == "q8_0":  # its error is none that shows
            rows = decode(encode(weight, format), format, weight.shape[1])
        else:
            rows = _rounded(weight, sensitivity(self.program, self.samples, node, logits=self.logits, masks=self.masks), format)
        yield "token_embd.weight", rows
        named = self._named()
        for step in observe(self.program, self.samples, named, masks=self.masks, rounded={node.args[0]: lambda: rows}):
            for call in step.nodes:
                name = named[call]
                found = _rounded(self.weights[name].detach(), step.moments, formats[name])
                step.replace(call, found)
                yield name, found

    def _named(self) -> dict[Any, str]:
        """The linear calls whose weights are tensors of the file."""
        calls = {n: self._place(n.args[1]) for n in self.program.calls(torch.ops.aten.linear.default)}
        return {n: name for n, name in calls.items() if name}

    def _place(self, node: Any) -> str:
        path = str(node.target).removesuffix(".weight")
        return next((name for name, place in self.places.items() if place == path), "")


class Pyllama(Case):
    measures = ("KL", "perplexity")
    logits = True
    architecture = mixture.Model("llama", layers=6, heads=4, kv_heads=2)

    def __init__(self, folder: Path, held_out: int = WINDOWS, calibration: int | None = None) -> None:
        """`held_out` and `calibration`: how many windows of each text, None for all."""
        import transformers
        from tokenizers import Tokenizer

        net = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

        def windows(name: str) -> torch.Tensor:
            ids = tokenizer.encode((folder / name).read_text(encoding="utf-8"), add_special_tokens=False).ids
            return torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)

        seen = windows("calibration.txt")[:calibration]
        self.held_out = windows("heldout.txt")[:held_out].split(BATCH)
        parts = {
            "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
            "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
        }  # fmt: skip
        layers = {f"blk.{i}.{ours}.weight": f"model.layers.{i}.{theirs}" for i in range(6) for ours, theirs in parts.items()}
        places = {"token_embd.weight": "model.embed_tokens", **layers, "output.weight": "lm_head"}
        inputs = {"input_ids": seen[:2], "use_cache": False}
        program = capture.trace(net, (), inputs, dims={"input_ids": {0: Dim("batch", 1, BATCH)}})
        super().__init__(net, places, program, [(part,) for part in seen.split(BATCH)], None)
        self.about = f"{len(seen)} windows calibrate, {held_out} are measured; ratio of the KL, and of what the perplexity grows by"
        self.likely = [self._log(ids) for ids in self.held_out]
        self.perplexity = self.run()[1]

    def _log(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.net(ids, use_cache=False).logits.log_softmax(-1)
        return found

    def run(self) -> list[float]:
        divergence = surprise = 0.0
        count = sum(map(len, self.held_out))
        for ids, likely in zip(self.held_out, self.likely, strict=True):
            found = self._log(ids)
            divergence += float((likely.exp() * (likely - found)).sum(-1).double().sum())
            surprise -= float(found[:, :-1].gather(2, ids[:, 1:, None]).double().sum())
        return [divergence / (count * WINDOW), math.exp(surprise / (count * (WINDOW - 1)))]

    def ratio(self, ours: Sequence[float], peer: Sequence[float]) -> str:
        return f"{ours[0] / peer[0]:.3f} {(ours[1] - self.perplexity) / (peer[1] - self.perplexity):6.3f}"


class MiniLM(Case):
    measures = ("1 - cosine", "Spearman")
    logits = False
    architecture = mixture.Model("bert", layers=6, heads=12, kv_heads=12)

    def __init__(self, data: Path, folder: Path) -> None:
        import transformers
        from tokenizers import Tokenizer

        net = transformers.AutoModel.from_pretrained(folder).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(128)
        with (data / "stsb_dev.csv").open(encoding="utf-8") as file:
            pairs = [(a, b, float(score)) for a, b, score in csv.reader(file)]
        seen = sorted({s for a, b, _ in pairs[-375:] for s in (a, b)})
        self.pairs = pairs[:-375]
        self.sentences = sorted({s for a, b, _ in self.pairs for s in (a, b)}, key=lambda s: (len(s), s))
        self.unseen = torch.tensor([s not in set(seen) for s in self.sentences])
        parts = {
            "attn_q": "attention.self.query", "attn_k": "attention.self.key", "attn_v": "attention.self.value",
            "attn_output": "attention.output.dense", "ffn_up": "intermediate.dense", "ffn_down": "output.dense",
        }  # fmt: skip
        layers = {f"blk.{i}.{ours}.weight": f"encoder.layer.{i}.{theirs}" for i in range(6) for ours, theirs in parts.items()}
        samples = self._batches(sorted(seen, key=len), 16)
        axes = {0: Dim("batch", 1, 64), 1: Dim("seq", 1, 128)}
        inputs = dict(zip(("input_ids", "attention_mask"), samples[0], strict=True))
        program = capture.trace(net, (), inputs, dims=dict.fromkeys(inputs, axes))
        places = {"token_embd.weight": "embeddings.word_embeddings", **layers}
        super().__init__(net, places, program, samples, [mask.bool() for _, mask in samples])
        tokens = sum(int(mask.sum()) for _, mask in samples)
        self.about = f"{len(seen)} sentences, {tokens} tokens, calibrate; {int(self.unseen.sum())} others are measured; ratio of 1 - cosine"
        self.batches = self._batches(self.sentences, 50)
        self.reference = self._embed()

    def _batches(self, sentences: Sequence[str], count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        found = []
        for start in range(0, len(sentences), count):
            ids = [torch.tensor(self.tokenizer.encode(s).ids) for s in sentences[start : start + count]]
            padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
            found.append((padded, (torch.arange(padded.shape[1]) < torch.tensor([len(i) for i in ids])[:, None]).long()))
        return found

    def _embed(self) -> torch.Tensor:
        parts = []
        for ids, mask in self.batches:
            hidden = self.net(ids, attention_mask=mask).last_hidden_state * mask[..., None]
            parts.append(F.normalize(hidden.sum(1), dim=-1).double())
        return torch.cat(parts)

    def run(self) -> list[float]:
        from scipy.stats import spearmanr

        found = self._embed()
        place = {s: i for i, s in enumerate(self.sentences)}
        near = [float(found[place[a]] @ found[place[b]]) for a, b, _ in self.pairs]
        lost = 1 - (found * self.reference).sum(1)[self.unseen].mean()
        return [float(lost), float(spearmanr(near, [score for *_, score in self.pairs]).statistic)]

    def ratio(self, ours: Sequence[float], peer: Sequence[float]) -> str:
        return f"{ours[0] / peer[0]:.3f}"


def _rounded(weight: torch.Tensor, moments: Moments, format: str) -> torch.Tensor:
    """What a reader of the file gets."""
    return decode(round_compensated(weight, moments, format), format, weight.shape[1])


def _line(what: str, case: Any, weights: Weights, bits: float, peer: Sequence[float] = (), seconds: float | None = None) -> list[float]:
    found: list[float] = case.quality(weights)
    ratio = case.ratio(found, peer) if peer else ""
    spent = f"{seconds:8.1f}" if seconds is not None else ""
    print(f"{what:34}{bits:6.2f}" + "".join(f"{value:12.5f}" for value in found) + f"  {ratio:14}{spent}", flush=True)
    return found


if __name__ == "__main__":
    models, data, minilm, *names = sys.argv[1:]
    table(names, Path(models), Path(data), Path(minilm))
