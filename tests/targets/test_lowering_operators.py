"""Every family of operators, lowered and run on the host, against PyTorch eager: many small functions in one program."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.targets.lowering_host import Case, check, check_together

pytest.importorskip("tvm")
pytestmark = pytest.mark.slow  # each compiles dozens of kernels

INF, NAN = float("inf"), float("nan")
EDGES = [-3.5, -2.5, -1.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5, 2.5, 30.0, -30.0, 90.0, -90.0]
FLOATS = torch.tensor([*EDGES, INF, -INF, NAN])
FINITE = torch.tensor(EDGES)
UNIT = torch.linspace(0.01, 0.99, 17)
INTS = torch.tensor([-7, -3, -1, 0, 1, 2, 5, 100])
DIVISORS = torch.tensor([2, -2, 3, -3, 5, 7, -4, 3])
BOOLS, OTHERS = torch.tensor([True, False, True, True]), torch.tensor([False, False, True, True])


def rand(*sizes: int) -> torch.Tensor:
    """Normal numbers that depend on the sizes alone."""
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(sum(sizes)))


def ints(low: int, high: int, *sizes: int) -> torch.Tensor:
    return torch.randint(low, high, sizes, generator=torch.Generator().manual_seed(sum(sizes)))


def _named(namespace: Any, names: str, *operands: torch.Tensor) -> dict[str, Case]:
    return {f"{name} of {operands[0].dtype}": (getattr(namespace, name), operands) for name in names.split()}


def _with_scalars(names: str, x: torch.Tensor) -> dict[str, Case]:
    functions = itertools.product(names.split(), (3, -2, 2.5))
    return {f"{n} by {v} of {x.dtype}": (lambda x, n=n, v=v: getattr(torch, n)(x, v), (x,)) for n, v in functions}


def test_activations() -> None:
    names = "relu relu6 sigmoid tanh silu mish hardswish hardsigmoid logsigmoid softplus elu selu celu leaky_relu softsign"
    cases = _named(F, names + " tanhshrink hardshrink softshrink hardtanh", FLOATS)
    cases |= {
        "gelu": (F.gelu, (FINITE,)),  # of infinity PyTorch's vectorized erf-GELU is NaN
        "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), (FINITE,)),
        "options": (
            lambda x: (F.elu(x, 0.7), F.celu(x, 0.7), F.leaky_relu(x, 0.2), F.softplus(x, 2, 5), F.threshold(x, 0.1, 20)),
            (FLOATS,),
        ),
        "prelu": (lambda x, w: (F.prelu(x, w), F.prelu(x, w[:1]), F.prelu(x[..., 0], w)), (rand(2, 3, 4), UNIT[:3])),
        "glu": (lambda x: (F.glu(x, 1), F.glu(x)), (rand(2, 6, 4),)),
        "relu of ints": (F.relu, (INTS,)),
    }
    check_together(cases)


def test_functions_of_one_operand() -> None:
    cases = _named(torch, "exp expm1 sin cos tan atan sinh cosh asinh erf erfc neg abs sign floor ceil trunc round frac square", FLOATS)
    cases |= _named(torch, "reciprocal exp2 isnan isinf isfinite logical_not positive log sqrt", FLOATS)
    cases |= {f"{n} in (0, 1)": (getattr(torch, n), (UNIT,)) for n in ["rsqrt", "log2", "log10", "log1p", "asin", "acos", "atanh"]}
    cases |= _named(torch, "exp sin sigmoid neg abs sign floor round square bitwise_not isnan isfinite logical_not", INTS)
    cases |= {
        "acosh": (torch.acosh, (UNIT + 1,)),
        "decimals": (lambda x: (torch.round(x, decimals=1), torch.round(x * 99, decimals=-1)), (UNIT,)),
    }
    check_together(cases)


def test_casts_truncate_wrap_and_test_as_pytorch_does() -> None:
    types = (torch.int64, torch.int32, torch.int8, torch.bool, torch.float64, torch.float32)
    floats, wide = torch.tensor([-2.7, -0.2, 0.0, 0.9, 3.99, 100.0]), torch.tensor([-300, -1, 0, 1, 127, 300])
    cases: dict[str, Case] = {
        f"{x.dtype} to {t}": (lambda x, t=t: x.to(t), (x,)) for x, t in itertools.product((floats, wide, BOOLS), types)
    }
    cases["uint8"] = (lambda x: (x.to(torch.uint8), x.to(torch.uint8).float()), (torch.tensor([0.0, 0.9, 3.99, 200.0]),))
    cases["wrap to uint8"] = (lambda x: x.to(torch.uint8), (wide,))
    cases["other forms"] = (lambda x: (x.float(), x.double(), x.type_as(x), x.to(torch.float32).to("cpu")), (INTS,))
    cases["NaN is true"] = (lambda x: x.bool(), (FLOATS,))
    check_together(cases)


def test_arithmetic_promotes_and_rounds_as_pytorch_does() -> None:
    x, y = rand(3, 4) * 5, rand(4, 3).T.contiguous() * 2
    names = "add sub mul div maximum minimum fmod remainder floor_divide eq ne lt le gt ge logical_and"
    cases = _named(torch, names + " atan2 logical_or logical_xor", x, y)
    cases |= {f"{n} broadcast": (getattr(torch, n), (rand(3, 1, 4) * 5, rand(2, 1))) for n in names.split()}
    cases |= _named(torch, names + " bitwise_and bitwise_or bitwise_xor", INTS, DIVISORS)
    cases |= _named(torch, names, torch.tensor([-7, -3, 2, 100], dtype=torch.int8), torch.tensor([3, -2, 4, 5], dtype=torch.int32))
    cases |= _named(torch, "add mul eq ne lt maximum minimum bitwise_and bitwise_or bitwise_xor logical_xor", BOOLS, OTHERS)
    cases |= _with_scalars("add sub mul div fmod remainder floor_divide eq ge", x) | _with_scalars(
        "add sub mul div remainder floor_divide ge", INTS
    )
    for mode in (None, "floor", "trunc"):
        cases[f"{mode}"] = (lambda x, y, mode=mode: torch.div(x, y, rounding_mode=mode), (x, y))
        cases[f"{mode} ints"] = (lambda x, y, mode=mode: torch.div(x, y, rounding_mode=mode), (INTS, DIVISORS))
        cases[f"{mode} scalar"] = (lambda x, mode=mode: torch.div(x, 2, rounding_mode=mode), (INTS,))
    check_together(cases)


def test_mixed_arithmetic() -> None:
    small, byte = torch.tensor([-128, -1, 3, 127], dtype=torch.int8), torch.tensor([0, 1, 200, 255], dtype=torch.uint8)
    quotients = torch.tensor([1.0, -1.0, 0.3, -0.3, 5.5, 1e8, 0.0, -0.0, 7.0]), torch.tensor([0.1, 0.1, 0.1, 0.1, -2.0, 3.0, 2.0, 3.0, INF])
    x, y = rand(3, 4), rand(4, 3).T.contiguous()
    cases: dict[str, Case] = {
        "uint8": (lambda x: (x + 1, x * 2, x / 2, x // 2, x > 3, x & 7, x.float() - 1), (byte,)),
        "int8": (lambda x: (x + 1, x * 2, x / 2, x // 2, x % 3, x + 2.5, x < 0), (small,)),
        "bools": (
            lambda x, y: (x & y, x | y, x ^ y, ~x, x + 1, x * 2.0, x.float() * y, x / 2, x.int() - y.int(), x == torch.tensor(True)),
            (BOOLS, OTHERS),
        ),
        "alpha": (lambda x, y: (torch.add(x, y, alpha=2), torch.sub(x, y, alpha=0.5), torch.rsub(x, y, alpha=3), torch.rsub(x, 2)), (x, y)),
        "alpha of ints": (
            lambda x, y: (torch.add(x, y, alpha=2), torch.sub(x, y, alpha=3), 2 - x, 2.5 - x, 1 / x.abs().clamp(1)),
            (INTS, DIVISORS),
        ),
        "powers": (lambda x: tuple(x**e for e in (0, 1, 2, 3, 4, 0.5, -0.5, -1, -2, -3, 1.7, 3.5, 12)), (UNIT,)),
        "powers of negatives": (lambda x: (x**2, x**3, x**4.0, x**5), (x,)),
        "powers of ints": (lambda x: (x**0, x**1, x**2, x**5, x**2.0, x**0.5), (INTS.abs(),)),
        "powers of tensors": (lambda x, y: (x**y, torch.pow(2.0, y), torch.pow(2, y)), (UNIT, rand(17))),
        "floor of quotients": (lambda x, y: (x // y, x % y, torch.fmod(x, y)), quotients),
        "clamp": (
            lambda x: (x.clamp(-1, 1), x.clamp(min=0.3), x.clamp(max=0.3), torch.clamp_min(x, 0.1), torch.clamp_max(x, 0.1)),
            (FLOATS,),
        ),
        "clamp ints": (lambda x: (x.clamp(-1, 3), x.clamp(-1.5, 2.5), x.clamp(min=2)), (INTS,)),
        "clamp to tensors": (
            lambda x, low, high: (x.clamp(low, high), x.clamp(min=low), x.clamp(max=high)),
            (x, -UNIT[:4], UNIT[:3, None]),
        ),
        "where": (
            lambda c, x, y: (torch.where(c, x, y), torch.where(c, x, 0.0), torch.where(c, 1.0, y), torch.where(c, 1, 2)),
            (x > 0, x, y),
        ),
        "masked": (
            lambda c, x: (x.masked_fill(c, -1e9), x.masked_fill(c, -INF), x.masked_fill(c, torch.tensor(2.0)), torch.where(c, x, 1)),
            (x > 0, x),
        ),
        "fused": (
            lambda x, y: (torch.addcmul(x, y, x, value=0.5), torch.addcdiv(x, y, x.abs() + 1), torch.lerp(x, y, 0.3), torch.lerp(x, y, y)),
            (x, y),
        ),
        "rank 0": (
            lambda x, s: (x + s, x * torch.tensor(2.0), x * torch.tensor(2, dtype=torch.float64), torch.tensor(3) + s),
            (INTS, torch.tensor(2)),
        ),
        "NaN on either side": (lambda x, y: (torch.maximum(x, y), torch.minimum(x, y), torch.maximum(y, x)), (FLOATS, FLOATS.flip(0))),
    }
    check_together(cases)


def _edited(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[1:] = y
    x[:, 0] = 5.0
    x += 1
    x[0] *= 2
    x[:, 1:3].copy_(y[:1, :2])
    x[x.shape[0] - 1].zero_()
    return x.masked_fill_(x > 1, 0.0)


def test_layouts_parts_and_borders() -> None:
    x = rand(2, 4, 6, 8)
    cases: dict[str, Case] = {
        "shapes": (
            lambda x: (
                x.view(8, 48),
                x.flatten(1),
                x.unsqueeze(-1),
                x.unflatten(1, (2, 2)),
                x[:, :1].squeeze(1),
                x[:1].squeeze(),
                x.ravel(),
            ),
            (x,),
        ),
        "orders": (
            lambda x: (
                x.permute(0, 2, 3, 1),
                x.transpose(1, -1),
                x.movedim(1, -1),
                x.movedim((0, 1), (2, 3)),
                x.mT,
                x[0, 0].t(),
                x[0, 0].T,
            ),
            (x,),
        ),
        "expand": (lambda x: (x.expand(3, 4), x.expand(2, 3, 4), x.broadcast_to(3, 5), x.expand_as(torch.zeros(3, 2))), (rand(3, 1),)),
        "slices": (
            lambda x: (x[1:], x[:, 1:3], x[..., ::2], x[:, :, 1:-1, 2:7:3], x[-1], x[:, -2:], x[0, 1, 2, 3], x[:, 3:20], x.narrow(2, 1, 3)),
            (x,),
        ),
        "splits": (
            lambda x: (
                *x.chunk(3, 2),
                *x.split(3, 2),
                *x.split([1, 3], 1),
                *x.unbind(1),
                *torch.tensor_split(x, 3, -1),
                *torch.tensor_split(x, (2, 5), 2),
            ),
            (x,),
        ),
        "joins": (
            lambda x, y: (
                torch.cat([x, y], 1),
                torch.stack([x, x], 0),
                torch.stack([x, x], -1),
                torch.cat([x, y.long()], 1),
                torch.cat([x]),
            ),
            (rand(2, 3), rand(2, 5)),
        ),
        "repeats": (
            lambda x: (x.repeat(2, 1, 3), x.tile((2,)), x.repeat_interleave(3, 0), x.repeat_interleave(2, -1), x.repeat_interleave(2)),
            (rand(2, 3),),
        ),
        "turns": (lambda x: (x.flip(1), x.flip(0, -1), x.roll(1), x.roll((1, -2), (0, 2)), x.roll(5, -1)), (rand(2, 3, 4),)),
        "pixels": (
            lambda x: (F.pixel_shuffle(x, 2), F.pixel_unshuffle(x, 2), F.channel_shuffle(x, 2), F.pixel_shuffle(x[0], 2)),
            (rand(2, 8, 4, 6),),
        ),
        "triangles": (
            lambda x: (x.tril(), x.triu(1), x.tril(-1), torch.diagonal(x, 1, -2, -1), torch.diagonal(x, -1, -2, -1), (x > 0).tril()),
            (rand(2, 4, 5),),
        ),
        "grids": (lambda x, y: (*torch.meshgrid(x, y, indexing="ij"), *torch.meshgrid(x, y, indexing="xy")), (rand(3), rand(4))),
        "parts written": (
            lambda x, y: (torch.slice_scatter(x, y, 1, 1, 7, 2), torch.select_scatter(x, y[:, 0], 1, 2), torch.slice_scatter(x, y, 1, -3)),
            (rand(2, 8), rand(2, 3)),
        ),
        "edits in place": (_edited, (rand(3, 4), rand(2, 4))),
        "windows": (lambda x: (x.unfold(1, 3, 2), x.unfold(-1, 4, 1)), (rand(2, 9, 8),)),
        "columns": (lambda x: F.fold(F.unfold(x, (3, 2), 2, (1, 2), (2, 1)), (7, 6), (3, 2), 2, (1, 2), (2, 1)), (rand(2, 3, 7, 6),)),
        "borders": (
            lambda x: (
                F.pad(x, (1, 2)),
                F.pad(x, (1, 2, 3, 0), value=1.5),
                F.pad(x, (-1, 2, 0, -1)),
                F.pad(x, (1, 2), "reflect"),
                F.pad(x, (2, 1), "replicate"),
            ),
            (rand(2, 3, 5),),
        ),
        "borders of images": (
            lambda x: (F.pad(x, (1, 2, 2, 1), "reflect"), F.pad(x, (2, 1, 0, 3), "replicate"), F.pad(x, (2, 1, 1, 1), "circular")),
            (rand(1, 2, 4, 5),),
        ),
        "borders of ints": (lambda x: (F.pad(x, (1, 2), value=3), F.pad(x > 0, (1, 1))), (INTS,)),
    }
    check_together(cases)


def test_creation() -> None:
    cases: dict[str, Case] = {
        "full": (
            lambda x: (
                torch.zeros(2, 3),
                torch.ones(3, dtype=torch.int64),
                torch.full((2, 2), 7),
                torch.zeros_like(x),
                torch.full_like(x, 3),
            ),
            (rand(2, 3),),
        ),
        "like": (lambda x: (torch.ones_like(x, dtype=torch.bool), x.new_zeros(2), x.new_ones((2, 2)), x.new_full((3,), 9)), (rand(2, 3),)),
        "ranges": (lambda x: (torch.arange(1, 9, 3), torch.arange(0, 1, 0.1), torch.arange(5.0) + x, torch.arange(10, 0, -2)), (rand(5),)),
        "lines": (lambda x: (torch.linspace(0, 1, 7), torch.linspace(-2, 5, 1), torch.eye(4), torch.eye(3, 5)), (rand(5),)),
        "others": (lambda x: (F.one_hot(x, 5), torch.scalar_tensor(4.0), torch.tensor([1, 2, 3]) + x), (torch.arange(3),)),
    }
    check_together(cases)


def test_reductions() -> None:
    x = rand(3, 4, 5)
    extremes = torch.tensor([[-INF] * 3, [1.0, 2.0, INF], [1.0, -INF, 0.0]])
    cases: dict[str, Case] = {
        "sums": (
            lambda x: (
                x.sum(),
                x.sum((0, 2)),
                x.sum(-1, keepdim=True),
                x.mean(),
                x.mean((1, 2)),
                x.prod(),
                x.prod(1),
                x.sum(1, dtype=torch.float64),
            ),
            (x,),
        ),
        "of ints": (
            lambda x: (x.sum(), x.prod(0), (x > 2).sum(1), x.amax(0), x.max(), x.amin((0, 1)), x.argmax(), x.argmin(1), x.count_nonzero(0)),
            (ints(0, 6, 3, 4),),
        ),
        "extremes": (
            lambda x: (x.amax(1), x.amin((0, 1)), x.max(), *x.max(1), *x.min(-1, keepdim=True), x.argmax(), x.argmin(-1, keepdim=True)),
            (x,),
        ),
        "truth": (
            lambda x: (x.any(), x.all(), x.any(1), x.all(0, keepdim=True), x.int().any(), x.any((0, 1)), x.float().all(1)),
            (rand(3, 4) > 0.5,),
        ),
        "norms": (
            lambda x: (
                x.norm(),
                x.norm(1, 1),
                x.norm(3, dim=-1, keepdim=True),
                *(torch.linalg.vector_norm(x, p, 1) for p in (INF, -INF, 0)),
            ),
            (x,),
        ),
        "directions": (lambda x, y: (F.normalize(x), F.normalize(x, p=1.0, dim=-1), F.cosine_similarity(x, y)), (x, x.flip(0))),
        "log of sums": (
            lambda x, y: (x.logsumexp(1), x.logsumexp((0, 1), keepdim=True), (x * 100).logsumexp(1), y.logsumexp(1)),
            (x, extremes),
        ),
        "rank 0": (lambda x: (x.sum(), x.mean(), x.max(), x.softmax(0), x.sum(0), x.argmax()), (torch.tensor(2.5),)),
        "running": (lambda x, y: (x.cumsum(1), x.cumsum(-1), y.cumsum(0), (y > 2).cumsum(1), x.cumprod(1)), (x, ints(0, 6, 3, 4))),
        "softmax": (
            lambda x: (x.softmax(-1), x.softmax(1), x.log_softmax(-1), x.log_softmax(1), x.softmax(-1, dtype=torch.float64)),
            (x * 20,),
        ),
        "softmax of infinities": (lambda x: (x.softmax(-1), x.log_softmax(-1)), (torch.tensor([[-INF, 1, 2], [-INF] * 3, [NAN, 1, 2]]),)),
        "moments": (
            lambda x: (
                x.var(),
                x.var(1),
                x.var((0, 1), unbiased=False),
                x.std(1),
                *torch.var_mean(x, 1),
                *torch.std_mean(x, (0, 2), keepdim=True),
            ),
            (x,),
        ),
    }
    check_together(cases)


def test_sorting_is_stable_and_puts_nan_last() -> None:
    cases: dict[str, Case] = {
        "floats": (
            lambda x: (*x.sort(), *x.sort(0, descending=True), x.argsort(1), *x.topk(3), *x.topk(2, 1, largest=False)),
            (rand(3, 4, 6),),
        ),
        "ties": (lambda x: (*x.sort(stable=True), *x.sort(stable=True, descending=True)), (ints(0, 4, 3, 9),)),
        "NaN": (lambda x: (x.sort().values, x.sort(descending=True).values), (FLOATS.roll(5),)),
        "one": (lambda x: (*x.sort(),), (rand(3, 1),)),
    }
    check_together(cases)


def test_normalizations() -> None:
    x, w, b, image = rand(2, 3, 4, 5), rand(5), rand(4, 1)[:, 0], rand(2, 4, 6, 8)
    cases: dict[str, Case] = {
        "layer": (
            lambda x, w: (F.layer_norm(x, (5,), w, w), F.layer_norm(x, (5,)), F.layer_norm(x, (5,), w), F.layer_norm(x, (5,), None, w)),
            (x, w),
        ),
        "several axes": (lambda x, w: (F.layer_norm(x, (4, 5), w, w), F.layer_norm(x, (3, 4, 5))), (x, rand(4, 5))),
        "constant rows": (lambda x, w: F.layer_norm(x * 0 + 3, (5,), w, w), (x, w)),
        "rms": (lambda x, w: (F.rms_norm(x, (5,), w), F.rms_norm(x, (5,)), F.rms_norm(x, (4, 5), eps=1e-3)), (x, w)),
        "group": (
            lambda x, w: (F.group_norm(x, 2, w, w), F.group_norm(x, 4), F.group_norm(x[..., 0], 1, w, w), F.group_norm(x[..., 0, 0], 2)),
            (image, b),
        ),
        "instance": (lambda x, w: (F.instance_norm(x, weight=w, bias=w), F.instance_norm(x), F.instance_norm(x[..., 0])), (image, b)),
        "batch": (
            lambda x, w, v: (
                F.batch_norm(x, w, v, w, w),
                F.batch_norm(x, w, v),
                F.batch_norm(x[..., 0, 0], w, v, w, w),
                F.batch_norm(x, None, None, w, w, training=True),
            ),
            (image, b, UNIT[4:8]),
        ),
    }
    check_together(cases, tolerance=5e-6)  # division by a deviation of a handful of elements


def test_layer_norm_keeps_its_digits_far_from_zero() -> None:
    # 1e-4: at a mean of 100 one unit in the last place of an input is 8e-6 of the deviation, and the mean sums 64 of them;
    # E[x^2] - E[x]^2 would lose 1e-3 of the variance
    check_together({"far": (lambda x: F.layer_norm(x, (64,)), (rand(4, 64) + 100,))}, tolerance=1e-4)


def test_pooling() -> None:
    x = rand(2, 4, 7, 9)
    cases: dict[str, Case] = {
        "max": (
            lambda x: (
                F.max_pool2d(x, 2),
                F.max_pool2d(x, 3, 2, 1),
                F.max_pool2d(x, (2, 3), 1, (1, 0), (1, 2)),
                F.max_pool2d(x[0], 2),
                F.max_pool1d(x[0], 3, 2),
            ),
            (x,),
        ),
        "max, rounded up": (
            lambda x: (F.max_pool2d(x, 3, 2, ceil_mode=True), F.max_pool2d(x, 3, 2, 1, ceil_mode=True), F.max_pool3d(x, 2, 1)),
            (x,),
        ),
        "average": (
            lambda x: (
                F.avg_pool2d(x, 2),
                F.avg_pool2d(x, 3, 2, 1),
                F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
                F.avg_pool1d(x[0], 3, 2, 1),
            ),
            (x,),
        ),
        "average, rounded up": (
            lambda x: (F.avg_pool2d(x, 3, 2, 1, True), F.avg_pool2d(x, 3, 2, 1, True, False), F.avg_pool3d(x, 2, 1)),
            (x,),
        ),
        "divisor": (lambda x: (F.avg_pool2d(x, 3, 2, divisor_override=5), F.avg_pool2d(x, 3, 2, 1, divisor_override=5)), (x,)),
        "adaptive": (lambda x: tuple(F.adaptive_avg_pool2d(x, s) for s in (1, (3, 4), (7, None), (7, 3), (10, 12))), (x,)),
        "adaptive max": (
            lambda x: (
                F.adaptive_max_pool2d(x, (3, 4)),
                F.adaptive_max_pool2d(x, 1),
                F.adaptive_max_pool1d(x[0], 4),
                F.adaptive_avg_pool1d(x[0], 4),
            ),
            (x,),
        ),
    }
    check_together(cases)


def test_resizing() -> None:
    x = rand(2, 3, 6, 7)
    cases: dict[str, Case] = {
        "nearest": (
            lambda x: (
                F.interpolate(x, scale_factor=2),
                F.interpolate(x, (9, 5)),
                F.interpolate(x, scale_factor=1.7),
                F.interpolate(x, scale_factor=(0.6, 2.3)),
            ),
            (x,),
        ),
        "nearest, others": (lambda x: (F.interpolate(x, (13, 7), mode="nearest-exact"), F.interpolate(x[:, :, 0], scale_factor=1.6)), (x,)),
        "half pixel": (lambda x: tuple(F.interpolate(x, scale_factor=f, mode="bilinear") for f in (2, 1.7, 0.55)), (x,)),
        "aligned": (
            lambda x: tuple(F.interpolate(x, s, mode="bilinear", align_corners=True) for s in ((9, 5), (3, 3), (1, 1), (12, 14))),
            (x,),
        ),
        "aligned by factor": (
            lambda x: tuple(F.interpolate(x, scale_factor=f, mode="bilinear", align_corners=True) for f in (2, 0.55)),
            (x,),
        ),
        "cubic": (
            lambda x: (F.interpolate(x, scale_factor=1.7, mode="bicubic"), F.interpolate(x, (4, 9), mode="bicubic", align_corners=True)),
            (x,),
        ),
        "lines": (lambda x: F.interpolate(x[:, :, 0], 9, mode="linear"), (x,)),
    }
    check_together(cases)


def test_matrix_products() -> None:
    a, b, v = rand(2, 3, 4), rand(2, 4, 5), rand(4)
    cases: dict[str, Case] = {
        "linear": (
            lambda x, w, b: (F.linear(x, w, b), F.linear(x, w), F.linear(x[0, 0], w, b), F.linear(x, w[0])),
            (rand(2, 3, 8), rand(5, 8), rand(5)),
        ),
        "ranks": (
            lambda a, b, v: (a @ b, a[0] @ b[0], a[0] @ v, v @ b[0], v @ b, a @ v, v @ v, a[:, None] @ b, a @ b[0], torch.outer(v, v)),
            (a, b, v),
        ),
        "named": (lambda a, b, v: (torch.mm(a[0], b[0]), torch.bmm(a, b), torch.mv(a[0], v), torch.dot(v, v)), (a, b, v)),
        "added": (
            lambda a, b, c: (
                torch.addmm(c, a[0], b[0]),
                torch.addmm(c, a[0], b[0], beta=0.5, alpha=2),
                torch.addmm(c[0], a[0], b[0]),
                torch.baddbmm(c.expand(2, 3, 5), a, b, beta=0),
            ),
            (a, b, rand(3, 5)),
        ),
        "ints": (lambda a, b: (a @ b, a.int() @ b.int()), (ints(-5, 5, 3, 4), ints(-5, 5, 4, 2))),
    }
    check_together(cases)


def test_convolutions() -> None:
    x, w, b, deep = rand(2, 4, 9, 8), rand(6, 4, 3, 3), rand(6), rand(8, 1, 3, 3)
    cases: dict[str, Case] = {
        "plain": (
            lambda x, w, b: (F.conv2d(x, w, b), F.conv2d(x, w, b, 2, 1), F.conv2d(x, w, b, (1, 2), (2, 1), (2, 1)), F.conv2d(x[0], w, b)),
            (x, w, b),
        ),
        "groups": (lambda x, d, w: (F.conv2d(x, d, None, 1, 1, 1, 4), F.conv2d(x, w[:, :2], None, 1, 1, 1, 2)), (x, deep, w)),
        "named padding": (
            lambda x, w, b: (
                F.conv2d(x, w, padding="same"),
                F.conv2d(x, w, b, padding="same", dilation=2),
                F.conv2d(x, w[..., :2, :2], padding="same"),
                F.conv2d(x, w, padding="valid"),
            ),
            (x, w, b),
        ),
        "lines": (
            lambda x, w, b, d: (
                F.conv1d(x, w, b),
                F.conv1d(x, w, b, 2, 1),
                F.conv1d(x, w, b, 1, 2, 2),
                F.conv1d(x, d, None, 1, 1, 1, 4),
                F.conv1d(x[0], w, b),
            ),
            (rand(2, 4, 9), rand(6, 4, 3), b, rand(8, 1, 3)),
        ),
        "volumes": (lambda x, w: F.conv3d(x, w, None, 2, 1), (rand(1, 2, 5, 6, 7), rand(3, 2, 3, 3, 3))),
    }
    check_together(cases)


def test_transposed_convolutions() -> None:
    x, w, b, deep = rand(2, 4, 5, 6), rand(4, 3, 3, 3), rand(3), rand(4, 1, 3, 3)
    cases: dict[str, Case] = {
        "plain": (
            lambda x, w, b: (
                F.conv_transpose2d(x, w, b),
                F.conv_transpose2d(x, w, b, 2, 1, 1),
                F.conv_transpose2d(x, w, b, (2, 3), (1, 0), (1, 2)),
                F.conv_transpose2d(x[0], w, b),
            ),
            (x, w, b),
        ),
        "groups": (lambda x, d, w: (F.conv_transpose2d(x, d, None, 2, 1, 0, 4), F.conv_transpose2d(x, w, None, 2, 1, 1, 2)), (x, deep, w)),
        "dilated": (
            lambda x, w, b: (
                F.conv_transpose2d(x, w, b, 1, 1, 0, 1, 2),
                F.conv_transpose2d(x, w, b, 1, 0, 1, 1, 2),
                F.conv_transpose2d(x, w, b, 2, 2, 1, 1, 2),
            ),
            (x, w, b),
        ),
        "lines": (
            lambda x, w, d: (F.conv_transpose1d(x, w, None, 2, 1, 1), F.conv_transpose1d(x, d, None, 2, 1, 0, 4)),
            (rand(2, 4, 5), rand(4, 3, 3), rand(4, 1, 3)),
        ),
        "volumes": (lambda x, w: F.conv_transpose3d(x, w, None, 2, 1), (rand(1, 2, 3, 4, 5), rand(2, 3, 3, 3, 3))),
    }
    check_together(cases)


def test_attention_masks_and_shared_heads() -> None:
    q, k, v = rand(2, 4, 5, 8), rand(2, 4, 7, 8), rand(2, 4, 7, 6)
    mask = rand(2, 1, 5, 7) > -0.5
    mask[0, 0, 2] = False  # a row without a key gives zeros
    attend = F.scaled_dot_product_attention
    cases: dict[str, Case] = {
        "plain": (
            lambda q, k, v: (
                attend(q, k, v),
                attend(q, k, v, is_causal=True),
                attend(q, k, v, scale=0.3),
                attend(q[0], k[0], v[0]),
                attend(q[0, 0], k[0, 0], v[0, 0]),
            ),
            (q, k, v),
        ),
        "bool": (lambda q, k, v, m: (attend(q, k, v, m), attend(q, k, v, m[0, 0])), (q, k, v, mask)),
        "float": (lambda q, k, v, m: (attend(q, k, v, torch.where(m, 0.0, -INF)), attend(q, k, v, m * 2.0)), (q, k, v, mask)),
        "shared": (
            lambda q, k, v: (
                attend(q, k[:, :2], v[:, :2], enable_gqa=True),
                attend(q, k[:, :1], v[:, :1], is_causal=True, enable_gqa=True),
            ),
            (q, k, v),
        ),
    }
    check_together(cases)


def _written(x: torch.Tensor, at: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[at] = y
    x[at, 1] = 7.0
    x[x > 1.5] = 0.0
    x[:, at[1:]] = y[:, :2].repeat(2, 1)[: x.shape[0]]
    return x.index_put((at,), y, accumulate=True)


def test_indices() -> None:
    table, a, b = rand(4, 5, 6), ints(0, 4, 3), ints(0, 4, 2, 1)[:, 0].repeat(2)[:3]
    at = torch.stack([torch.tensor([4, 0, 2, 1]), torch.tensor([3, 1, 4, 0]), torch.tensor([0, 4, 1, 2])])
    cases: dict[str, Case] = {
        "embedding": (
            lambda w, t: (F.embedding(t, w), F.embedding(t, w, padding_idx=0), F.embedding(t.int(), w), F.embedding(t[0, 0], w)),
            (rand(10, 4), ints(0, 10, 2, 3)),
        ),
        "index": (
            lambda x, a, b: (
                x[a],
                x[:, b],
                x[a, b],
                x[a[:, None], b],
                x[a, :, b],
                x[:, a, b],
                x[a - 3],
                x[..., b],
                x[0, :, a],
                x.index_select(1, a),
            ),
            (table, a, b),
        ),
        "gather": (lambda x, t: (x.gather(1, t), x.gather(-1, t[:, :2])), (rand(3, 5), ints(0, 3, 3, 4))),
        "scatter": (lambda x, t, s: (x.scatter(0, t, s), x.scatter(1, t[:2], 2.0), x.scatter_add(0, t, s)), (rand(5, 5), at, rand(3, 4))),
        "scatter reduce": (
            lambda x, t, s: tuple(x.scatter_reduce(0, t, s, r) for r in ("sum", "amax", "amin", "prod")),
            (rand(5, 5), at, rand(3, 4)),
        ),
        "written": (_written, (rand(5, 3), torch.tensor([3, 0, -1]), rand(3, 3))),
        "buckets": (
            lambda x, e: (torch.bucketize(x, e), torch.bucketize(x, e, right=True), torch.bucketize(x, e, out_int32=True)),
            (torch.tensor([0.1, 0.5, 0.9, 2.0]), torch.tensor([0.1, 0.5, 1.0])),
        ),
    }
    check_together(cases)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "RNN relu"])
@pytest.mark.parametrize(
    ("bidirectional", "layers", "batch_first", "bias", "start"), [(False, 1, True, True, False), (True, 2, False, False, True)]
)
def test_recurrent_layers(kind: str, bidirectional: bool, layers: int, batch_first: bool, bias: bool, start: bool) -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            options = {"nonlinearity": "relu"} if kind == "RNN relu" else {}
            layer = getattr(nn, kind.split()[0])
            self.layer = layer(5, 6, layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias, **options)

        def forward(self, x: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
            hx = None if not states else states if kind == "LSTM" else states[0]
            y, last = self.layer(x, hx)
            return (y, *last) if isinstance(last, tuple) else (y, last)

    torch.manual_seed(0)
    state = rand(layers * (1 + bidirectional), 2, 6)
    states = (state, state * 0.5)[: 2 if kind == "LSTM" else 1] if start else ()
    check(Layer(), (rand(2, 7, 5) if batch_first else rand(7, 2, 5), *states))


def test_single_recurrent_steps() -> None:
    torch.manual_seed(0)

    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.lstm = nn.GRUCell(5, 6), nn.LSTMCell(5, 6, bias=False)

        def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return self.gru(x, h), *self.lstm(x, (h, h))

    check(Cells(), (rand(3, 5), rand(3, 6)))
