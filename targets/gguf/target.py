"""gguf: language models for llama.cpp, recognised from the graph, in its block formats."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError
from edgecc.targeting.base import Capabilities, Lowered, Requirement, Runner, Target

if TYPE_CHECKING:
    from edgecc.ir.program import Program
    from edgecc.pipeline.context import PassContext, Sample
    from edgecc.targeting.generation import GenerationRequest, Piece

_PIPELINE = (
    "normalize: widen-floats, decompose, canonicalize, eliminate-common-subexpressions"
    " | fuse: fuse-layer-norm, fuse-rms-norm, fuse-gelu, fuse-silu, fuse-attention, merge-low-rank, canonicalize"
)
_DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.bool})


@dataclass(frozen=True)
class Gguf(Target):
    """`mixture`: which block format each tensor gets, one of llama.cpp's names (q4_k_m). `tensor_types`: pairs of a regular expression
    and a format that stand above it. `compensate`: `hessian` lets weights make up for the rounding of others where there is
    calibration data, `none` rounds to the nearest. `imatrix`: an importance matrix to weigh rounding by, a file.
    `allow_approximate`: take GELU by tanh for GELU by erf. `context`: how many tokens the model was trained for, 0 for what
    config.json says. `tokenizer`: a folder with its files, `none` to leave it out, `""` for that of the model.
    `pre_tokenizer`: one of llama.cpp's names, in place of the one that splits as the tokenizer does. `shard_bytes`: of data in one
    file, 0 for one file.
    """

    name: ClassVar[str] = "gguf"
    streams: ClassVar[bool] = True

    mixture: str = "f16"
    tensor_types: tuple[tuple[str, str], ...] = ()
    compensate: str = "hessian"
    imatrix: str = ""
    allow_approximate: bool = False
    context: int = 0
    tokenizer: str = ""
    pre_tokenizer: str = ""
    shard_bytes: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        from edgecc.targets.gguf.mixture import MIXTURES, check_overrides

        if self.mixture not in MIXTURES:
            raise UsageError(f"the mixture is {self.mixture!r}", hint=nearest(self.mixture, MIXTURES))
        check_overrides(self.tensor_types)
        if self.compensate not in ("hessian", "none"):
            raise UsageError(f"compensate is {self.compensate!r}, want hessian or none")
        if self.context < 0 or self.shard_bytes < 0 or self.threads < 1:
            raise UsageError(
                f"context is {self.context} and shard_bytes {self.shard_bytes}, want at least 0; threads is {self.threads}, want at least 1"
            )

    def with_quant(self, name: str) -> Gguf:
        """A name without its size is that of the medium mixture, as in llama.cpp: q4_k is q4_k_m."""
        from edgecc.targets.gguf.mixture import MIXTURES

        mixture = name.lower()
        return replace(self, mixture=f"{mixture}_m" if mixture not in MIXTURES and f"{mixture}_m" in MIXTURES else mixture)

    def pipeline(self) -> str:
        return _PIPELINE + (" | legalize: approximate-gelu" if self.allow_approximate else "")

    def capabilities(self) -> Capabilities:
        """Whether llama.cpp has it is known of the whole graph alone."""
        from edgecc.targets.gguf.recognize import refusal

        return Capabilities(_DTYPES, lambda node: None, whole=refusal)

    def requirements(self) -> Sequence[Requirement]:
        from edgecc.targets.gguf.requirements import requirements

        return requirements()

    def admissible(self, program: Program, sample: Sample) -> Sample:
        from edgecc.targets.gguf.inputs import admissible

        return admissible(program, sample)

    def preview(self, program: Program, context: PassContext) -> Mapping[str, Any]:
        from edgecc.targets.gguf.plan import make_plan

        plan = make_plan(program, self, context)
        rows = [{"name": r.name, "shape": list(r.shape), "format": r.format, "bytes": r.bytes, "reason": r.reason} for r in plan.rows()]
        return {"gguf": {**plan.facts(), "tensors": rows}}

    def lower(self, program: Program, directory: Path, context: PassContext) -> Lowered:
        from edgecc.targets.gguf.lower import lower

        return lower(program, self, directory, context)

    def tokenizer_of(self, source: Path | None) -> Path | None:
        """The folder of the tokenizer, None where the file has none."""
        if self.tokenizer:
            return None if self.tokenizer == "none" else Path(self.tokenizer)
        return source

    def runners(self, directory: Path, manifest: Mapping[str, Any]) -> Sequence[Runner]:
        from edgecc.targets.gguf.runtime.runner import runners

        return runners(directory, manifest)

    def assess(
        self,
        directory: Path,
        manifest: Mapping[str, Any],
        original: Callable[..., tuple[torch.Tensor, ...]],
        text: Iterable[Sample] | None,
        source: Path | None,
    ) -> Mapping[str, Any]:
        from edgecc.targets.gguf.assess import assess

        return assess(directory, manifest, original, text, self.tokenizer_of(source))

    def locate(self, program: Program, sample: Sample) -> str:
        from edgecc.targets.gguf.locate import locate

        return locate(program, self, sample)

    def generate(self, directory: Path, manifest: Mapping[str, Any], request: GenerationRequest) -> Generator[Piece, None, None]:
        from edgecc.targets.gguf.runtime import hooks

        return hooks.generate(directory, manifest, request)

    def token_speed(self, directory: Path, manifest: Mapping[str, Any], threads: int, seconds: float) -> Mapping[str, Any]:
        from edgecc.targets.gguf.runtime import hooks

        return hooks.speed(directory, manifest, threads, seconds)
