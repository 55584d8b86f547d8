"""External data: whether the file beside the model really holds a weight, without reading it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx_ir as ir


def fault(tensor: ir.ExternalTensor) -> str:
    """What is wrong with where a weight is said to lie, `""` if nothing.

    Paths are relative to the model and stay below it (ONNX, docs/ExternalData.md).
    """
    location = str(tensor.location)
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute():
        return f"its data lies at the absolute path {location!r}"
    if ".." in PurePosixPath(location.replace("\\", "/")).parts:
        return f"its data lies at {location!r}, outside of the model's folder"
    path = Path(tensor.base_dir) / location
    if not path.is_file():
        return f"its data file {location!r} is missing"
    offset, length = tensor.offset or 0, tensor.nbytes if tensor.length is None else tensor.length
    if length != tensor.nbytes:
        return f"it has {length:,} bytes of data, its type and shape want {tensor.nbytes:,}"
    held = path.stat().st_size
    if offset + length > held:
        return f"its data ends at byte {offset + length:,} of {location!r}, which has {held:,}"
    return ""
