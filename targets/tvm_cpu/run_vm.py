"""Run a compiled model in the TVM virtual machine of this machine, in a process of its own:
`python -m edgecc.targets.tvm_cpu.run_vm MODEL.so --cases FOLDER -t THREADS`.

It takes the cases that the device's runner takes: FOLDER/0/input0.npy, ... and writes FOLDER/0/output0.npy, ... Only
TVM's runtime is loaded, not its compiler. It trusts its inputs: whoever calls it has checked them.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np

_ALIGNMENT = 64  # bytes, what TVM's kernels assume


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m edgecc.targets.tvm_cpu.run_vm")
    parser.add_argument("model")
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("-t", dest="threads", type=int, default=1)
    parsed = parser.parse_args(arguments)
    run = load_model(parsed.model, parsed.threads)
    for number in itertools.count():
        folder = parsed.cases / str(number)
        if not folder.is_dir():
            return 0
        inputs = [aligned(np.load(folder / f"input{i}.npy")) for i in range(len(list(folder.glob("input*.npy"))))]
        for i, output in enumerate(run(*inputs)):
            np.save(folder / f"output{i}.npy", np.from_dlpack(output))
    raise AssertionError("cases are numbered without end")


def load_model(model: str, threads: int) -> Any:
    """The entry function of a model library. TVM's runtime registers its virtual machine when it is loaded."""
    import ctypes

    import tvm_ffi

    package = importlib.util.find_spec("tvm")
    assert package is not None, "TVM is not installed"
    for folder in package.submodule_search_locations or ():
        for name in ("libtvm_runtime", "libtvm_runtime_extra"):
            library = next((Path(folder) / "lib").glob(f"{name}.*"), None)
            if library:
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    tvm_ffi.get_global_func("runtime.config_threadpool")(1, threads)
    machine = tvm_ffi.load_module(model)["vm_load_executable"]()
    cpu, pooled = 1, 2  # DLDeviceType kDLCPU; the virtual machine's pooled allocator
    machine["vm_initialization"](cpu, 0, pooled)
    return machine["main"]


def aligned(array: np.ndarray[Any, Any]) -> Any:
    """A tensor of TVM's with the contents of `array`."""
    import tvm_ffi

    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return tvm_ffi.from_dlpack(copy)


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi imports it where it can, two seconds for nothing here
    sys.exit(main(sys.argv[1:]))
