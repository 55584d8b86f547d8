"""Elementary functions of float32 as polynomials, for scalars and vectors of any number of lanes alike.

Each is a TIR expression without a branch, a table or a call; `install` makes TVM's operators mean them. The largest
error over all 2^32 operands in units in the last place, measured with the kernels that LLVM makes for x86-64-v3 (FMA)
and x86-64-v2 (none) and those of aarch64 under an emulator (`tests/targets/tvm_cpu/test_vector_math.py`):

TABLE

NaN gives NaN, infinities and denormals give what the function does there, and the sign of zero is kept (in gelu not).
sigmoid, tanh and erf do not leave [-1, 1].
"""

from edgecc.targets.tvm_cpu.vector_math.intrinsics import install

__all__ = ["install"]
