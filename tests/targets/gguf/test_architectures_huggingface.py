"""Models of Hugging Face, read from their graphs alone, compute the same in llama.cpp; those that cannot are refused."""

from __future__ import annotations

import pytest
import torch

from edgecc.errors import UnsupportedError
from edgecc.ir.signature import Dim
from tests.targets.gguf.huggingface_host import MODELS, REFUSED, build
from tests.targets.gguf.parity_host import agrees, ids, lowered, parity, plan_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_the_same(name):
    kind, config, architecture = MODELS[name]
    found = parity(build(kind, config), ids(), other=ids(seed=3))
    assert found.architecture == architecture
    assert agrees(found), (found.error, found.agreement)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "gpt neox", "bert"])
def test_a_mask_of_ones_and_any_length_change_nothing(name):
    kind, config, architecture = MODELS[name]
    dims = {"ids": {0: Dim("batch", 1, 8), 1: Dim("seq", 2, 60)}, "mask": {0: Dim("batch", 1, 8), 1: Dim("seq", 2, 60)}}
    mask = torch.ones(2, 12, dtype=torch.int64)
    found = parity(build(kind, config), ids(batch=2), dims=dims, mask=mask)
    assert found.architecture == architecture
    assert agrees(found), (found.error, found.agreement)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_for_what_no_architecture_has(name):
    kind, config, reason = REFUSED[name]
    with pytest.raises(UnsupportedError, match=reason):
        plan_of(lowered(build(kind, config), ids()))


def test_a_window_that_the_example_does_not_show_is_found_where_the_program_takes_more_tokens():
    program = lowered(
        build("MistralForCausalLM", {**MODELS["mistral"][1], "sliding_window": 32}), ids(), dims={"ids": {1: Dim("seq", 2, 64)}}
    )
    with pytest.raises(UnsupportedError, match=r"with 64 tokens its mask is another .* the last sees 32"):
        plan_of(program)
