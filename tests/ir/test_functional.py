"""Functionalization: no write is lost, whatever it aliases, and a graph without aliases keeps its operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgecc.errors import CaptureError
from edgecc.ir.capture import trace
from edgecc.ir.functional import _FRESH
from edgecc.ir.provenance import source_line
from edgecc.testing import operators, trace_function
from tests.models import ZOO, build

aten = torch.ops.aten


def _view_of_slice(x: Tensor) -> Tensor:
    y = x.sin()
    y[:, 1:3] += 1
    return y * 2


def _read_through_an_older_view(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x.sin()
    row = y[0]
    y.mul_(3)
    return row + 1, y


def _reshape_that_is_a_view(x: Tensor) -> Tensor:
    y = x.sin()
    y.reshape(-1).add_(1)
    return y


def _reshape_that_copies(x: Tensor) -> Tensor:
    y = x.sin()
    y.t().reshape(-1).add_(1)
    return y


def _contiguous_of_contiguous(x: Tensor) -> Tensor:
    y = x.sin()
    y.contiguous().add_(1)
    return y


def _cast_to_the_same_dtype(x: Tensor) -> Tensor:
    y = x.sin()
    y.float().add_(1)
    y.to(torch.float32).mul_(2)
    y.type_as(x).sub_(3)
    return y


def _dropout_in_eval_mode(x: Tensor) -> Tensor:
    y = x.sin()
    F.dropout(y, 0.5, training=False).add_(1)
    F.alpha_dropout(y, 0.5, training=False).mul_(2)
    F.dropout2d(y[None, None], 0.5, training=False).sub_(3)
    return y


def _dropout_in_place(x: Tensor) -> Tensor:
    return F.dropout(x.sin(), 0.5, training=False, inplace=True) + 1


def _einsum_that_transposes(x: Tensor) -> Tensor:
    y = x.sin()
    torch.einsum("ij->ji", y).add_(torch.arange(4.0))
    return y


def _einsum_diagonal(x: Tensor) -> Tensor:
    y = x.sin()
    torch.einsum("ii->i", y).add_(1)
    return y


def _broadcast_of_equal_shapes(x: Tensor) -> Tensor:
    y = x.sin()
    same, _ = torch.broadcast_tensors(y, torch.zeros(4))
    same.add_(1)
    return y


def _meshgrid_of_one(x: Tensor) -> Tensor:
    y = x.sin()
    torch.meshgrid(y[0], indexing="ij")[0].add_(1)
    return y


def _cartesian_product_of_one(x: Tensor) -> Tensor:
    y = x.sin()
    torch.cartesian_prod(y[0]).add_(1)
    return y


def _at_least_three_axes(x: Tensor) -> Tensor:
    y = x.sin()
    torch.atleast_3d(y).add_(1)
    return y


def _sum_to_the_same_size(x: Tensor) -> Tensor:
    y = x.sin()
    y.sum_to_size(4, 4).add_(1)
    return y


def _unsafe_chunk(x: Tensor) -> Tensor:
    y = x.sin()
    y.unsafe_chunk(2)[0].add_(1)
    return y


def _unsafe_split(x: Tensor) -> Tensor:
    y = x.sin()
    y.unsafe_split(2)[1].add_(1)
    return y


def _positive(x: Tensor) -> Tensor:
    y = x.sin()
    torch.positive(y).add_(1)
    return y


def _one_of_two_results(x: Tensor) -> Tensor:
    values, _ = x.sort()
    values[0] += 1
    return values.add_(1)


def _expand_as_of_the_same_shape(x: Tensor) -> Tensor:
    y = x.sin()
    y.expand_as(x).add_(1)
    return y


def _operand_is_a_view_of_the_written(x: Tensor) -> Tensor:
    y = x.sin()
    y.mul_(y[:, :1].clone() + y.t())
    return y


def _write_twice_and_read_between(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x.sin()
    y.add_(1)
    between = y * 2
    y.mul_(3)
    return between, y


def _in_a_region_with_gradients(x: Tensor) -> Tensor:
    y = x.sin()
    with torch.enable_grad():
        y.add_(1)
        y.view(-1)[0] = 5.0
    return y


def _in_a_region_without_autocast(x: Tensor) -> Tensor:
    y = x.sin()
    with torch.autocast("cpu", enabled=False):
        z = x.cos()
        z.relu_()
        y.mul_(2)
    return y + z


def _masked_and_indexed(x: Tensor) -> Tensor:
    y = x.sin()
    y[y > 0] = 0.5
    y[torch.tensor([0, 2])] = 1.0
    y.masked_fill_(x > 1, 9.0)
    y.index_add_(0, torch.tensor([1, 1]), x[:2])
    return y


def _out_argument(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    torch.add(x, 1, out=y)
    return y * 2


def _float_into_half(x: Tensor) -> Tensor:
    y = x.half()
    y += x
    return y


def _comparison_in_place(x: Tensor) -> Tensor:
    y = x.sin()
    y.gt_(0.0)
    return y


def _a_loop_that_fills(x: Tensor) -> Tensor:
    y = torch.zeros(4, 4)
    for i in range(4):
        y[i] = x[i].cumsum(0) * i
        y[:, i] -= 1
    return y


WRITES = [
    value
    for name, value in list(globals().items())
    if name.startswith("_") and callable(value) and getattr(value, "__module__", "") == __name__
]


@pytest.mark.parametrize("function", WRITES, ids=lambda f: f.__name__.strip("_"))
def test_every_write_is_seen_by_all_that_share_the_memory(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    expected = function(x.clone())
    found = trace_function(function, x)(x)
    for a, b in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("function", WRITES, ids=lambda f: f.__name__.strip("_"))
def test_no_write_stays_in_the_graph(function: Callable[[Tensor], Tensor]) -> None:
    program = trace_function(function, torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    writing = [n for n in program.calls() if isinstance(n.target, torch._ops.OpOverload) and n.target._schema.is_mutable]
    assert writing == program.calls(aten.detach_.default)


def test_an_activation_in_place_is_renamed_and_nothing_else_changes() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.1))
    assert operators(trace(net.eval(), (torch.randn(1, 3, 5, 5),))) == [
        "aten.conv2d",
        "aten.batch_norm",
        "aten.relu",
        "aten.flatten.using_ints",
        "aten.dropout",
    ]


def test_a_residual_sum_in_place_is_renamed() -> None:
    def residual(x: Tensor) -> Tensor:
        y = x.sin().relu_()
        z = y.cos()
        z += y
        return z.reshape(-1)

    assert operators(trace_function(residual, torch.randn(4, 4))) == [
        "aten.sin",
        "aten.relu",
        "aten.cos",
        "aten.add.Tensor",
        "aten.reshape",
    ]


def test_a_value_that_was_read_before_the_write_is_renamed() -> None:
    def accumulate(x: Tensor) -> Tensor:
        y = x.sin()
        z = y.cos()
        y += z
        return y.reshape(-1)

    assert operators(trace_function(accumulate, torch.randn(4, 4))) == ["aten.sin", "aten.cos", "aten.add.Tensor", "aten.reshape"]


def test_a_written_view_leaves_norms_and_attention_whole() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.batch, self.layer = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.batch(self.conv(x))
            x[:, :2] = 0.0
            x = F.gelu(self.layer(F.silu(x).flatten(2).transpose(1, 2)))
            return F.scaled_dot_product_attention(x, x, x)

    net, x = Net().eval(), torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    net.batch.running_mean.uniform_(-1, 1)
    program = trace(net, (x,))
    names = operators(program)
    for whole in ("aten.conv2d", "aten.batch_norm", "aten.silu", "aten.layer_norm", "aten.gelu", "aten.scaled_dot_product_attention"):
        assert names.count(whole) == 1
    assert all(source_line(n) for n in program.calls())
    assert all(isinstance(n.meta["val"], Tensor) for n in program.calls(aten.batch_norm.default))
    with torch.no_grad():
        assert torch.equal(program(x)[0], net(x))


def test_a_write_to_a_buffer_is_refused() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x + self.count

    with pytest.raises(CaptureError, match=r"writes to 'count'[\s\S]*return the new value"):
        trace(Counter(), (torch.randn(2),))


def test_a_write_to_an_input_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"writes to[\s\S]*x\.clone\(\)"):
        trace_function(lambda x: x.relu_() + 1, torch.randn(2))


class _Aliases(fx.Interpreter):
    """Names of the operators called whose result shares memory with an argument."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: set[str] = set()

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload):
            args = fx.node.map_arg(n.args, lambda a: self.env[a])
            given = {t.untyped_storage().data_ptr() for t in pytree.tree_leaves(args) if isinstance(t, Tensor) and t.numel()}
            made = {t.untyped_storage().data_ptr() for t in pytree.tree_leaves(result) if isinstance(t, Tensor) and t.numel()}
            if given & made:
                self.found.add(n.target._schema.name.removeprefix("aten::"))
        return result


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ZOO if not n.endswith("_eager")])
def test_what_is_called_fresh_never_shares_memory_in_the_zoo(name: str) -> None:
    model, args, kwargs = build(name)
    program = trace(model, args, kwargs)
    aliases = _Aliases(program.module)
    with torch.no_grad():
        aliases.run(*program.examples)
    assert not aliases.found & _FRESH


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("clamp", lambda x: aten.clamp.default(x, None, 1e9)),
        ("pad", lambda x: aten.pad.default(x, [0, 0])),
        ("constant_pad_nd", lambda x: aten.constant_pad_nd.default(x, [0, 0])),
        ("repeat", lambda x: aten.repeat.default(x, [1, 1])),
        ("roll", lambda x: aten.roll.default(x, [0], [0])),
        ("cat", lambda x: aten.cat.default([x])),
        ("stack", lambda x: aten.stack.default([x])),
        ("sum", lambda x: aten.sum.dim_IntList(x[..., None], [-1])),
        ("mean", lambda x: aten.mean.dim(x[..., None], [-1])),
        ("amax", lambda x: aten.amax.default(x[..., None], [-1])),
        ("max", lambda x: aten.max.dim(x[..., None], -1)),
        ("cumsum", lambda x: aten.cumsum.default(x[..., None], -1)),
        ("logsumexp", lambda x: aten.logsumexp.default(x[..., None], [-1])),
        ("floor", lambda x: aten.floor.default(x.view(torch.int32))),
        ("abs", lambda x: aten.abs.default(x)),
        ("pow", lambda x: aten.pow.Tensor_Scalar(x, 1)),
        ("nan_to_num", lambda x: aten.nan_to_num.default(x.view(torch.int32))),
        ("tril", lambda x: aten.tril.default(x, 10)),
        ("where", lambda x: aten.where.self(x == x, x, x)),
        ("index_select", lambda x: aten.index_select.default(x, 0, torch.arange(4))),
        ("repeat_interleave", lambda x: aten.repeat_interleave.self_int(x, 1, 0)),
        ("_to_copy", lambda x: aten._to_copy.default(x)),
        ("clone", lambda x: aten.clone.default(x)),
        ("pixel_shuffle", lambda x: aten.pixel_shuffle.default(x[None], 1)),
        ("channel_shuffle", lambda x: aten.channel_shuffle.default(x[None, None], 1)),
        ("upsample_nearest2d", lambda x: aten.upsample_nearest2d.vec(x[None, None], [4, 4], None)),
        ("upsample_bilinear2d", lambda x: aten.upsample_bilinear2d.vec(x[None, None], [4, 4], True, None)),
        ("adaptive_avg_pool2d", lambda x: aten.adaptive_avg_pool2d.default(x[None, None], [4, 4])),
        ("adaptive_avg_pool1d", lambda x: aten.adaptive_avg_pool1d.default(x[None], [4])),
        ("avg_pool2d", lambda x: aten.avg_pool2d.default(x[None, None], [1, 1])),
        ("max_pool2d", lambda x: aten.max_pool2d.default(x[None, None], [1, 1])),
        ("max_pool1d", lambda x: aten.max_pool1d.default(x[None], [1])),
        ("im2col", lambda x: aten.im2col.default(x[None, None], [1, 1], [1, 1], [0, 0], [1, 1])),
        ("prelu", lambda x: aten.prelu.default(x, torch.ones(1))),
        ("relu6", lambda x: aten.relu6.default(x.abs() * 0 + x)),
        ("sort", lambda x: aten.sort.default(x)),
        ("linalg_vector_norm", lambda x: aten.linalg_vector_norm.default(x[..., None], 2, [-1])),
        ("_weight_norm", lambda x: aten._weight_norm.default(x, x[:, :1], 0)),
        ("lerp", lambda x: aten.lerp.Scalar(x, x, 0.0)),
        ("masked_fill", lambda x: aten.masked_fill.Scalar(x, x != x, 0.0)),
        ("index_put", lambda x: aten.index_put.default(x, [torch.arange(0)], torch.zeros(()))),
        ("slice_scatter", lambda x: aten.slice_scatter.default(x, x[:0], 0, 0, 0)),
    ],
)
def test_what_is_called_fresh_copies_even_where_there_is_nothing_to_do(name: str, call: Callable[[Tensor], object]) -> None:
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).abs()
    made = [t for t in pytree.tree_leaves(call(x)) if isinstance(t, Tensor)]
    assert name in _FRESH
    assert all(t.untyped_storage().data_ptr() != x.untyped_storage().data_ptr() for t in made)
