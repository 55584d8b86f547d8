"""Elementary functions of vector_math: their errors, what they make of special values, and what TVM lowers to them."""

from __future__ import annotations

import functools
import math
import re
import struct
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

import tvm
from tvm import tirx

from edgecc.targets.tvm_cpu.machines import host_machine
from edgecc.targets.tvm_cpu.vector_math import install
from edgecc.targets.tvm_cpu.vector_math.intrinsics import FUNCTIONS, call
from tests.targets.vector_math_host import MACHINES, Errors, build, measure

# Units in the last place over all operands (gelu: over x > 0), with FMA and without, rounded up.
BOUNDS = {
    "exp": (1.1, 1.1),
    "expm1": (1.6, 1.7),
    "sigmoid": (2.5, 2.5),
    "tanh": (2.6, 2.6),
    "erf": (3.5, 4.6),
    "gelu": (2.6, 3.0),
    "log": (1.3, 1.4),
    "log1p": (2.1, 2.2),
}
BOUNDED = ("sigmoid", "tanh", "erf")
STEP = 4099  # a prime: the low bits of the operands differ
EDGES = (0.0, 2.0**-149, 2.0**-126, 1.0, 87.33655, 88.72284, 103.9721, math.inf)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return functools.cache(lambda name, cpu: build(name, cpu, tmp_path_factory.mktemp("kernel")))


