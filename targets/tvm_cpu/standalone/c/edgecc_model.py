"""Run a model that edgecc compiled, with NumPy:

    from edgecc_model import Model
    model = Model("model.so")
    outputs = model(x=array)                       # arrays by name

or from a shell: `python edgecc_model.py model.so x=x.npy -o out -n 10 -t 2` writes out/NAME.npy and prints the latency;
`--cases FOLDER` runs FOLDER/0/input0.npy, ... to FOLDER/0/output0.npy, ... Exit codes: 0 done, 1 the model failed, 2
wrong use or input. Needs Python 3.8 and NumPy, nothing else.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import sys
import time
from pathlib import Path
from typing import Any, Sequence  # noqa: UP035  # Python 3.8 has no other

import numpy as np

ALIGNMENT = 64
_DTYPES = ("float32", "float64", "float16", "uint16", "int8", "uint8", "int16", "int32", "int64", "bool")  # NumPy has no bfloat16

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int32


class _Port(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("dtype", _INT),
        ("rank", _INT),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
        ("lower", ctypes.POINTER(ctypes.c_int64)),
        ("upper", ctypes.POINTER(ctypes.c_int64)),
        ("symbols", ctypes.POINTER(ctypes.c_char_p)),
        ("bytes", ctypes.c_size_t),
    ]


class _Tensor(ctypes.Structure):
    _fields_ = [("data", _POINTER), ("shape", _POINTER), ("rank", _INT), ("dtype", _INT), ("bytes", ctypes.c_size_t)]


_FUNCTIONS = (
    ("edgecc_model_loaded", _POINTER, ()),
    ("edgecc_model_inputs", _INT, (_POINTER,)),
    ("edgecc_model_outputs", _INT, (_POINTER,)),
    ("edgecc_model_input", ctypes.POINTER(_Port), (_POINTER, _INT)),
    ("edgecc_model_output", ctypes.POINTER(_Port), (_POINTER, _INT)),
    ("edgecc_model_memory", ctypes.c_size_t, (_POINTER, _INT)),
    ("edgecc_model_init", _INT, (_POINTER, _INT, _POINTER, ctypes.c_size_t, _POINTER)),
    ("edgecc_model_output_shape", _INT, (_POINTER, _POINTER, _INT, _INT, _POINTER)),
    ("edgecc_model_run", _INT, (_POINTER, _POINTER, _INT, _POINTER, _INT)),
    ("edgecc_model_error", ctypes.c_char_p, (_POINTER,)),
    ("edgecc_status_text", ctypes.c_char_p, (_INT,)),
    ("edgecc_model_close", None, (_POINTER,)),
)


class ModelError(ValueError):
    """The inputs do not fit the model, or it could not be started."""


class Port:
    """An input or output. `shape` has a number, or a dynamic size in words with its bounds; `dtype` is NumPy's."""

    def __init__(self, raw: Any) -> None:
        self.name: str = raw.name.decode()
        self.code: int = raw.dtype
        self.dtype = np.dtype(_DTYPES[raw.dtype])
        self.rank: int = raw.rank
        words = [f"{raw.symbols[a].decode()}={raw.lower[a]}..{raw.upper[a]}" for a in range(raw.rank)]
        self.shape = tuple(raw.dims[a] if raw.dims[a] >= 0 else words[a] for a in range(raw.rank))

    def __repr__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


