"""Short names of tensor dtypes, as they stand in input specs and in the textual IR."""

from __future__ import annotations

import torch

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError

_NAMES = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
    torch.complex64: "c64",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """`f32` for torch.float32; torch's own name where there is no short one."""
    return _NAMES.get(dtype, str(dtype).removeprefix("torch."))


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a short name. Raises UsageError for an unknown one."""
    if name not in _DTYPES:
        raise UsageError(f"unknown dtype {name!r}", hint=nearest(name, _DTYPES))
    return _DTYPES[name]
