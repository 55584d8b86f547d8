"""Kernels of a standalone artifact: plain C functions that compute a range of their outermost loop and call no runtime."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecc.errors import InternalError
from edgecc.targets.tvm_cpu.standalone.kernels import Kernel, compile_kernels, lower_kernels
from tests.targets.standalone_host import here, objects, pair


def target() -> Any:
    built = here()
    import tvm

    return tvm.target.Target(built.llvm_target)


def scale_rows() -> Any:
    """y[i, :] = 2 * x[i, :], the rows in parallel, each through a local buffer of 16."""
    from tvm.script import tirx as T

    @T.prim_func
    def kernel(x: T.Buffer((8, 16), "float32"), y: T.Buffer((8, 16), "float32")) -> None:
        for i in T.parallel(8):
            row = T.alloc_buffer((16,), "float32", scope="local")
            for j in T.serial(16):
                row[j] = x[i, j] * T.float32(2)
            for j in T.vectorized(16):
                y[i, j] = row[j]

    return kernel


def large_local() -> Any:
    """y = x + 1, through a local buffer of 40000 bytes."""
    from tvm.script import tirx as T

    @T.prim_func
    def kernel(x: T.Buffer((10000,), "float32"), y: T.Buffer((10000,), "float32")) -> None:
        copy = T.alloc_buffer((10000,), "float32", scope="local")
        for i in T.parallel(10000):
            copy[i] = x[i]
        for i in T.parallel(10000):
            y[i] = copy[9999 - i] + T.float32(1)

    return kernel


def symbolic_offset() -> Any:
    """y = x + 1, where x may begin anywhere in its memory, as in functions that TVM builds by hand."""
    from tvm.script import tirx as T

    @T.prim_func
    def kernel(px: T.handle, y: T.Buffer((16,), "float32")) -> None:
        offset = T.int64()
        x = T.match_buffer(px, (16,), "float32", elem_offset=offset)
        for i in T.serial(16):
            y[i] = x[i] + T.float32(1)

    return kernel


def calls_the_runtime() -> Any:
    from tvm.script import tirx as T

    @T.prim_func
    def kernel(x: T.Buffer((4,), "float32")) -> None:
        T.evaluate(T.call_extern("int32", "TVMBackendParallelLaunch", x.data))

    return kernel


def load(kernel: Kernel, folder: Path) -> Any:
    compile_kernels([kernel], target(), frozenset(), folder / "kernel.o")
    subprocess.run(["gcc", "-shared", "-o", folder / "kernel.so", folder / "kernel.o", "-lm"], check=True)
    return getattr(ctypes.CDLL(str(folder / "kernel.so")), kernel.name)


def aligned(*shape: int) -> Any:
    memory = np.zeros(int(np.prod(shape)) * 4 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + int(np.prod(shape)) * 4].view(np.float32).reshape(shape)


def pointer(array: Any) -> Any:
    return ctypes.c_void_p(array.ctypes.data)


def test_a_call_computes_its_range_of_the_parallel_loop_only(tmp_path: Path) -> None:
    of = target()
    kernel = lower_kernels({"scale": scale_rows()}, of, "k_")["scale"]
    assert (kernel.name, kernel.extent, kernel.temporaries) == ("k_scale", 8, ())
    x, y = aligned(8, 16), aligned(8, 16)
    x[...] = np.arange(128).reshape(8, 16)
    load(kernel, tmp_path)(pointer(x), pointer(y), ctypes.c_int64(2), ctypes.c_int64(5))
    np.testing.assert_array_equal(y[2:5], 2 * x[2:5])
    assert not y[:2].any() and not y[5:].any()


def test_a_local_buffer_above_32_kb_is_a_temporary_and_two_parallel_loops_are_serial(tmp_path: Path) -> None:
    of = target()
    kernel = lower_kernels({"large": large_local()}, of, "k_")["large"]
    assert (kernel.extent, kernel.temporaries) == (1, (40000,))
    x, y, temporary = aligned(10000), aligned(10000), aligned(10000)
    x[...] = np.arange(10000)
    load(kernel, tmp_path)(pointer(x), pointer(y), pointer(temporary), ctypes.c_int64(0), ctypes.c_int64(1))
    np.testing.assert_array_equal(y, x[::-1] + 1)


def test_a_pointer_is_to_the_first_element(tmp_path: Path) -> None:
    of = target()
    kernel = lower_kernels({"offset": symbolic_offset()}, of, "k_")["offset"]
    x, y = aligned(16), aligned(16)
    x[...] = np.arange(16)
    load(kernel, tmp_path)(pointer(x), pointer(y), ctypes.c_int64(0), ctypes.c_int64(1))
    np.testing.assert_array_equal(y, x + 1)


def test_functions_of_functions_that_name_values_compile_in_the_time_of_one(tmp_path: Path) -> None:
    of = target()
    from tvm import tirx

    x, y = (tirx.decl_buffer((16,), "float32", name) for name in "xy")
    i = tirx.Var("i", "int64")
    value, want = x[i], np.linspace(0, 1, 16, dtype=np.float32)
    given = want.copy()
    for level in range(6):  # TVM alone takes some four times as long for each level
        t, quarter = tirx.Var(f"t{level}", "float32"), tirx.const(0.25, "float32")
        value = tirx.Let(t, value * value + value, t * quarter + t * t * quarter * quarter) + value * quarter
        u = want * want + want
        want = u / 4 + u * u / 16 + want / 4
    loop = tirx.For(i, tirx.IntImm("int64", 0), tirx.IntImm("int64", 16), tirx.ForKind.PARALLEL, tirx.BufferStore(y, value, [i]))
    kernel = lower_kernels({"nested": tirx.PrimFunc([x, y], loop)}, of, "k_")["nested"]
    a, b = aligned(16), aligned(16)
    a[...] = given
    load(kernel, tmp_path)(pointer(a), pointer(b), ctypes.c_int64(0), ctypes.c_int64(16))
    np.testing.assert_allclose(b, want, rtol=1e-4)  # 6 levels of rounding


def test_a_call_of_tvms_runtime_is_refused(tmp_path: Path) -> None:
    of = target()
    kernels = lower_kernels({"launch": calls_the_runtime()}, of, "k_")
    with pytest.raises(InternalError, match="k_launch calls TVMBackendParallelLaunch"):
        compile_kernels([*kernels.values()], of, frozenset(), tmp_path / "kernel.o")


@pytest.mark.slow
def test_the_object_has_no_symbol_of_tvm_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        objects(pair(dynamic=True), tmp_path / name, here())
    symbols = subprocess.run(["nm", tmp_path / "one" / "kernels.o"], capture_output=True, text=True, check=True).stdout
    assert "compiled_model_k_" in symbols
    assert "TVM" not in symbols and "tvm" not in symbols
    for file in ("kernels.o", "model.so", "model.a"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
