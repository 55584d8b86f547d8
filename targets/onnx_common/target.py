"""What the ONNX targets share: a Program to model.onnx, verified in ONNX Runtime."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgecc.diagnostics import Remark
from edgecc.errors import UsageError
from edgecc.pipeline.base import REORDERED
from edgecc.pipeline.numerics import rounding
from edgecc.quantization.support import QuantSupport
from edgecc.targeting import support
from edgecc.targeting.base import Capabilities, Lowered, Requirement, Runner, Target
from edgecc.targeting.timing import Contestant
from edgecc.targets.onnx_common import half_runner
from edgecc.targets.onnx_common.agreement import agreement
from edgecc.targets.onnx_common.fallback import NotExportedError, export
from edgecc.targets.onnx_common.lowering import DTYPES, OPSETS, lower, refuse
from edgecc.targets.onnx_common.lowering.dialect import PLAIN, Dialect
from edgecc.targets.onnx_common.lowering.float8 import small_floats
from edgecc.targets.onnx_common.precision import PRECISIONS, limit, reduce, tolerance
from edgecc.targets.onnx_common.reference_runner import ReferenceRunner
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner, contestant, find_requirements, require_onnx
from edgecc.targets.onnx_common.simplify import simplify
from edgecc.targets.onnx_common.write import DATA, MODEL, write

if TYPE_CHECKING:
    from edgecc.ir.program import Program
    from edgecc.pipeline.context import PassContext, Sample
    from edgecc.targeting.agreement import Agreement

_PIPELINE = (
    "normalize: decompose, canonicalize, fold-constants, eliminate-common-subexpressions"
    " | fuse: fold-batch-norm, fuse-layer-norm, fuse-rms-norm, fuse-gelu, fuse-silu, fuse-hard-swish, fuse-attention, canonicalize"
    " | legalize: fold-constants, eliminate-common-subexpressions"
)

#: Outliers of activations go to the weights, by a multiplication where no norm can take it. MiniLM, cosine of embeddings: 0.994 to
#: 0.997 in onnxruntime, 0.987 to 0.995 in tensorrt, and no slower.
SMOOTHING = "smooth-quant{alpha=0.7,insert=true}"


@dataclass(frozen=True)
class OnnxTarget(Target):
    """An ONNX file. `opset`: of the default domain. `threads`: what it is run with. `attention`: whether attention is one
    node, from opset 23 on. `exporter`: whether a model with operators that edgecc does not lower is written by PyTorch's
    exporter instead. `precision`: fp32, fp16 or bf16, for all but what rounding would break; `float_io`: whether inputs and
    outputs stay float32 then. `simplify`: whether onnxsim's result is taken where it is smaller and the same.
    """

    lacking: ClassVar[Mapping[str, str]] = {}  # why the target has not a precision, by its name

    opset: int = 20
    threads: int = 1
    attention: bool = False
    exporter: bool = True
    precision: str = "fp32"
    float_io: bool = True
    simplify: bool = False

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise UsageError(f"opset is {self.opset}, want {OPSETS.start}..{OPSETS.stop - 1}")
        if not 1 <= self.threads <= 256:
            raise UsageError(f"threads is {self.threads}, want 1..256")
        if self.attention and self.opset < 23:
            raise UsageError(f"the Attention operator is of opset 23, and opset is {self.opset}", hint="opset=23")

        if self.precision not in PRECISIONS:
            raise UsageError(f"precision is {self.precision!r}, want one of {', '.join(PRECISIONS)}")
        if self.precision in self.lacking:
            raise UsageError(f"{self.name} has no {self.precision}: {self.lacking[self.precision]}", hint="precision=fp16")
        if self.precision == "fp32" and not self.float_io:
            raise UsageError("float_io=false is for half precision, and precision is fp32", hint="precision=fp16")

    @property
    @abstractmethod
    def note(self) -> str:
        """What a run in ONNX Runtime does not show of this target."""

    @property
    @abstractmethod
    def quantization(self) -> QuantSupport:
        """Which schemes are run, and where q/dq stand."""

    @property
    def dialect(self) -> Dialect:
        """How quantized numbers are written."""
        return PLAIN

    def pipeline(self) -> str:
        return _PIPELINE

    def capabilities(self) -> Capabilities:
        """What edgecc lowers; with the exporter, what is left is found out by `lower`."""
        own = self._own()
        if not self.exporter:
            return own
        refuse_here = self.dialect.refuse
        return Capabilities(own.dtypes, lambda node: refuse_here(node, self.opset), self.quantization, own, "PyTorch's exporter")

    def _own(self) -> Capabilities:
        return Capabilities(
            DTYPES - {PRECISIONS[name] for name in self.lacking},
            lambda node: self.dialect.refuse(node, self.opset) or refuse(node, self.opset),
            self.quantization,
        )

    def requirements(self) -> Sequence[Requirement]:
        return find_requirements()

    def lower(self, program: Program, directory: Path, context: PassContext) -> Lowered:
        """Write model.onnx and, unless the weights are small, model.onnx.data.

        Raises UnsupportedError for calls that neither edgecc nor PyTorch's exporter can write.
        """
        require_onnx()
        context.progress.detail(f"lower to ONNX, opset {self.opset}")
        refused = support.refusals(program, self._own()) if self.exporter else {}
        model = self._export(program, refused, context) if refused else self._lower(program)
        reduced = self._reduce(model, program, context)
        beside = write(model, directory)
        facts = {"opset": self.opset, "threads": self.threads, "nodes": len(model.graph), "exporter": bool(refused)}
        if self.simplify:
            return self._simplify(Lowered(MODEL, facts | reduced, beside), program, directory, context)
        return Lowered(MODEL, facts | reduced, beside)

    def _simplify(self, lowered: Lowered, program: Program, directory: Path, context: PassContext) -> Lowered:
        context.progress.detail("simplify by onnxsim")
        names = [spec.name for spec in program.signature.inputs]
        outcome = simplify(directory, names, context.samples, self.tolerance or REORDERED.tolerance)
        context.remarks.add(Remark("missed" if outcome.why else "applied", self.name, "", str(outcome)))
        nodes = outcome.nodes[0] if outcome.why else outcome.nodes[1]
        beside = [DATA] if (directory / DATA).is_file() else []
        return Lowered(MODEL, {**lowered.facts, "nodes": nodes, "simplified": outcome.facts}, beside)

    def _reduce(self, model: Any, program: Program, context: PassContext) -> dict[str, Any]:
        if self.precision == "fp32":
            precision, small = self._own_precision(program), small_floats(program)
            if precision == "fp16":
                limit(model, context, self.name)
            return {"precision": precision, **({"floats": small} if small else {})}
        if small_floats(program):
            raise UsageError(f"precision is {self.precision}, and the program has FP8 or FP4", hint="precision=fp32")
        context.progress.detail(f"measure what {self.precision} does to each node")
        names = [spec.name for spec in program.signature.inputs]
        return reduce(model, self.precision, names, context, self.name, float_io=self.float_io)

    def _own_precision(self, program: Program) -> str:
        """That of a program which is of half precision already."""
        dtypes = program.dtypes()
        return next((name for name in ("bf16", "fp16") if PRECISIONS[name] in dtypes), "fp32")

    @property
    def tolerance(self) -> float | None:
        """That of float32 where nothing is rounded further."""
        return None if self.precision == "fp32" else tolerance(self.precision)

    def _lower(self, program: Program) -> Any:
        return lower(program, self.opset, attention=self.attention, dialect=self.dialect)

    def _export(self, program: Program, refused: Mapping[tuple[str, str], Any], context: PassContext) -> Any:
        names = ", ".join(f"{operator} ({reason})" for operator, reason in refused)
        try:
            model = export(self.dialect.rewrite(program), self.opset)
        except NotExportedError as error:
            context.remarks.add(Remark("missed", self.name, "", f"PyTorch's exporter cannot write the model either: {error}"))
            support.check(program, self._own(), self.name)
            raise
        context.remarks.add(Remark("missed", self.name, "", f"written by PyTorch's exporter, for edgecc does not lower {names}"))
        return model

    def runners(self, directory: Path, manifest: Mapping[str, Any]) -> Sequence[Runner]:
        threads = int(manifest["facts"]["threads"])
        if manifest["facts"]["precision"] != "fp32":
            return half_runner.runners(directory / MODEL, threads, self.note, manifest)
        return [self._runner(directory / MODEL, manifest, self.note)]

    def _runner(self, file: Path, manifest: Mapping[str, Any], note: str = "") -> Runner:
        """A file of float32; FP8 without fusions, FP4, which ONNX Runtime has no kernel of, by definition."""
        floats = manifest["facts"].get("floats")
        if floats == "fp4":
            return ReferenceRunner(file, note)
        return OnnxRuntimeRunner(file, int(manifest["facts"]["threads"]), note, fusions=not floats)

    def agreement(self, program: Program, directory: Path, manifest: Mapping[str, Any], samples: Sequence[Sample]) -> Agreement | None:
        def load(file: Path) -> Runner:
            threads = int(manifest["facts"]["threads"])
            if (precision := manifest["facts"]["precision"]) == "fp32":
                return self._runner(file, manifest)
            return half_runner.RoundedRunner(file, threads, "", precision, manifest)

        tolerance = max(self.tolerance or REORDERED.tolerance, rounding(program.dtypes()))
        return agreement(self.dialect.rewrite(program), directory / MODEL, samples, tolerance, load)

    def contestants(self, directory: Path, manifest: Mapping[str, Any], threads: int, folder: Path) -> Sequence[Contestant]:
        if manifest["facts"]["precision"] == "bf16" or "floats" in manifest["facts"]:
            return []  # ONNX Runtime's CPU has no bfloat16 kernels
        return [contestant(directory / MODEL, threads, self.note)]
