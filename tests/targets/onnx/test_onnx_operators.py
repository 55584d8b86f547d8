"""Every family of operators, lowered to ONNX and run in ONNX Runtime, against PyTorch eager.

The cases are those of the lowering to TVM, whose tests say what they claim; those that ONNX has no operator for, or
that ONNX Runtime computes otherwise, are named here.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from edgecc.targets.onnx_common.lowering import refuse
from edgecc.testing import trace_function
from tests.targets import test_lowering_operators as families
from tests.targets.lowering_host import Together
from tests.targets.onnx.onnx_host import check, check_together
from tests.targets.test_lowering_operators import INF, NAN, ints, rand

FAMILIES = sorted(n for n, f in vars(families).items() if n.startswith("test_") and not hasattr(f, "pytestmark"))
REFUSED = {
    "atan2 of torch.float32": "no lowering to ONNX",
    "pixels": "no lowering to ONNX",  # the pipeline opens them
    "running": "no lowering to ONNX",  # cumprod
    "dilated": "an output padding that reaches beyond the kernel",
}
#: NaN: its sign is NaN in ONNX Runtime and 0 in PyTorch; TopK leaves it anywhere, and PyTorch sorts it last.
OTHERWISE = {"sign of torch.float32", "NaN"}


def _reasons(case: Any, opset: int) -> set[str]:
    function, inputs = case
    program = trace_function(Together([(function, inputs)]), list(inputs))
    return {reason for node in program.calls() if (reason := refuse(node, opset))}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("opset", [20, 23])
def test_a_family_computes_what_pytorch_computes(family, opset, monkeypatch):
    def together(cases: dict[str, Any], tolerance: float = 2e-6) -> None:
        for name in cases.keys() & REFUSED.keys():
            assert _reasons(cases[name], opset) == {REFUSED[name]}
        check_together({n: c for n, c in cases.items() if n not in REFUSED.keys() | OTHERWISE}, tolerance, opset)

    monkeypatch.setattr(families, "check_together", together)
    monkeypatch.setattr(families, "check", functools.partial(check, opset=opset))
    getattr(families, family)()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "RNN relu"])
@pytest.mark.parametrize(
    ("bidirectional", "layers", "batch_first", "bias", "start"), [(False, 1, True, True, False), (True, 2, False, False, True)]
)
def test_recurrent_layers_are_one_node_each(kind, bidirectional, layers, batch_first, bias, start, monkeypatch):
    monkeypatch.setattr(families, "check", check)
    families.test_recurrent_layers(kind, bidirectional, layers, batch_first, bias, start)


@pytest.mark.parametrize("opset", [17, 18, 20, 21, 23])
def test_composites_have_a_form_in_every_opset(opset):
    x, w, image = rand(2, 3, 8), rand(8), rand(2, 4, 5, 6)
    cases = {
        "gelu": (lambda x: (F.gelu(x), F.gelu(x, approximate="tanh"), F.mish(x), F.hardswish(x)), (x,)),
        "norms": (lambda x, w: (F.layer_norm(x, (8,), w, w), F.rms_norm(x, (8,), w), F.rms_norm(x, (3, 8))), (x, w)),
        "groups": (lambda x, w: (F.group_norm(x, 2, w[:4], w[4:]), F.group_norm(x, 4), F.instance_norm(x)), (image, w)),
        "reductions": (lambda x: (x.sum(1), x.mean((0, 2)), x.amax(1), x.argmin(2), x.norm(dim=1), x.var(1), x.cumsum(1)), (x,)),
        "splits": (lambda x: (*x.split([1, 2], 1), F.glu(x)), (x,)),
        "resize": (lambda x: (F.interpolate(x, scale_factor=2), F.interpolate(x, (9, 7), mode="bilinear")), (image,)),
    }
    check_together(cases, tolerance=5e-6, opset=opset)  # a norm divides by the deviation of eight elements


def test_integers_divide_as_pytorch_divides_them():
    x, y = torch.tensor([-7, -6, 7, 6, -1, 0]), torch.tensor([2, -4, -2, 4, 3, -5])
    cases = {
        "tensors": (lambda x, y: (x // y, x % y, torch.fmod(x, y), torch.div(x, y, rounding_mode="trunc"), x / y), (x, y)),
        "numbers": (lambda x: (x // 2, x // -2, x % 4, x % -4, x / 4), (x,)),
        "narrow": (lambda x, y: (x // y, x % y, x + 120), (x.to(torch.int8), y.to(torch.int8))),
        "flags": (lambda x: ((x > 0) + (x < 7), (x > 0) * 3, (x > 0) & (x < 7), ~(x > 0), (x > 0).sum(), (x > 0) == (x > 1)), (x,)),
    }
    check_together(cases)


def test_slices_count_from_the_end_and_backwards():
    cases = {
        "slices": (lambda x: (x[-2:], x[:, :-1], x[..., 1:100:2], x[-1], x[:, -2], x.flip(0, 1), x.narrow(1, -3, 2)), (rand(4, 5, 6),)),
        "indices": (lambda x, i: (x[i], x[:, i], x[i, :, i], x[i[:, None], i]), (rand(5, 5, 5), ints(-5, 0, 4))),
    }
    check_together(cases)


@pytest.mark.parametrize("options", [{"opset": 20}, {"opset": 23}, {"opset": 23, "attention": True}])
def test_a_row_without_a_key_gives_zeros(options):
    q, k, v = rand(2, 4, 5, 8), rand(2, 4, 7, 8), rand(2, 4, 7, 6)
    mask = rand(2, 1, 5, 7) > -0.5
    mask[0, 0, 2] = False
    added = torch.where(mask, rand(2, 1, 5, 7), -INF)
    attend = F.scaled_dot_product_attention
    cases = {
        "bool": (attend, (q, k, v, mask)),
        "float": (attend, (q, k, v, added)),
        "constant": (lambda q, k, v: attend(q, k, v, mask.clone()), (q, k, v)),
        "causal": (lambda q, k, v: (attend(q, k, v, is_causal=True), attend(q, k[:, :2], v[:, :2], scale=0.2, enable_gqa=True)), (q, k, v)),
    }
    check_together(cases, **options)


def test_float64_is_refused_where_onnx_runtime_has_no_kernel():
    program = trace_function(lambda x: (F.gelu(x), x.exp(), torch.asin(x)), rand(3).double())
    why = "float64, which ONNX Runtime has no kernel for"
    assert [refuse(n, 20) for n in program.calls()] == [why, None, why]
    check_together({"float64": (lambda x: (x.exp() + 1, x.softmax(1), x @ x, x.sin(), F.layer_norm(x, (4,))), (rand(4, 4).double(),))})


def test_nan_and_infinity_pass_through():
    edges = torch.tensor([1.0, -2.0, INF, -INF, NAN])
    names = (torch.relu, torch.sigmoid, torch.tanh, torch.abs, torch.isnan, torch.isfinite, torch.exp, F.softshrink, F.hardshrink)
    cases = {f.__name__: (f, (edges,)) for f in names}
    cases["limits"] = (lambda x: (x.clamp(-1, 1), x.clamp(min=0), x.clamp(max=0), torch.maximum(x, x.flip(0))), (edges,))
    check_together(cases)