def bits(x: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", x))[0])


def check(name: str, cpu: str, found: Errors) -> None:
    assert found.wrong == 0, f"{name}({found.example!r})"
    if name == "gelu":  # below 0 it cancels: the result is the small rest of x / 2, as in PyTorch's own
        assert found.positive <= BOUNDS[name][cpu == "x86-64-v2"], f"{name}({found.at!r})"
        return
    assert found.signs == 0
    assert found.ulps <= BOUNDS[name][cpu == "x86-64-v2"], f"{name}({found.at!r})"
    assert name not in BOUNDED or found.outside == 0


@pytest.mark.parametrize("cpu", MACHINES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_within_the_stated_bounds(name: str, cpu: str, command: Any) -> None:
    check(name, cpu, measure(command(name, cpu), STEP))


@pytest.mark.parametrize("cpu", MACHINES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_neighbours_of_special_values(name: str, cpu: str, command: Any) -> None:
    """Zeros, denormals, where exp over- and underflows, infinities and NaN, of either sign."""
    for edge in EDGES:
        for sign in (0, 1 << 31):
            middle = bits(edge)
            check(name, cpu, measure(command(name, cpu), 1, max(middle - 999, 0) | sign, (middle + 999) | sign))


def run(name: str, x: np.ndarray[Any, Any], lanes: int) -> np.ndarray[Any, Any]:
    """The operator over the vectors of an array, compiled for this machine in TVM's own way."""
    here = host_machine()
    assert here is not None
    buffers = [tirx.decl_buffer([tirx.const(x.size, "int64")], str(x.dtype), n) for n in "xy"]
    i = tirx.Var("i", "int64")
    where = tirx.Ramp(i * lanes, tirx.const(1, "int64"), lanes) if lanes > 1 else i
    store = tirx.BufferStore(buffers[1], call(name, tirx.BufferLoad(buffers[0], [where])), [where])
    loop = tirx.For(i, tirx.const(0, "int64"), tirx.const(x.size // lanes, "int64"), tirx.ForKind.SERIAL, store)
    function = tirx.PrimFunc(buffers, loop).with_attr("global_symbol", "kernel").with_attr("tirx.noalias", True)
    y = tvm.runtime.empty(x.shape, str(x.dtype))
    tvm.compile(tvm.IRModule({"kernel": function}), target=tvm.target.Target(here.llvm_target))["kernel"](tvm.runtime.tensor(x), y)
    return np.asarray(y.numpy())


WIDE = {
    "exp": math.exp,
    "expm1": math.expm1,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "erf": math.erf,
    "gelu": lambda x: x / 2 * math.erfc(-x / math.sqrt(2)),
    "log": math.log,
    "log1p": math.log1p,
}


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_keeps_its_precision(name: str, lanes: int) -> None:
    x = np.linspace(0.05, 4, 64)
    np.testing.assert_allclose(run(name, x, lanes), [WIDE[name](v) for v in x], rtol=1e-14)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("name", ["exp", "gelu"])
def test_float16_is_computed_in_float32(name: str, lanes: int) -> None:
    x = np.linspace(-4, 4, 64).astype(np.float16)
    want = np.array([WIDE[name](float(v)) for v in x])
    np.testing.assert_allclose(run(name, x, lanes), want, rtol=2.0**-11, atol=1e-6)  # half a unit of float16, and float32's own error


def test_installing_twice_is_installing_once() -> None:
    install()
    rule = tvm.ir.Op.get("tirx.exp").get_attr("llvm.FLowerIntrinsic")
    install()
    assert tvm.ir.Op.get("tirx.exp").get_attr("llvm.FLowerIntrinsic").same_as(rule)


@pytest.mark.parametrize("cpu", MACHINES)
def test_gelu_of_a_negative_operand_has_a_small_absolute_error(cpu: str, command: Any) -> None:
    """1e-6 is two units in the last place of the two terms that cancel at x = -5; PyTorch's own is off by 1.2e-6."""
    found = measure(command("gelu", cpu), STEP, bits(-0.0), bits(-math.inf))
    assert found.wrong == 0
    assert found.absolute < 1e-6


def test_a_large_argument_of_gelu_is_passed_through_or_is_zero() -> None:
    x = np.array([-1e30, -1e6, -20.0, 20.0, 1e6, 1e30, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(run("gelu", x, 4), np.array([0, 0, 0, 20, 1e6, 1e30, np.inf, np.nan], np.float32))


ASSEMBLY = {"cortex-a72": ("fmla", "fmls"), "x86-64-v3": ("vfmadd", "vfnmadd")}


@pytest.mark.parametrize("cpu", ASSEMBLY)
def test_products_and_sums_are_contracted_without_fast_math(cpu: str) -> None:
    """Both `a * b + c` and `c - a * b`."""
    buffers = [tirx.decl_buffer([tirx.const(4, "int64")], "float32", n) for n in "abcyz"]
    where = [tirx.Ramp(tirx.const(0, "int64"), tirx.const(1, "int64"), 4)]
    a, b, c = (tirx.BufferLoad(buffer, where) for buffer in buffers[:3])
    body = tirx.SeqStmt([tirx.BufferStore(buffers[3], a * b + c, where), tirx.BufferStore(buffers[4], c - a * b, where)])
    function = tirx.PrimFunc(buffers, body).with_attr("global_symbol", "kernel").with_attr("tirx.noalias", True)
    compiled = tvm.compile(tvm.IRModule({"kernel": function}), target=tvm.target.Target(MACHINES[cpu].llvm_target)).mod
    text = next(m for m in (compiled, *compiled.imports) if m.kind == "llvm").inspect_source("asm")
    assert all(f"\t{instruction}" in text for instruction in ASSEMBLY[cpu])


def test_coefficients_are_lanes_of_registers_and_not_made_again_in_a_loop() -> None:
    buffers = [tirx.decl_buffer([tirx.const(1 << 10, "int64")], "float32", n) for n in "xy"]
    i = tirx.Var("i", "int64")
    where = [tirx.Ramp(i * 4, tirx.const(1, "int64"), 4)]
    loop = tirx.For(
        i,
        tirx.const(0, "int64"),
        tirx.const(1 << 8, "int64"),
        tirx.ForKind.SERIAL,
        tirx.BufferStore(buffers[1], call("gelu", tirx.BufferLoad(buffers[0], where)), where),
    )
    function = tirx.PrimFunc(buffers, loop).with_attr("global_symbol", "kernel").with_attr("tirx.noalias", True)
    target = tvm.target.Target(MACHINES["cortex-a72"].llvm_target)
    with target:
        compiled = tvm.compile(tvm.IRModule({"kernel": function}), target=target).mod
    text = next(m for m in (compiled, *compiled.imports) if m.kind == "llvm").inspect_source("asm")
    assert len(re.findall(r"\tfmla\tv\d+.4s, v\d+.4s, v\d+.s\[", text)) == 10  # of GELU's 14, all but the constant terms of its blocks
