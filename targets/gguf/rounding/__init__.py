"""Calibration data: moments of what layers read, rounding that makes up for its errors, and importance matrix files."""

from edgecc.targets.gguf.rounding.compensation import round_compensated
from edgecc.targets.gguf.rounding.derivatives import sensitivity
from edgecc.targets.gguf.rounding.moments import Moments
from edgecc.targets.gguf.rounding.observation import observe

__all__ = ["Moments", "observe", "round_compensated", "sensitivity"]
