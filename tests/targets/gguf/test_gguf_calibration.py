"""Rounding by calibration data in the command: less is lost in the same bytes, importance matrices go out and in, and mistakes are said."""

# ruff: noqa: F811  a test takes a fixture by the name that it was imported under
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import edgecc  # noqa: F401  a fixture
from tests.targets.gguf.decoders import DECODERS, decoder
from tests.targets.gguf.gguf_host import HERE, compiled, report_of, stored, tiny_bert, tiny_llama, tokens
from tests.targets.gguf.vocabulary_host import HELDOUT, pyllama

pytestmark = pytest.mark.slow  # every test compiles a model and starts llama.cpp
for package in ("gguf", "xllamacpp", "transformers"):
    pytest.importorskip(package)


def _samples() -> list[Any]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.randint(0, 97, (1, 12), generator=generator),) for _ in range(40)]


def calibration() -> list[Any]:
    """Random tokens for the hand-written decoders."""
    return _samples()


def little() -> list[Any]:
    """48 tokens, of which no layer of 96 columns learns much."""
    return _samples()[:4]


def _wide(name: str) -> Any:
    """One of the zoo with rows that blocks of 32 divide: 8 heads of 8, and networks of 96."""
    found = DECODERS[name][0]
    sizes = {"heads": (8, 8), "kv_heads": (8, 8) if found.kv_heads == (6, 6) else (2, 2), "ffn": (96, 96)}
    if name == "rope_gelu_pruned":
        sizes = {"heads": (8, 4), "kv_heads": (2, 1), "ffn": (96, 64)}
    return decoder(replace(found, width=64, **sizes))


def _factory(name: str) -> Any:
    return _wide(name), _samples()[0]


def tied() -> Any:
    return _factory("flag")


def fused() -> Any:
    return _factory("fused")


def strided() -> Any:
    return _factory("strided")


def uneven() -> Any:
    return _factory("rope_gelu_pruned")


def learned_positions() -> Any:
    return _factory("gpt")


OWN = str(Path(__file__).resolve())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of one kind of text: to calibrate on and to be judged by."""
    folder = tmp_path_factory.mktemp("text")
    source = HELDOUT.read_text(encoding="utf-8") if HELDOUT.exists() else "def f(x):\n    return x + 1\n" * 400
    (folder / "seen.txt").write_text(source[20_000:45_000])
    (folder / "held.txt").write_text(source[:8_000])
    return folder


@pytest.fixture(scope="module")
def plain(text: Path) -> Path:
    return compiled(pyllama(), text / "plain", "--quant", "q4_0", "--eval", text / "held.txt", *tokens(64))


def test_calibration_loses_less_in_the_same_bytes(text, plain):
    """On text of other modules. Some 6 k tokens calibrate; with all there are, the divergence is less than half of ggml's."""
    flags = ["--quant", "q4_0", "--eval", text / "held.txt", "--calibration", text / "seen.txt", *tokens(64)]
    found = compiled(pyllama(), text / "compensated", *flags)
    before, after = (report_of(d)["verify"]["language_model"]["text"]["kl"] for d in (plain, found))
    assert after <= 0.7 * before
    assert (found / "model.gguf").stat().st_size == (plain / "model.gguf").stat().st_size
    assert report_of(found)["facts"]["gguf"]["rounding"] == "compensated" and report_of(plain)["facts"]["gguf"]["rounding"] == "nearest"
    assert {n: t[:2] for n, t in stored(found / "model.gguf").items()} == {n: t[:2] for n, t in stored(plain / "model.gguf").items()}


def test_an_importance_matrix_goes_out_and_in(tmp_path, text):
    """Weighed by calibration data, and by the matrix that this wrote: the same codes but for the last bit of a mean, and not the plain ones."""
    model = tiny_llama(tmp_path / "llama")
    by_text = compiled(model, tmp_path / "a", "--quant", "q4_k_m", "--calibration", text / "seen.txt", "--compensate", "none", *tokens(32))
    by_file = compiled(model, tmp_path / "b", "--quant", "q4_k_m", "--imatrix", by_text / "imatrix.gguf", *tokens(32))
    nearest = compiled(model, tmp_path / "c", "--quant", "q4_k_m", *tokens(32))
    files = [(d / "model.gguf").read_bytes() for d in (by_text, by_file, nearest)]
    differing = [sum(a != b for a, b in zip(files[0], other, strict=True)) / len(files[0]) for other in files[1:]]
    assert differing[0] <= 0.001 and differing[1] >= 0.05
    assert not (by_file / "imatrix.gguf").exists()
    assert [report_of(d)["facts"]["gguf"]["rounding"] for d in (by_text, by_file)] == [
        "importance of calibration data",
        "importance matrix",
    ]


