"""The TVM that the lowering, the artifacts and their runtime were made for."""

from __future__ import annotations

from edgecc.errors import MissingToolError
from edgecc.targeting.packages import installed

TVM = "0.27.0.post1"
FFI = "0.1.14.post0"  # 0.1.15 crashes TVM 0.27 while it saves a module or tensorizes
INSTALL = f"pip install apache-tvm=={TVM} apache-tvm-ffi=={FFI}    (or: pip install 'edgecc[tvm]')"


def require_tvm() -> None:
    """Raise MissingToolError where TVM is missing, or its ffi is one that crashes."""
    tvm, ffi = installed("apache-tvm"), installed("apache-tvm-ffi")
    if not tvm or not ffi:
        raise MissingToolError("Apache TVM is not installed", hint=INSTALL)
    if (tvm, ffi) != (TVM, FFI):
        raise MissingToolError(f"apache-tvm {tvm} with apache-tvm-ffi {ffi} is installed, want {TVM} with {FFI}", hint=INSTALL)
