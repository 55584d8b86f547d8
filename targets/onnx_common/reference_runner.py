"""ONNX's reference evaluator as a runner, for what ONNX Runtime has no kernel of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecc.errors import ContractError
from edgecc.targeting.base import Arrays, Runner
from edgecc.targeting.packages import installed


class ReferenceRunner(Runner):
    """An ONNX file by the operators' definitions in numpy: slow, and no runtime. `note` says what this run does not show."""

    def __init__(self, model: Path, note: str = "") -> None:
        from onnx.reference import ReferenceEvaluator

        self.runtime = f"onnx {installed('onnx')} reference evaluator ({'; '.join(filter(None, ['ONNX Runtime was not run', note]))})"
        self._evaluator = ReferenceEvaluator(str(model))

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        try:
            found = self._evaluator.run(None, dict(inputs))
        except Exception as error:  # the evaluator raises whatever numpy does
            raise ContractError(f"the model failed in {self.runtime}: {error}") from error
        return dict(zip(self._evaluator.output_names, found, strict=True))