def test_the_matrix_holds_the_mean_squares_of_the_inputs(tmp_path):
    """Against the module's own input, hooked in PyTorch."""
    import gguf

    found = compiled(f"{OWN}:fused", tmp_path / "out", "--quant", "q4_0", "--calibration", f"{OWN}:calibration", "--compensate", "none")
    model, seen = _wide("fused"), []
    model.t[1].w.c.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    with torch.no_grad():
        for sample in _samples():
            model(*sample)
    wanted = torch.cat([x.flatten(0, -2) for x in seen]).square()
    arrays = {t.name: torch.from_numpy(t.data.copy()) for t in gguf.GGUFReader(found / "imatrix.gguf").tensors}
    count = arrays["blk.1.ffn_down.weight.counts"].item()
    torch.testing.assert_close(arrays["blk.1.ffn_down.weight.in_sum2"].flatten() / count, wanted.mean(0), rtol=1e-4, atol=1e-6)
    assert len(arrays) == 2 * (2 * 7 + 1)  # each layer of two blocks, and the head


@pytest.mark.parametrize("factory", [tied, fused, strided, uneven, learned_positions], ids=lambda f: f.__name__)
def test_every_spelling_of_a_model_is_rounded_in_its_own_place(tmp_path, factory):
    """A weight that went to the wrong rows, columns or head would not verify, nor lose less."""
    flags = ["--quant", "q4_0", "--calibration", f"{OWN}:calibration"]
    lost = []
    for name, more in (("nearest", ["--compensate", "none"]), ("compensated", [])):
        compiled(f"{OWN}:{factory.__name__}", tmp_path / name, *flags, *more)
        lost.append(report_of(tmp_path / name)["verify"]["language_model"]["random"]["kl"])
    assert lost[1] < lost[0]


def test_an_encoder_is_calibrated_on_sentences(tmp_path):
    """Padding does not count, and the artifact verifies."""
    (tmp_path / "sentences.txt").write_text("\n".join("abcdefghij"[: 3 + i % 7] for i in range(60)))
    flags = ["--quant", "q5_0", "--allow-approximate", "--calibration", tmp_path / "sentences.txt", *tokens(16)]
    found = compiled(tiny_bert(tmp_path / "bert"), tmp_path / "out", *flags)
    assert report_of(found)["facts"]["gguf"]["rounding"] == "compensated"
    assert report_of(found)["verify"]["language_model"]["min_cosine"] >= 0.98


@pytest.mark.parametrize("factory", ["scaled_embeddings", "position_parameter"])
def test_tables_that_are_not_the_weight_itself_are_rounded_and_verified(tmp_path, factory):
    """The file has the rows times 8, or without an axis; the program that is compared has them as the model does."""
    found = compiled(f"{HERE}:{factory}", tmp_path / "out", "--quant", "q4_0", "--calibration", f"{OWN}:calibration")
    assert report_of(found)["verify"]["language_model"]["random"]["kl"] <= 0.05  # 4.5 bits a weight; a wrong table is off by nats


def test_too_little_data_is_noted(tmp_path):
    found = compiled(f"{OWN}:fused", tmp_path / "out", "--quant", "q4_0", "--calibration", f"{OWN}:little")
    assert "calibrated on 48 tokens, 0.5 for each column of blk.0.ffn_down.weight" in report_of(found)["facts"]["gguf"]["notes"][-1]


def test_a_table_alone_is_rounded_without_a_matrix(tmp_path):
    """No layer is in blocks, so nothing is known of inputs."""
    flags = ["--quant", "f16", "--tensor-type", "token_embd=q4_0", "--calibration", f"{OWN}:calibration"]
    found = compiled(f"{OWN}:fused", tmp_path / "out", *flags)
    assert report_of(found)["facts"]["gguf"]["formats"]["q4_0"] == 1 and not (found / "imatrix.gguf").exists()


def test_the_same_data_give_the_same_bytes(tmp_path):
    flags = ["--quant", "q4_k_m", "--calibration", f"{OWN}:calibration"]
    first, second = (compiled(f"{OWN}:fused", tmp_path / name, *flags) for name in "ab")
    for name in ("model.gguf", "imatrix.gguf", "manifest.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_two_sources_of_rounding_and_a_damaged_matrix_are_refused(edgecc, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    model = [f"{HERE}:hand_written", "--target", "gguf", "--quant", "q4_0", "-o", tmp_path / "out"]
    both = edgecc("compile", *model, "--imatrix", tmp_path / "bad.gguf", "--calibration", f"{OWN}:calibration")
    assert both.code == 2 and "both say what rounding goes by" in both.err
    damaged = edgecc("compile", *model, "--imatrix", tmp_path / "bad.gguf")
    assert damaged.code == 2 and "no importance matrix" in damaged.err
    missing = edgecc("compile", *model, "--imatrix", tmp_path / "none.gguf")
    assert missing.code == 2 and "none.gguf" in missing.err
    assert not (tmp_path / "out").exists()
