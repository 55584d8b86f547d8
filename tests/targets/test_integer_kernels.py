"""Integer kernels of every CPU: matrix products, convolutions, additions, tables; each bit is PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecc.ir.integer import CODES, integer
from tests.targets import integer_host as host

pytestmark = pytest.mark.slow

PRODUCTS = [  # rows, depth, columns: less than a vector, prime, whole tiles, one row
    *[(1, 1, 1), (1, 7, 5), (1, 64, 10), (1, 130, 33), (2, 3, 17), (3, 16, 8), (5, 9, 33), (7, 30, 12)],
    *[(16, 64, 48), (33, 40, 29), (64, 96, 100), (23, 4, 3), (9, 24, 64), (13, 72, 7)],
]
CONVOLUTIONS = [  # channels, out, height, width, kernel, stride, padding, dilation, groups
    *[(3, 16, 9, 9, 3, 1, 1, 1, 1), (16, 16, 8, 8, 3, 1, 1, 1, 1), (8, 24, 9, 7, 3, 2, 1, 1, 1), (24, 10, 5, 5, 1, 1, 0, 1, 1)],
    *[(16, 8, 8, 8, 1, 2, 0, 1, 1), (4, 6, 9, 9, 3, 1, 2, 2, 1), (12, 8, 6, 6, 3, 1, 1, 1, 4), (1, 5, 12, 12, 5, 1, 0, 1, 1)],
]
DEPTHWISE = [(8, 9, 9, 3, 1, 1), (24, 8, 7, 3, 2, 1), (5, 7, 7, 3, 1, 0), (16, 10, 10, 5, 1, 2), (33, 6, 6, 3, 2, 1)]


class Products(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.zero = -9 + (128 if dtype == torch.uint8 else 0)
        self.weights = nn.ParameterList([nn.Parameter(host.weights(n, k), requires_grad=False) for _, k, n in PRODUCTS])
        self.biases = nn.ParameterList(
            [nn.Parameter(torch.arange(n, dtype=torch.int32) * 37 - 500, requires_grad=False) for *_, n in PRODUCTS]
        )
        self.ends = nn.ModuleList([host.Requantized(n, k, -1, dtype, None if m % 2 else 0) for m, k, n in PRODUCTS])

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = zip(inputs, self.weights, self.biases, self.ends, strict=True)
        return tuple(end(integer.linear_int32(x, w, b, self.zero)) for x, w, b, end in parts)


@pytest.mark.parametrize("cpu", host.CPUS)
def test_products(cpu, tmp_path):
    dtype = host.dtype_for(cpu)
    cases = [[host.codes(m, k, seed=s, dtype=dtype) for m, k, _ in PRODUCTS] for s in range(3)]
    rules = host.check(Products(dtype), cpu, cases, tmp_path)
    kind = {"cortex-a72": "smlal", "cortex-a76": "sdot", "neoverse-n2": "smmla", "cascadelake": "vnni", "znver4": "vnni"}.get(cpu, "madd")
    assert sum(kind in rule for rule in rules) >= len(PRODUCTS) - 1, rules


def test_signed_codes_where_the_dot_products_are_unsigned(tmp_path):
    for cpu in set(host.UNSIGNED) & set(host.CPUS):
        host.check(Products(torch.int8), cpu, [[host.codes(m, k) for m, k, _ in PRODUCTS]], tmp_path)


@pytest.mark.parametrize("cpu", ["x86-64-v3", "cortex-a72"])
def test_a_weight_of_minus_128_does_not_overflow_a_pair_of_products(cpu, tmp_path):
    class Lowest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.full((8, 64), -128, dtype=torch.int8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return integer.linear_int32(x, self.weight, None, 0)

    host.check(Lowest(), cpu, [[torch.full((4, 64), -128, dtype=torch.int8)]], tmp_path)


class Convolutions(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.zero = 21 + (128 if dtype == torch.uint8 else 0)
        shapes = [(n, c // g, k, k) for c, n, _, _, k, *_, g in CONVOLUTIONS] + [(c, 1, k, k) for c, _, _, k, *_ in DEPTHWISE]
        self.weights = nn.ParameterList([nn.Parameter(host.weights(*s), requires_grad=False) for s in shapes])
        self.ends = nn.ModuleList([host.Requantized(s[0], s[1] * s[2] * s[3], 1, dtype, i % 3 or None) for i, s in enumerate(shapes)])
        self.options = [([s] * 2, [p] * 2, [d] * 2, g) for *_, s, p, d, g in CONVOLUTIONS]
        self.options += [([s] * 2, [p] * 2, [1, 1], c) for c, _, _, _, s, p in DEPTHWISE]

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = zip(inputs, self.weights, self.options, self.ends, strict=True)
        return tuple(end(integer.conv_int32(x, w, None, self.zero, *options)) for x, w, options, end in parts)


@pytest.mark.parametrize("cpu", host.CPUS)
def test_convolutions(cpu, tmp_path):
    dtype = host.dtype_for(cpu)
    shapes = [(2, c, h, w) for c, _, h, w, *_ in CONVOLUTIONS] + [(2, c, h, w) for c, h, w, *_ in DEPTHWISE]
    cases = [[host.codes(*shape, seed=s, dtype=dtype) for shape in shapes] for s in range(2)]
    rules = host.check(Convolutions(dtype), cpu, cases, tmp_path)
    assert sum(rule.startswith("depthwise") for rule in rules) == len(DEPTHWISE), rules


class Rest(nn.Module):
    """Everything else on codes: sums of two, products of two, windows, averages, interpolation, tables, other grids, computed matrices."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.offset = dtype, 128 if dtype == torch.uint8 else 0
        self.register_buffer("table", host.codes(256, seed=9, dtype=dtype))
        self.add, self.multiply, self.average = (host.Requantized(0, n, 1, dtype) for n in (1 << 24, 4, 4))
        self.window, self.rescale, self.product = (host.Requantized(0, n, 1, dtype) for n in (2, 1, 700))

    def forward(self, x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z = 5 + self.offset
        return (
            self.add(integer.add_int32(x, y, z, z - 9, 30000, -12345)),
            self.add(torch.relu(integer.add_int32(x, y[:, :1], z, z, 32767, 4))),
            self.multiply(integer.mul_int32(x, y, z, z)),
            self.average(integer.sum_int32(x, z, [2, 3], True)),
            self.window(integer.window_sum_int32(x, z, [3, 2], [2, 2], [1, 0])),
            self.rescale(integer.rescale_int32(x, z)),
            self.window(integer.upsample_int32(x, z, 2)),
            self.window(integer.upsample_int32(y, z, 3)),
            integer.lookup(x, self.table),
            torch.cat([x, y], 1),
            nn.functional.max_pool2d(x, 3, 2, 1),
            self.product(integer.matmul_int32(a, b, z, z - 3)),
            self.product(integer.matmul_int32(a, a.transpose(1, 2), z, z)),
        )


@pytest.mark.parametrize("cpu", host.CPUS)
def test_everything_else_on_codes(cpu, tmp_path):
    dtype = host.dtype_for(cpu)
    shapes = ((2, 7, 9, 10), (2, 7, 9, 10), (3, 10, 20), (3, 20, 13))
    cases = [[host.codes(*shape, seed=s + 10 * i, dtype=dtype) for i, shape in enumerate(shapes)] for s in range(2)]
    host.check(Rest(dtype), cpu, cases, tmp_path)


@pytest.mark.parametrize("cpu", host.CPUS)
def test_every_code_of_a_large_table_is_looked_up_in_registers(cpu, tmp_path):
    class Table(nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.register_buffer("table", host.codes(256, seed=2, dtype=dtype))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return integer.lookup(x, self.table)

    dtype = host.dtype_for(cpu)
    low, high = CODES[dtype]
    every = torch.arange(low, high + 1).repeat(67).to(dtype)[: 67 * 256 - 3].reshape(1, -1)
    rules = host.check(Table(dtype), cpu, [[every]], tmp_path)
    permutes = cpu in host.ARM or cpu == "znver4"
    assert (rules == ["lookup in registers"]) == permutes, rules
