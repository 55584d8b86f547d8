"""Which format each tensor gets: by hand for a few, and as llama.cpp's own quantizer says for many."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecc.errors import UsageError
from edgecc.targets.gguf.blocks import FORMATS
from edgecc.targets.gguf.mixture import MIXTURES, QUANTIZATION_VERSION, Choice, Model, assign, file_type
from edgecc.targets.gguf.sizes import sizes, total
from tests.targets.gguf import quantize_oracle
from tests.targets.gguf.mixture_host import ARCHITECTURES, Shape, tensors, write_sparse

LLAMA = Shape("llama", 8)


def formats(shape: Shape, mixture: str, overrides: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    return {name: choice.format for name, choice in assign(tensors(shape), shape.model, mixture, overrides).items()}


def layers(found: dict[str, str], part: str, wanted: str) -> list[int]:
    """The layers whose tensor of this name has the wanted format."""
    return [int(name.split(".")[1]) for name, format_ in found.items() if f".{part}.weight" in name and format_ == wanted]


def test_q4_k_m_gives_more_bits_to_values_and_down_projections_of_the_outer_and_every_third_layer() -> None:
    found = formats(LLAMA, "q4_k_m")
    assert layers(found, "attn_v", "q6_k") == layers(found, "ffn_down", "q6_k") == [0, 3, 6, 7]
    assert layers(found, "attn_q", "q4_k") == layers(found, "ffn_up", "q4_k") == list(range(8))
    assert (found["output.weight"], found["token_embd.weight"], found["output_norm.weight"]) == ("q6_k", "q4_k", "f32")


def test_a_fused_projection_counts_as_values() -> None:
    assert layers(formats(Shape("gpt2", 8), "q4_k_m"), "attn_qkv", "q6_k") == [0, 3, 6, 7]


def test_q4_k_s_gives_five_bits_to_four_value_matrices_and_the_first_eighth_of_the_down_projections() -> None:
    found = formats(replace(LLAMA, layers=16), "q4_k_s")
    assert layers(found, "attn_v", "q5_k") == [0, 1, 2, 3]
    assert layers(found, "ffn_down", "q5_k") == [0, 1]


def test_a_tied_embedding_gets_the_format_of_the_output() -> None:
    assert formats(replace(LLAMA, tied=True), "q4_k_m")["token_embd.weight"] == "q6_k"
    assert formats(replace(LLAMA, tied=True), "q8_0")["token_embd.weight"] == "q8_0"


def test_eight_experts_keep_keys_and_values_in_eight_bits() -> None:
    found = formats(replace(LLAMA, experts=8), "q4_k_m")
    assert layers(found, "attn_k", "q8_0") == layers(found, "attn_v", "q8_0") == layers(found, "attn_output", "q5_k") == list(range(8))
    assert found["blk.0.ffn_gate_inp.weight"] == "f32"


def test_eighty_layers_of_shared_values_get_five_bits_where_four_were_meant() -> None:
    found = formats(Shape("llama", 80, heads=8, kv_heads=1), "q4_k_m")
    assert Counter(f for name, f in found.items() if "attn_v" in name) == {"q6_k": 40, "q5_k": 40}


def test_positions_token_types_and_biases_stay_float32() -> None:
    found = formats(Shape("bert", 1), "q4_0")
    assert {name for name, f in found.items() if f != "f32"} == {
        "token_embd.weight",
        *(f"blk.0.{part}.weight" for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")),
    }


def test_a_width_no_block_divides_falls_back_and_says_why() -> None:
    model, reason = Model("bert", 6, 12, 12), "384 columns are no multiple of 256"
    shape = {"blk.0.attn_q.weight": (384, 384), "blk.0.attn_v.weight": (384, 384), "blk.0.ffn_up.weight": (1536, 100)}
    assert assign(shape, model, "q4_k_s") == {
        "blk.0.attn_q.weight": Choice("q5_0", "q4_k", reason),
        "blk.0.attn_v.weight": Choice("q5_1", "q5_k", reason),
        "blk.0.ffn_up.weight": Choice("f16", "q4_k", "100 columns are no multiple of 32"),
    }
    assert assign(shape, model, "q8_0")["blk.0.ffn_up.weight"] == Choice("f16", "q8_0", "100 columns are no multiple of 32")


def test_a_matrix_of_one_row_has_one_dimension() -> None:
    assert assign({"token_embd.weight": (1, 256)}, LLAMA.model, "q4_k_m")["token_embd.weight"].format == "f32"


@pytest.mark.parametrize("mixture", ["f32", "f16", "bf16"])
def test_whole_formats_change_matrices_alone(mixture: str) -> None:
    found = formats(LLAMA, mixture)
    assert {found["blk.0.attn_v.weight"], found["output.weight"]} == {mixture}
    assert found["blk.0.attn_norm.weight"] == "f32"


def test_the_first_override_that_is_found_wins_and_says_so() -> None:
    found = assign(tensors(LLAMA), LLAMA.model, "Q4_K_M", [("blk\\.0\\.attn_v", "Q8_0"), ("attn_v", "q5_0")])
    assert found["blk.0.attn_v.weight"] == Choice("q8_0", "q8_0", "--tensor-type blk\\.0\\.attn_v=q8_0")
    assert found["blk.1.attn_v.weight"].format == "q5_0"


def test_an_override_of_a_whole_format_is_obeyed() -> None:
    assert assign(tensors(LLAMA), LLAMA.model, "f16", [("token_embd", "q8_0")])["token_embd.weight"].format == "q8_0"


def test_unknown_names_are_usage_errors_with_the_nearest() -> None:
    shape = tensors(LLAMA)
    with pytest.raises(UsageError, match=r"unknown mixture 'q4_km'.*\n.*did you mean 'q4_k_m'"):
        assign(shape, LLAMA.model, "q4_km")
    with pytest.raises(UsageError, match=r"unknown format 'q80'.*\n.*did you mean 'q8_0'"):
        assign(shape, LLAMA.model, "q4_k_m", [("attn_v", "q80")])
    with pytest.raises(UsageError, match="no regular expression"):
        assign(shape, LLAMA.model, "q4_k_m", [("attn_(", "q8_0")])
    with pytest.raises(UsageError, match=r"attn_vv=q8_0: no quantized tensor has such a name"):
        assign(shape, LLAMA.model, "q4_k_m", [("attn_vv", "q8_0")])
    with pytest.raises(UsageError, match="no quantized tensor has such a name"):
        assign(shape, LLAMA.model, "q4_k_m", [("attn_norm", "q8_0")])


def test_file_types_are_those_of_the_specification() -> None:
    from gguf import LlamaFileType

    names = {"f32": "ALL_F32", "q2_k": "MOSTLY_Q2_K"}
    assert {mixture: file_type(mixture) for mixture in MIXTURES} == {
        mixture: LlamaFileType[names.get(mixture, f"MOSTLY_{mixture.upper()}")] for mixture in MIXTURES
    }


def test_sizes_are_those_of_the_format_and_the_total_counts_every_weight() -> None:
    shape = {"output.weight": (10, 256), "output_norm.weight": (256,)}
    rows = sizes(shape, assign(shape, LLAMA.model, "q6_k"))
    assert [(row.name, row.format, row.bytes, row.bits) for row in rows] == [
        ("output.weight", "q6_k", 10 * 210, 6.5625),  # 210 bytes for 256 weights: the block of ggml
        ("output_norm.weight", "f32", 1024, 32.0),
    ]
    whole = total(rows)
    assert (whole.shape, whole.bytes, whole.bits) == ((2816,), 3124, 8 * 3124 / 2816)


def _configurations() -> list[Shape]:
    """Every architecture at a few sizes, and what the rules single out: shared values, experts, 80 layers, odd widths."""
    draw = random.Random(0)
    made = [
        Shape(architecture, depth, width, inner, tied=draw.random() < 0.5)
        for architecture in ARCHITECTURES
        for depth in (1, draw.randint(4, 10), draw.randint(11, 20))
        for width, inner in [draw.choice([(256, 512), (384, 1536), (96, 256), (512, 352), (320, 96)])]
    ]
    made += [
        Shape(name, depth, heads=8, kv_heads=kv)
        for name in ("llama", "qwen2", "qwen3", "starcoder2")
        for depth, kv in ((24, 2), (80, 1), (80, 8))
    ]
    made += [Shape("llama", depth, experts=count, kv_heads=1) for depth in (3, 17) for count in (4, 8)]
    return [*made, Shape("llama", 4, 48, 256), Shape("llama", 4, 256, 72), Shape("bert", 2, 100, 100), Shape("gpt2", 3, 132, 64)]


def _types(overrides: tuple[tuple[str, str], ...]) -> tuple[tuple[str, int], ...]:
    return tuple((pattern, FORMATS[format_].code) for pattern, format_ in overrides)


def test_a_file_that_llama_cpp_quantizes_has_our_formats_file_type_and_version(tmp_path: Path) -> None:
    from gguf import GGUFReader

    quantize_oracle.require()
    source, made = tmp_path / "f32.gguf", tmp_path / "q4_k_m.gguf"
    write_sparse(source, LLAMA)
    (types,) = quantize_oracle.quantize([quantize_oracle.Job(str(source), file_type("q4_k_m"), str(made))])
    read = GGUFReader(made)
    assert {t.name: t.tensor_type.name.lower() for t in read.tensors} == types == formats(LLAMA, "q4_k_m")
    keys = {name: field.contents() for name, field in read.fields.items()}
    assert (keys["general.file_type"], keys["general.quantization_version"]) == (file_type("q4_k_m"), QUANTIZATION_VERSION)
    assert sum(t.n_bytes for t in read.tensors) == total(sizes(tensors(LLAMA), assign(tensors(LLAMA), LLAMA.model, "q4_k_m"))).bytes


@pytest.mark.slow
def test_every_choice_is_that_of_llama_cpp(tmp_path: Path) -> None:
    quantize_oracle.require()
    given: tuple[tuple[str, str], ...] = (("blk\\.[02]\\.(attn_v|attn_qkv)", "q5_k"), ("ffn_down", "q3_k"), ("attn_output", "f16"))
    configurations, jobs = [], []
    weights = str(tmp_path / "weights.npz")  # of no tensor: that there are some decides, too
    np.savez(weights, none=np.ones(1))
    for number, shape in enumerate(_configurations()):
        file = tmp_path / f"{number}.gguf"
        write_sparse(file, shape)
        for mixture in MIXTURES:
            for overrides, importance in (((), ""), ((), weights), (given, "")):
                if overrides and mixture in ("f32", "f16", "bf16"):  # llama.cpp does not obey these
                    continue
                configurations.append((shape, mixture, overrides, importance))
                jobs.append(quantize_oracle.Job(str(file), file_type(mixture), overrides=_types(overrides), importance=importance))
    found = quantize_oracle.quantize(jobs)
    differ, refused = [], 0
    for (shape, mixture, overrides, importance), wanted in zip(configurations, found, strict=True):
        got = {name: c.format for name, c in assign(tensors(shape), shape.model, mixture, overrides, importance=bool(importance)).items()}
        if wanted is None:
            refused += 1
            assert shape.width % 32 or shape.inner % 32, "llama.cpp refuses where not even 32 divides the columns"
        elif got != wanted:
            differ.append(
                (shape, mixture, overrides, importance, {n: (got.get(n), wanted.get(n)) for n in wanted if got.get(n) != wanted[n]})
            )
    assert not differ
    assert len(found) - refused >= 2000
    assert refused < 150
