"""Lower a Program to ONNX: `refuse` says up front what cannot be lowered, `lower` lowers the rest."""

from edgecc.targets.onnx_common.lowering.lower import lower
from edgecc.targets.onnx_common.lowering.table import DTYPES, OPSETS, refuse

__all__ = ["DTYPES", "OPSETS", "lower", "refuse"]
