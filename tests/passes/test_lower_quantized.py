"""lower-quantized: every region between dequantize and quantize nodes against the same numbers in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecc.ir.integer import is_integer
from edgecc.ir.quantized import quantized
from edgecc.passes.lower_quantized import LowerQuantized
from edgecc.testing import apply, operators, trace_function

INT8 = (-128, 127, torch.int8)
ROUNDED = 0.5 + 2e-3  # half a step, and what 15 bits of a multiplier lose of 255 steps


def q(x: Tensor, scale: float, zero: int, low: int = -128) -> Tensor:
    return quantized.quantize_per_tensor(x, scale, zero, low, 127, torch.int8)


def dq(x: Tensor, scale: float, zero: int) -> Tensor:
    return quantized.dequantize_per_tensor(x, scale, zero, *INT8)


def codes(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int8)


class Layer(nn.Module):
    """`function(x, w, b)` between codes and codes, for a weight with a scale for each output, which lie along `axis`."""

    def __init__(self, function: Callable[..., Tensor], *shape: int, out: tuple[float, int] = (0.11, -7), axis: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.function, self.out, self.axis = function, out, axis
        self.register_buffer("weight", torch.randint(-127, 128, shape, generator=generator).to(torch.int8))
        self.register_buffer("scales", torch.rand(shape[axis], generator=generator) * 0.004 + 0.0005)
        self.register_buffer("zeros", torch.zeros(shape[axis], dtype=torch.int64))
        self.register_buffer("bias", torch.randn(shape[axis], generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        w = quantized.dequantize_per_channel(self.weight, self.scales, self.zeros, self.axis, -127, 127, torch.int8)
        return q(self.function(dq(x, 0.03, 5), w, self.bias), *self.out)

    def exact(self, x: Tensor) -> Tensor:
        """The result in steps of its scale, before it is rounded."""
        w = self.weight.double() * self.scales.double().view(*[1] * self.axis, -1, *[1] * (self.weight.dim() - 1 - self.axis))
        return self.function((x.double() - 5) * 0.03, w, self.bias.double()) / self.out[0] + self.out[1]


def near(got: Tensor, exact: Tensor, low: int = -128) -> None:
    """Every code is the nearest to the exact value, but for what the multiplier rounds."""
    assert got.dtype == torch.int8
    want = exact.clamp(low, 127)
    assert float((got.double() - want).abs().max()) <= ROUNDED
    assert len(got.unique()) > 20, "a test on few codes shows little"


LAYERS = {
    "linear": (lambda x, w, b: F.linear(x, w, b), (24, 48), (6, 48)),
    "linear of 3 axes": (lambda x, w, b: F.linear(x, w, b), (24, 48), (2, 6, 48)),
    "relu": (lambda x, w, b: F.relu(F.linear(x, w, b)), (24, 48), (6, 48)),
    "relu6": (lambda x, w, b: F.relu6(F.linear(x, w, b)), (24, 48), (6, 48)),
    "clamp": (lambda x, w, b: F.linear(x, w, b).clamp(-3.3, 4.1), (24, 48), (6, 48)),
    "hardtanh": (lambda x, w, b: F.hardtanh(F.linear(x, w, b), -2, 5), (24, 48), (6, 48)),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, 1, 1), (16, 8, 3, 3), (2, 8, 7, 6)),
    "conv2d same": (lambda x, w, b: F.conv2d(x, w, b, 1, "same", 2), (16, 8, 3, 3), (2, 8, 7, 6)),
    "strides and dilation": (lambda x, w, b: F.conv2d(x, w, b, (2, 1), (2, 0), (1, 2)), (16, 8, 3, 3), (2, 8, 9, 8)),
    "groups": (lambda x, w, b: F.conv2d(x, w, b, 1, 1, 1, 4), (16, 2, 3, 3), (2, 8, 7, 6)),
    "depthwise": (lambda x, w, b: F.conv2d(x, w, b, 1, 1, 1, 8), (8, 1, 3, 3), (2, 8, 9, 9)),
    "conv1d": (lambda x, w, b: F.conv1d(x, w, b, 2, 3), (16, 8, 5), (2, 8, 31)),
    "transposed": (lambda x, w, b: F.conv_transpose2d(x, w, b, 2), (6, 8, 2, 2), (2, 6, 5, 4)),
    "transposed and padded": (lambda x, w, b: F.conv_transpose2d(x, w, b, (2, 3), 1, (1, 0)), (6, 8, 3, 3), (2, 6, 5, 4)),
    "conv3d": (lambda x, w, b: F.conv3d(x, w, b, 1, 1), (6, 3, 2, 2, 2), (1, 3, 4, 4, 4)),
}


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_one_sum_and_one_rounding(name: str, unsigned: bool) -> None:
    function, shape, given = LAYERS[name]
    layer, x = Layer(function, *shape, axis=int("transposed" in name)), codes(*given)
    program = trace_function(layer, x)
    count, _ = apply(LowerQuantized(unsigned=unsigned), program)
    kinds = operators(program)
    assert count and not any("quantize_per" in k for k in kinds), kinds
    assert sum("int32" in k for k in kinds) == 1 and kinds.count("edgecc.requantize") == 1
    near(program(x)[0], layer.exact(x))


def test_what_is_below_zero_is_lost_to_a_relu() -> None:
    layer = Layer(lambda x, w, b: F.relu(F.linear(x, w, b)), 24, 48)
    program = trace_function(layer, codes(6, 48))
    apply(LowerQuantized(), program)
    (requantize,) = (n for n in program.calls() if n.name.startswith("requantize"))
    assert requantize.args[4:7] == (-7, -7, 127), "the zero is the lowest code"


def between(function: Callable[..., Tensor], *, out: tuple[float, int] = (0.05, 3), same: bool = False) -> Callable[..., Tensor]:
    """`function` of one or two dequantized tensors, quantized."""

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return q(function(dq(x, 0.03, 5), dq(y, 0.03, 5) if same else dq(y, 0.02, -11)), *out)

    return forward


PAIRS = {
    "add": lambda x, y: x + y,
    "add and relu": lambda x, y: F.relu(x + y),
    "subtract": lambda x, y: x - y,
    "add twice": lambda x, y: torch.add(x, y, alpha=2),
    "multiply": lambda x, y: x * y,
    "concatenate": lambda x, y: torch.cat([x, y], 1),
    "matmul": lambda x, y: x @ y.transpose(-1, -2) / 4,
}


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_two_tensors_meet_on_the_grid_of_the_result(name: str, unsigned: bool) -> None:
    function = PAIRS[name]
    x, y = codes(2, 3, 16, 16), codes(2, 3, 16, 16, seed=1)
    if name == "matmul":
        function = lambda x, y: x @ y.transpose(-1, -2)  # noqa: E731
    scale = 0.25 if name == "matmul" else 0.05
    program = trace_function(between(function, out=(scale, 3)), x, y)
    apply(LowerQuantized(unsigned=unsigned), program)
    assert not any("quantize_per" in k for k in operators(program)), operators(program)
    near(program(x, y)[0], function((x.double() - 5) * 0.03, (y.double() + 11) * 0.02) / scale + 3)


MOVED = {
    "reshape": lambda x: x.reshape(2, 48, 16),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "slice and flip": lambda x: x[:, 1:, ::2].flip(-1),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "split": lambda x: torch.cat(x.chunk(3, 1)[::-1], 1),
}


@pytest.mark.parametrize("name", MOVED)
def test_codes_move_as_numbers_do(name: str) -> None:
    function, x = MOVED[name], codes(2, 3, 16, 16)
    program = trace_function(lambda x: q(function(dq(x, 0.03, 5)), 0.03, 5), x)
    want = program(x)[0]
    apply(LowerQuantized(), program)
    assert not any("quantize" in k or "int32" in k for k in operators(program)), operators(program)
    assert torch.equal(program(x)[0], want)


AVERAGES = {
    "interpolation": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "mean": lambda x: x.mean((2, 3)),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
    "windows": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "one axis": lambda x: F.avg_pool1d(x.flatten(1, 2), 4),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_is_a_sum(name: str) -> None:
    function, x = AVERAGES[name], codes(2, 30, 8, 8)
    program = trace_function(lambda x: q(function(dq(x, 0.03, 5)), 0.012, 3), x)
    apply(LowerQuantized(), program)
    assert "edgecc.requantize" in operators(program) and not any("quantize_per" in k for k in operators(program))
    near(program(x)[0], function((x.double() - 5) * 0.03) / 0.012 + 3)


TABLES = {
    "gelu": F.gelu,
    "silu spelled out": lambda x: x * torch.sigmoid(x),
    "hard swish": F.hardswish,
    "tanh of a scaled and shifted": lambda x: torch.tanh(2 * x - 0.3),
    "leaky relu": F.leaky_relu,
}


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_what_is_pointwise_is_a_table(name: str, unsigned: bool) -> None:
    x = torch.arange(-128, 128).to(torch.int8)
    program = trace_function(lambda x: q(TABLES[name](dq(x, 0.03, 5)), 0.02, 0), x)
    want = program(x)[0]
    apply(LowerQuantized(unsigned=unsigned), program)
    kinds = [k for k in operators(program) if k != "edgecc.rebase"]
    assert kinds == ["edgecc.lookup"] and torch.equal(program(x)[0], want), "the same function gave the entries"


def test_sums_that_are_read_as_floats_are_scaled_once() -> None:
    layer = Layer(lambda x, w, b: F.linear(x, w, b), 24, 48)

    class Open(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            w = quantized.dequantize_per_channel(layer.weight, layer.scales, layer.zeros, 0, -127, 127, torch.int8)
            return F.linear(dq(x, 0.03, 5), w, layer.bias)

    x = codes(6, 48)
    program = trace_function(Open(), x)
    apply(LowerQuantized(), program)
    assert operators(program) == ["edgecc.linear_int32", "aten.to.dtype", "aten.mul.Tensor"]
    exact = (layer.exact(x) + 7) * 0.11
    steps = layer.scales.double() * 0.03  # the bias is rounded to half a step of its sums
    assert bool(((program(x)[0].double() - exact).abs() <= steps * 0.51 + exact.abs() * 1e-6).all())


def test_both_signs_give_the_same_numbers() -> None:
    layer = Layer(lambda x, w, b: F.relu(F.linear(x, w, b)), 24, 48)

    def forward(x: Tensor) -> Tensor:
        return dq(layer(q(x, 0.03, 5)), 0.11, -7)

    x = torch.randn(6, 48)
    signed, unsigned = trace_function(forward, x), trace_function(forward, x)
    apply(LowerQuantized(), signed)
    apply(LowerQuantized(unsigned=True), unsigned)
    assert torch.equal(signed(x)[0], unsigned(x)[0])
    assert {n.meta["val"].dtype for n in unsigned.calls() if "requantize" in n.name} == {torch.uint8}


def test_codes_at_the_border_keep_their_dtype() -> None:
    program = trace_function(Layer(lambda x, w, b: F.linear(x, w, b), 24, 48), codes(6, 48))
    apply(LowerQuantized(unsigned=True), program)
    assert operators(program)[0] == "edgecc.rebase" == operators(program)[-1]
    assert [s.dtype for s in program.signature.inputs + program.signature.outputs] == [torch.int8, torch.int8]


REFUSED = {
    "border windows of fewer elements": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), "windows at the border"),
    "several results of a pool": (lambda x: F.adaptive_avg_pool2d(x, 2), "pools to more than one element"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sum_stays_in_floats_with_a_reason(name: str) -> None:
    function, reason = REFUSED[name]
    x = codes(2, 30, 8, 8)
    program = trace_function(lambda x: q(function(dq(x, 0.03, 5)), 0.5, 3), x)
    want = program(x)[0]
    _, context = apply(LowerQuantized(), program)
    assert torch.equal(program(x)[0], want) and not any(map(is_integer, program.calls()))
    assert reason is None or [r for r in context.remarks if r.kind == "missed" and reason in r.message]


def test_sums_that_may_leave_int32_are_refused() -> None:
    class Wide(Layer):
        def __init__(self) -> None:
            super().__init__(lambda x, w, b: F.linear(x, w, b), 2, 1 << 17)
            self.weight.fill_(127)  # 2^17 products of 127 and up to 133 codes

    program = trace_function(Wide(), codes(1, 1 << 17))
    _, context = apply(LowerQuantized(), program)
    assert not any(map(is_integer, program.calls()))
    assert any("beyond int32" in r.message for r in context.remarks)


class Dynamic(nn.Module):
    """A layer whose input is quantized row by row when it runs."""

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.transposed = transposed
        shape = (48, 24) if transposed else (24, 48)
        self.register_buffer("weight", torch.randint(-127, 128, shape, generator=generator).to(torch.int8))
        self.register_buffer("scales", torch.rand(24, generator=generator) * 0.004 + 0.0005)
        self.register_buffer("zeros", torch.zeros(24, dtype=torch.int64))
        self.register_buffer("bias", torch.randn(24, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        scale, zero = quantized.choose_qparams_per_token_asymmetric(x, torch.int8)
        rows = quantized.quantize_per_token(x, scale, zero, *INT8)
        x = quantized.dequantize_per_token(rows, scale, zero, *INT8, torch.float32)
        w = quantized.dequantize_per_channel(self.weight, self.scales, self.zeros, int(self.transposed), -127, 127, torch.int8)
        return torch.addmm(self.bias, x, w) if self.transposed else F.linear(x, w, self.bias)


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_are_quantized_when_they_come(transposed: bool, unsigned: bool) -> None:
    x = torch.randn(6, 48, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.01, 1, 30, 1, 1, 0]).view(6, 1)
    x[3], x[4] = x[3].abs() + 2, -x[4].abs() - 2  # rows of one sign
    program = trace_function(Dynamic(transposed), x)
    want = program(x)[0]
    apply(LowerQuantized(unsigned=unsigned), program)
    kinds = operators(program)
    assert kinds.count("edgecc.linear_int32") == 1 and not any("per_token" in k or "per_channel" in k for k in kinds)
    # 1e-5: a code on the edge of a step may be the next one, of 48 that are summed; none is here
    torch.testing.assert_close(program(x)[0], want, rtol=1e-5, atol=1e-5)


def test_two_layers_of_one_input_quantize_it_once() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Dynamic(), Dynamic()

        def forward(self, x: Tensor) -> Tensor:
            scale, zero = quantized.choose_qparams_per_token_asymmetric(x, torch.int8)
            rows = quantized.dequantize_per_token(quantized.quantize_per_token(x, scale, zero, *INT8), scale, zero, *INT8, torch.float32)
            first, second = (
                quantized.dequantize_per_channel(m.weight, m.scales, m.zeros, 0, -127, 127, torch.int8) for m in (self.first, self.second)
            )
            return F.linear(rows, first) + F.linear(rows, second)

    program = trace_function(Two(), torch.randn(6, 48))
    apply(LowerQuantized(), program)
    kinds = operators(program)
    assert kinds.count("edgecc.linear_int32") == 2 and kinds.count("aten.amax") == 1


def test_constants_of_floats_stay_integers() -> None:
    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.register_buffer("table", torch.randint(-127, 128, (11, 8), generator=generator).to(torch.int8))
            self.register_buffer("rows", torch.rand(11, generator=generator))
            self.register_buffer("weight", torch.randint(-8, 8, (6, 8), generator=generator).to(torch.int8))
            self.register_buffer("scales", torch.rand(6, 2, generator=generator))
            self.register_buffer("kernel", torch.randint(-127, 128, (5, 6, 1), generator=generator).to(torch.int8))
            self.register_buffer("channels", torch.rand(5, generator=generator))

        def forward(self, tokens: Tensor) -> Tensor:
            table = quantized.dequantize_per_channel(self.table, self.rows, None, 0, -127, 127, torch.int8)
            weight = quantized.dequantize_per_channel_group(self.weight, self.scales, None, -8, 7, torch.int8, 4, torch.float32)
            kernel = quantized.dequantize_per_channel(self.kernel, self.channels, None, 0, -127, 127, torch.int8)
            return F.conv1d(F.linear(F.embedding(tokens, table), weight).transpose(1, 2), kernel)

    tokens = torch.tensor([[1, 10, 0], [4, 4, 7]])
    program = trace_function(Stored(), tokens)
    want = program(tokens)[0]
    count, _ = apply(LowerQuantized(), program)
    kinds = operators(program)
    assert count == 3 and not any("dequantize" in k for k in kinds), kinds
    assert kinds.count("edgecc.linear_codes") == kinds.count("edgecc.conv_codes") == 1 and kinds.count("aten.embedding") == 2
    assert {t.dtype for n, t in program.weights().items() if t.numel() > 20} == {torch.int8}
    torch.testing.assert_close(program(tokens)[0], want, rtol=1e-6, atol=1e-6)
