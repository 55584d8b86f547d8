"""Elementary functions of float32 as polynomials, for scalars and vectors of any number of lanes alike.

Each is a TIR expression without a branch, a table or a call; `install` makes TVM's operators mean them. The largest
error in units in the last place, and the instructions of one vector besides the load and the store:

               error with FMA    without    on a Cortex-A72    with AVX2
    exp                  1.02       0.98                 23           20
    expm1                1.54       1.66                 22           21
    sigmoid              2.41       2.36                 30           24
    tanh                 2.50       2.50                 31           25
    erf                  3.49       4.53                 31           31
    gelu, x > 0          2.57       3.00                 29           27
    log                  1.28       1.35                 37           40
    log1p                2.03       2.10                 40           44

With FMA: x86-64-v3 over every operand from 2^-30 to 128 in magnitude (log: every positive one) and every 61st of the
others, and an emulated Cortex-A72 over every 61st (976th of the others); without: x86-64-v2 over every 7th (61st). gelu:
over every operand, on the Cortex-A72 over every 16th. The measure is the C library in double.
`python -m tests.targets.vector_math_host 1` measures again.

NaN gives NaN, infinities, denormal operands and denormal results are what the function has there, and the sign of zero
is kept. sigmoid, tanh and erf do not leave [-1, 1]. gelu cancels for x < 0: its absolute error is at most 9.1e-7 there
(PyTorch's own: 1.2e-6), a large negative x gives 0 of either sign, and -inf gives NaN.
"""

from edgecc.targets.tvm_cpu.vector_math.intrinsics import install

__all__ = ["install"]
