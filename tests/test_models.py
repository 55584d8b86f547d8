"""The zoo traces: every model becomes a Program that equals PyTorch, fixed and with dynamic sizes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from edgecc.ir.capture import eager, trace
from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program
from edgecc.ir.provenance import source_line
from tests.models import ZOO, build

DYNAMIC = [name for name, model in ZOO.items() if model.dims]


@pytest.fixture(autouse=True)
def _one_kernel_and_one_thread() -> Iterator[None]:
    """nn.TransformerEncoderLayer and nn.MultiheadAttention run fused kernels in eager mode that they do not trace to: off, all is bit-equal.

    One thread: with models this small the threads of torch cost more than the work.
    """
    fused, threads = torch.backends.mha.get_fastpath_enabled(), torch.get_num_threads()
    torch.backends.mha.set_fastpath_enabled(False)
    torch.set_num_threads(1)
    yield
    torch.backends.mha.set_fastpath_enabled(fused)
    torch.set_num_threads(threads)


_built = cache(build)


@cache
def _traced(name: str, dynamic: bool = False) -> Program:
    model, args, kwargs = _built(name)
    return trace(model, args, kwargs, dims=ZOO[name].dims if dynamic else None)


def _assert_bit_equal(name: str, program: Program, seed: int, **sizes: int) -> None:
    model, _, _ = _built(name)
    args, kwargs = ZOO[name].example(seed, **sizes)
    inputs = _leaves(args, kwargs)
    program.signature.check(inputs)
    expected, found = eager(model, args, kwargs)(*inputs), program(*inputs)
    assert len(found) == len(expected) == len(program.signature.outputs)
    for spec, a, b in zip(program.signature.outputs, expected, found, strict=True):
        assert a.dtype == b.dtype == spec.dtype
        assert torch.equal(a, b), f"{spec.name} {sizes or ''}: differs by {(a.double() - b.double()).abs().max():.1e}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_the_program_is_pytorch_bit_for_bit_pure_whole_and_located(name: str) -> None:
    """One trace a model, and all that is claimed of it."""
    program = _traced(name)
    _assert_bit_equal(name, program, seed=11)
    _assert_pure_and_whole(program)
    assert sum(bool(source_line(n)) for n in program.calls()) >= 0.99 * len(program.calls())
    assert (_multiply_accumulates(program) < 3_000_000) == ZOO[name].small
    assert sum(t.numel() for t in program.weights().values()) < 200_000


def _assert_pure_and_whole(program: Program) -> None:
    """No operator writes but detach_, which writes no data; norms and attention stay one operator, also where a view was written to."""
    aten_calls = [n for n in program.calls() if isinstance(n.target, torch._ops.OpOverload)]
    assert [n for n in aten_calls if n.target._schema.is_mutable] == program.calls(torch.ops.aten.detach_.default)
    assert not [
        n for n in aten_calls if operator_name(n.target).startswith(("aten._native", "aten.native", "aten._scaled", "aten._unsafe"))
    ]


def _multiply_accumulates(program: Program) -> int:
    with FlopCounterMode(display=False) as counter:
        program(*program.examples)
    return counter.get_total_flops() // 2


@pytest.mark.slow
@pytest.mark.parametrize("name", DYNAMIC)
def test_the_dynamic_program_equals_pytorch_at_every_kind_of_size(name: str) -> None:
    """The smallest sizes, the largest, and odd ones between, each with inputs that were not traced with."""
    program, dims = _traced(name, dynamic=True), ZOO[name].sizes()
    assert {d.name: (d.lower, d.upper) for d in program.signature.dims} == {d.name: (d.lower, d.upper) for d in dims.values()}
    for sizes in ({n: d.lower for n, d in dims.items()}, {n: d.upper for n, d in dims.items()}, {n: d.lower + 2 for n, d in dims.items()}):
        _assert_bit_equal(name, program, seed=12, **sizes)


def test_the_zoo_is_large_enough() -> None:
    assert len(ZOO) >= 30
    assert len(DYNAMIC) >= 30
    assert sum(model.small for model in ZOO.values()) >= 25


@pytest.mark.parametrize("name", ["mobilenet_v2", "vit", "recommender", "keyword_inputs"])
def test_a_seed_gives_the_same_model_and_inputs(name: str) -> None:
    (one, args, kwargs), (two, same_args, same_kwargs) = build(name, 3), build(name, 3)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert torch.equal(
        eager(one, args, kwargs)(*_leaves(args, kwargs))[0], eager(two, same_args, same_kwargs)(*_leaves(same_args, same_kwargs))[0]
    )
    other = build(name, 4)[0]
    assert not all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["mobilenet_v2", "vit", "convnext", "residual_mlp"])
def test_norms_positions_and_scales_are_not_left_at_ones_and_zeros(name: str) -> None:
    model = build(name)[0]
    assert all(p.unique().numel() > 1 for p in model.parameters() if p.numel() > 1)
    for norm in (m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))):
        assert float(norm.running_mean.abs().min()) > 0
        assert float(norm.running_var.min()) >= 0.5


def _leaves(args: tuple[object, ...], kwargs: dict[str, object]) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
