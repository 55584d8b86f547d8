"""`tools/bench.py gguf-convert`: what it costs to make a Q4_K_M file of a Llama of 1.1 B parameters in half precision, ours beside
llama.cpp's quantizer: processor seconds and peak resident memory of each process, one thread.

llama.cpp starts from an F16 GGUF file, which someone has to make first; edgecc starts from the Hugging Face directory. Both
have the same random weights. This process stays small: a child's peak begins as that of the process that starts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.targets.gguf import quantize_oracle

WIDTH, INNER, LAYERS, HEADS, SHARED, VOCABULARY = 2048, 5632, 22, 32, 4, 32000
MIXTURE, FILE_TYPE = "q4_k_m", 15
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "float16",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": SHARED,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ATTENTION, _FEED, _SMALL = "self_attn.", "mlp.", WIDTH // HEADS * SHARED
_LAYER = {  # Hugging Face's names and GGUF's
    "input_layernorm": ("attn_norm", (WIDTH,)),
    _ATTENTION + "q_proj": ("attn_q", (WIDTH, WIDTH)),
    _ATTENTION + "k_proj": ("attn_k", (_SMALL, WIDTH)),
    _ATTENTION + "v_proj": ("attn_v", (_SMALL, WIDTH)),
    _ATTENTION + "o_proj": ("attn_output", (WIDTH, WIDTH)),
    "post_attention_layernorm": ("ffn_norm", (WIDTH,)),
    _FEED + "gate_proj": ("ffn_gate", (INNER, WIDTH)),
    _FEED + "up_proj": ("ffn_up", (INNER, WIDTH)),
    _FEED + "down_proj": ("ffn_down", (WIDTH, INNER)),
}


@dataclass(frozen=True)
class Cost:
    """Of a process and what it started: processor seconds, seconds that passed, the largest process's peak in bytes, and its output."""

    processor: float
    passed: float
    peak: int
    returncode: int
    output: str


def table() -> None:
    """Make the model twice, convert it twice, print what each took."""
    if quantize_oracle.folder() is None:
        sys.exit("llama.cpp's quantizer is not here: tools/llama-oracle fetches it")
    with tempfile.TemporaryDirectory() as folder:
        model, half = Path(folder, "model"), Path(folder, "half.gguf")
        made = measured([sys.executable, "-m", "tools.benchmarks.gguf_convert", str(model), str(half)])
        if made.returncode:
            sys.exit(made.output)
        size = sum(f.stat().st_size for f in model.glob("*.safetensors"))
        print(f"Llama of {size / 2e9:.2f} B parameters in float16, {size / 1e9:.2f} GB; to {MIXTURE}, one thread", flush=True)
        print(f"{'':12}{'CPU s':>8}{'passed s':>10}{'peak MB':>9}{'file MB':>9}", flush=True)
        theirs = _row("llama.cpp", their_cost(half, Path(folder, "theirs.gguf")), Path(folder, "theirs.gguf"))
        half.unlink()
        ours = _row("edgecc", our_cost(model, Path(folder, "ours")), Path(folder, "ours", "model.gguf"))
        if ours and theirs:
            print(f"{'ratio':12}{ours.processor / theirs.processor:8.2f}{ours.passed / theirs.passed:10.2f}{ours.peak / theirs.peak:9.2f}")


def our_cost(model: Path, output: Path) -> Cost:
    """Of the command on a Hugging Face directory, unverified: verification runs the model, which is another cost."""
    options = ["--target", "gguf", "--quant", MIXTURE, "--tokenizer", "none", "--verify", "off", "--cases", "0", "--progress", "none"]
    return measured([sys.executable, "-m", "edgecc", "compile", str(model), *options, "-o", str(output)])


def their_cost(half: Path, output: Path) -> Cost:
    """Of `llama_model_quantize` on an F16 file."""
    job = quantize_oracle.Job(str(half), FILE_TYPE, str(output), threads=1)
    return measured(quantize_oracle.command(), quantize_oracle.written([job]))


def measured(command: list[str], given: str = "") -> Cost:
    """Run a command with one thread; its children count where it waited for them."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GGML_NO_BACKTRACE": "1"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as text:
        text.write(given)
        text.seek(0)
        began = time.perf_counter()
        child = subprocess.Popen(command, stdin=text, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        passed = time.perf_counter() - began
        output.seek(0)
        return Cost(usage.ru_utime + usage.ru_stime, passed, usage.ru_maxrss * 1024, child.returncode, output.read())


def _row(name: str, cost: Cost, file: Path) -> Cost | None:
    if cost.returncode or not file.exists():
        print(f"{name:12} exit code {cost.returncode}: {cost.output.strip()[-500:]}")
        return None
    sizes = f"{cost.peak / 1e6:9.0f}{file.stat().st_size / 1e6:9.1f}"
    print(f"{name:12}{cost.processor:8.1f}{cost.passed:10.1f}{sizes}", flush=True)
    return cost


def make(model: Path, half: Path) -> None:
    """Write a Hugging Face directory, two layers a shard, and from it the same model as an F16 file. Run it in a process of its own."""
    from safetensors.numpy import save_file

    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    shards = [["model.embed_tokens.weight"], ["lm_head.weight", "model.norm.weight"]]
    shards += [[f"model.layers.{layer + i}.{part}.weight" for i in (0, 1) for part in _LAYER] for layer in range(0, LAYERS, 2)]
    where, size = {}, 0
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        arrays = {name: _weight(name) for name in names}
        save_file(arrays, model / file, {"format": "pt"})
        where |= dict.fromkeys(names, file)
        size += sum(array.nbytes for array in arrays.values())
        del arrays
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    _make_half(model, where, half)


def _make_half(model: Path, where: dict[str, str], half: Path) -> None:
    from edgecc.targets.gguf.writer import Planned, write

    keys = {
        "general.architecture": "llama",
        "general.file_type": 1,
        "llama.context_length": 2048,
        "llama.embedding_length": WIDTH,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": SHARED,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": WIDTH // HEADS,
        "llama.vocab_size": VOCABULARY,
        "tokenizer.ggml.model": "no_vocab",
    }
    planned = [Planned(_gguf_name(name), _shape(name), "f16" if len(_shape(name)) > 1 else "f32") for name in where]
    write(half, keys, planned, _stored(model, where))


def _stored(model: Path, where: dict[str, str]) -> Iterator[Any]:
    import numpy as np
    from safetensors import safe_open

    for name, file in where.items():
        with safe_open(model / file, "numpy") as shard:
            array = shard.get_tensor(name)
        yield array if array.ndim > 1 else array.astype(np.float32)


def _weight(name: str) -> Any:
    """Normal, of the usual size; drawn by the name."""
    import zlib

    import numpy as np

    shape = _shape(name)
    if len(shape) == 1:
        return np.ones(shape, np.float16)
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    drawn *= 0.02
    return drawn.astype(np.float16)


def _shape(name: str) -> tuple[int, ...]:
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return VOCABULARY, WIDTH
    return (WIDTH,) if name == "model.norm.weight" else _LAYER[_part(name)][1]


def _gguf_name(name: str) -> str:
    once = {"model.embed_tokens.weight": "token_embd", "lm_head.weight": "output", "model.norm.weight": "output_norm"}
    return f"{once[name]}.weight" if name in once else f"blk.{name.split('.')[2]}.{_LAYER[_part(name)][0]}.weight"


def _part(name: str) -> str:
    """`self_attn.q_proj` of `model.layers.3.self_attn.q_proj.weight`."""
    return ".".join(name.split(".")[3:-1])


if __name__ == "__main__":
    if len(sys.argv) == 3:
        make(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        table()