class Model:
    """One instance of a compiled model. Not for two threads at once: make one for each."""

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        self._instance = _POINTER()
        self._c: Any = ctypes.CDLL(str(Path(path).resolve()))
        for name, result, arguments in _FUNCTIONS:
            function = getattr(self._c, name)
            function.restype, function.argtypes = result, arguments
        model = self._c.edgecc_model_loaded()
        self.inputs = [Port(self._c.edgecc_model_input(model, i).contents) for i in range(self._c.edgecc_model_inputs(model))]
        self.outputs = [Port(self._c.edgecc_model_output(model, i).contents) for i in range(self._c.edgecc_model_outputs(model))]
        self._memory = aligned(self._c.edgecc_model_memory(model, threads))
        place = ctypes.byref(self._instance)
        status = self._c.edgecc_model_init(model, threads, self._memory.ctypes.data, self._memory.nbytes, place)
        if status:
            raise ModelError(self._c.edgecc_status_text(status).decode())

    def __call__(self, **named: Any) -> dict[str, Any]:
        """Outputs by name for inputs by name. Raises ModelError where they do not fit."""
        missing = [p.name for p in self.inputs if p.name not in named]
        unknown = sorted(set(named) - {p.name for p in self.inputs})
        if missing or unknown:
            raise ModelError(f"inputs missing: {missing}; unknown: {unknown}; the model takes {self.inputs}")
        return dict(zip([p.name for p in self.outputs], self.run([named[p.name] for p in self.inputs])))  # noqa: B905  # Python 3.8

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Outputs in order for inputs in order. Raises ModelError where they do not fit."""
        inputs = [_copied(array) for array in arrays]
        given = self._tensors(inputs, self.inputs)
        outputs = [self._result(given, len(inputs), number) for number in range(len(self.outputs))]
        taken = self._tensors(outputs, self.outputs)
        self._check(self._c.edgecc_model_run(self._instance, given, len(inputs), taken, len(outputs)))
        return outputs

    def close(self) -> None:
        """End the threads."""
        if self._instance:
            self._c.edgecc_model_close(self._instance)
            self._instance = _POINTER()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _result(self, given: Any, count: int, number: int) -> Any:
        """Memory for an output."""
        port = self.outputs[number]
        shape = (ctypes.c_int64 * (port.rank + 1))()
        self._check(self._c.edgecc_model_output_shape(self._instance, given, count, number, shape))
        sizes = shape[: port.rank]
        return aligned(int(np.prod(sizes, dtype=np.int64)) * port.dtype.itemsize).view(port.dtype).reshape(sizes)

    def _tensors(self, arrays: list[Any], ports: list[Port]) -> Any:
        """An array of edgecc_tensor, which keeps the shapes alive."""
        tensors: Any = (_Tensor * (len(arrays) + 1))()
        tensors.shapes = [(ctypes.c_int64 * (array.ndim + 1))(*array.shape) for array in arrays]
        for number, array in enumerate(arrays):
            port = ports[number] if number < len(ports) else None
            if port and array.dtype != port.dtype:
                raise ModelError(f"{port.name} is {array.dtype}, want {port.dtype}")
            shape = ctypes.cast(tensors.shapes[number], _POINTER)
            tensors[number] = _Tensor(array.ctypes.data, shape, array.ndim, port.code if port else 0, array.nbytes)
        return tensors

    def _check(self, status: int) -> None:
        if status:
            text = self._c.edgecc_model_error(self._instance) or self._c.edgecc_status_text(status)
            raise ModelError(text.decode())


def aligned(size: int) -> Any:
    """Bytes as a model wants them; an empty array too has an address."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def _copied(given: Any) -> Any:
    array = np.asarray(given)
    copy = aligned(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _run_cases(model: Model, folder: Path) -> None:
    for number in itertools.count():
        place = folder / str(number)
        if not place.is_dir():
            return
        outputs = model.run([np.load(place / f"input{i}.npy") for i in range(len(model.inputs))])
        for i, output in enumerate(outputs):
            np.save(place / f"output{i}.npy", output)


def _run_once(model: Model, words: list[str], folder: Path | None, runs: int) -> None:
    inputs = {name: np.load(file) for name, _, file in (word.partition("=") for word in words)}
    milliseconds = []
    for _ in range(runs):
        start = time.perf_counter()
        outputs = model(**inputs)
        milliseconds.append((time.perf_counter() - start) * 1e3)
    print(f"latency_ms median {sorted(milliseconds)[runs // 2]:.3f} min {min(milliseconds):.3f} runs {runs}")  # noqa: T201
    for name, output in outputs.items() if folder else ():
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", output)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Run a model that edgecc compiled.")
    parser.add_argument("model")
    parser.add_argument("inputs", nargs="*", metavar="NAME=FILE.npy")
    parser.add_argument("-o", dest="output", type=Path, metavar="FOLDER")
    parser.add_argument("-n", dest="runs", type=int, default=1)
    parser.add_argument("-t", dest="threads", type=int, default=1)
    parser.add_argument("--cases", type=Path, metavar="FOLDER")
    parsed = parser.parse_args(arguments)
    try:
        model = Model(parsed.model, parsed.threads)
    except (OSError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    try:
        with model:
            if parsed.cases:
                _run_cases(model, parsed.cases)
            else:
                _run_once(model, parsed.inputs, parsed.output, max(parsed.runs, 1))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
