"""Lower a Program to a TVM Relax module: `refuse` says up front what cannot be lowered, `lower` lowers the rest.

`lower` gives Relax operators wherever TVM has one with the right meaning, so that layout and fusion passes know
what they look at; `legalize` then turns them into kernels that mean what PyTorch means, NaN included.
"""

from edgecc.targets.tvm_cpu.lowering.legalize import legalize
from edgecc.targets.tvm_cpu.lowering.lower import lower
from edgecc.targets.tvm_cpu.lowering.table import DTYPES, refuse

__all__ = ["DTYPES", "legalize", "lower", "refuse"]
