"""Maxima and minima of vectors: NaN stays, and each architecture gets its own instruction."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

import tvm
from tvm import tirx

from edgecc.targets.tvm_cpu.machines import host_machine, machine
from edgecc.targets.tvm_cpu.vector_math.extremes import nan_max, nan_min, select_to_max

Expr = Any
Function = Callable[[Expr, Expr], Expr]
A72, V3 = machine("cortex-a72", "aarch64-linux-gnu"), machine("x86-64-v3", "x86_64-linux-gnu")
VALUES = np.array([*itertools.product([np.nan, -np.inf, -1.0, 0.0, 2.0, np.inf], repeat=2), *[(0.5, 0.5)] * 4], np.float32)


def number(value: float, lanes: int) -> Expr:
    return tirx.Broadcast(tirx.const(value, "float32"), lanes)


def compiled(function: Function, target: Any, lanes: int) -> Any:
    """`function(x[i], y[i])` over vectors of all VALUES."""
    buffers = [tirx.decl_buffer([tirx.const(len(VALUES), "int64")], "float32", n) for n in "xyz"]
    i = tirx.Var("i", "int64")
    where = [tirx.Ramp(i * lanes, tirx.const(1, "int64"), lanes)]
    store = tirx.BufferStore(buffers[2], function(*(tirx.BufferLoad(b, where) for b in buffers[:2])), where)
    loop = tirx.For(i, tirx.const(0, "int64"), tirx.const(len(VALUES) // lanes, "int64"), tirx.ForKind.SERIAL, store)
    kernel = tirx.PrimFunc(buffers, loop).with_attr("global_symbol", "kernel").with_attr("tirx.noalias", True)
    return tvm.compile(tvm.IRModule({"kernel": kernel}), target=tvm.target.Target(target.llvm_target))


def run(function: Function) -> np.ndarray[Any, Any]:
    here = host_machine()
    assert here is not None
    x, y = (tvm.runtime.tensor(np.ascontiguousarray(v)) for v in VALUES.T)
    z = tvm.runtime.empty((len(VALUES),), "float32")
    compiled(function, here, 4)["kernel"](x, y, z)
    return np.asarray(z.numpy())


def instructions(function: Function, target: Any, lanes: int) -> list[str]:
    """Mnemonics of the kernel's body that neither load, store, count nor branch."""
    library = compiled(function, target, lanes).mod
    text = next(m for m in (library, *library.imports) if m.kind == "llvm").inspect_source("asm")
    body = text[text.index("kernel_compute_:") :].split(".size")[0]
    names = re.findall(r"^\t(v?(?:max|min|cmp|blend|or)\w*|fmax\w*|fmin\w*|fcm\w+|bi[ctf]|bsl|or[rn])\t", body, re.MULTILINE)
    return sorted(set(names))


def arch() -> str:
    here = host_machine()
    assert here is not None
    return here.cpu.arch


def lost(x: Expr, y: Expr) -> Expr:
    return tirx.any(x < y, tirx.isnan(y))


PATTERNS: dict[str, tuple[Function, Callable[..., Any]]] = {
    "against a number": (lambda x, y: tirx.Select(x < number(0, 4), number(0, 4), x), lambda x, y: np.maximum(x, 0)),
    "a number above": (lambda x, y: tirx.Select(x > number(1, 4), number(1, 4), x), lambda x, y: np.minimum(x, 1)),
    "two values": (lambda x, y: tirx.Select(lost(x, y), y, x), np.maximum),
    "the lesser of two": (lambda x, y: tirx.Select(tirx.any(x > y, tirx.isnan(y)), y, x), np.minimum),
    "turned around": (lambda x, y: tirx.Select(number(0, 4) > x, number(0, 4), x), lambda x, y: np.maximum(x, 0)),
    "clamp": (
        lambda x, y: tirx.Select(
            tirx.Select(x < number(0, 4), number(0, 4), x) > number(1, 4), number(1, 4), tirx.Select(x < number(0, 4), number(0, 4), x)
        ),
        lambda x, y: np.clip(x, 0, 1),
    ),
    "TVM's own, against a number": (lambda x, y: tirx.Max(x, number(0, 4)), lambda x, y: np.maximum(x, 0)),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_rewritten_selection_is_what_numpy_gives(pattern: str) -> None:
    function, want = PATTERNS[pattern]
    np.testing.assert_array_equal(run(lambda x, y: select_to_max(function(x, y), arch())), want(*VALUES.T))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_neon_takes_its_own_instructions_alone(pattern: str) -> None:
    found = instructions(lambda x, y: select_to_max(PATTERNS[pattern][0](x, y), "aarch64"), A72, 4)
    assert set(found) <= {"fmax", "fmin"}
    assert found


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if "two" not in p])
def test_avx_compares_with_a_number_in_one_instruction(pattern: str) -> None:
    assert set(instructions(lambda x, y: select_to_max(PATTERNS[pattern][0](x, y), "x86_64"), V3, 4)) <= {"vmaxps", "vminps"}


@pytest.mark.parametrize("function, want", [(nan_max, np.maximum), (nan_min, np.minimum)])
def test_extremes_of_two_values_keep_nan(function: Any, want: Any) -> None:
    np.testing.assert_array_equal(run(lambda x, y: function(x, y, arch())), want(*VALUES.T))
    np.testing.assert_array_equal(run(lambda x, y: function(number(1, 4), y, arch())), want(1, VALUES[:, 1]))


def test_other_selections_stay() -> None:
    x, y = tirx.Var("x", "float32"), tirx.Var("y", "float32")
    zero = tirx.const(0, "float32")
    other = tirx.Select(x < zero, zero, y), tirx.Select(x < y, y, x), tirx.Select(tirx.any(x < y, tirx.isnan(x)), y, x)
    for value in other:
        assert select_to_max(value, "aarch64").same_as(value)
