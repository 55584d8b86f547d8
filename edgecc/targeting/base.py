"""Target: the contract between edgecc and a backend; Runner: a real runtime that executes its artifacts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import fx

from edgecc.errors import UsageError
from edgecc.pipeline.numerics import Distance
from edgecc.quantization.support import QuantSupport

if TYPE_CHECKING:
    from edgecc.ir.program import Program
    from edgecc.pipeline.context import PassContext, Sample
    from edgecc.targeting.agreement import Agreement
    from edgecc.targeting.generation import GenerationRequest, Piece
    from edgecc.targeting.lint import LintReport
    from edgecc.targeting.timing import Contestant

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Requirement:
    """One thing that a target needs or profits from. `found` is its version or path, `""` where it is missing."""

    name: str
    found: str
    purpose: str
    install: str
    required: bool = True


@dataclass(frozen=True)
class Capabilities:
    """What a target can lower. `refuse` returns why a node cannot be lowered, None where it can. `quantization`: which schemes it
    runs and where q/dq stand for it, None where it has none.

    `substitute` names what writes the whole program where it has calls beyond `own`, which may fail; `""` where nothing does.
    `whole`: the first node, and why, for which a program is refused as a whole, None where it is not; for targets that take programs of
    some kinds alone. `lower` refuses them in more words.
    """

    dtypes: frozenset[torch.dtype]
    refuse: Callable[[fx.Node], str | None]
    quantization: QuantSupport | None = None
    own: Capabilities | None = None
    substitute: str = ""
    whole: Callable[[Program], tuple[fx.Node, str] | None] | None = None


class Runner(ABC):
    """Executes one artifact on one runtime. `runtime` names it, for example `qemu-aarch64 cortex-a72`.

    `emulated` says that it is a slow emulation of another processor.
    """

    runtime: str
    emulated: bool = False

    @abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Outputs by name for inputs by name. Raises ContractError where the runtime fails, with its message."""

    def run_many(self, cases: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> list[Arrays]:
        """`run` for each case; a runtime that loads the model once for all of them overrides this."""
        return [self.run(case) for case in cases]


@dataclass(frozen=True)
class Lowered:
    """What `lower` wrote: the file to deploy, facts for manifest.json (JSON values), and files that it must have beside it.

    `lossy`: the program that was lowered now computes what the artifact does, with weights that were rounded while they were
    written; the artifact may be as far from the original model as the program is. `tolerance` and `min_sqnr_db` are then those
    between the two.
    """

    deployable: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    beside: Sequence[str] = ()
    lossy: bool = False
    tolerance: float | None = None
    min_sqnr_db: float = 0.0


@dataclass(frozen=True)
class Target(ABC):
    """A backend. A subclass is a frozen dataclass whose fields are its options, each with a default and checked in
    `__post_init__` (UsageError). The runtime's packages are imported inside functions only.
    """

    name: ClassVar[str]
    #: Whether weights may stay in their file until they are lowered, and are lowered one after another.
    streams: ClassVar[bool] = False

    def with_quant(self, name: str) -> Target | None:
        """The target with what `--quant NAME` asks for where it quantizes in its own way, None where passes do it.

        Raises UsageError for a name that it does not know.
        """
        return None

    def admissible(self, program: Program, sample: Sample) -> Sample:
        """The sample with what the runtime fixes, such as a mask of ones, in the place of what the program leaves open."""
        return sample

    @abstractmethod
    def pipeline(self) -> str:
        """The default pipeline as text, for example `normalize: decompose, canonicalize | fuse: fuse-gelu`."""

    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
    def requirements(self) -> Sequence[Requirement]:
        """What compiling and verifying need, found or not; never raises for a missing thing."""

    @abstractmethod
    def lower(self, program: Program, directory: Path, context: PassContext) -> Lowered:
        """Write the artifact's files into `directory`. The same program gives the same bytes."""

    def preview(self, program: Program, context: PassContext) -> Mapping[str, Any]:
        """What `lower` would write, as facts, from the sizes of weights alone. Raises what it would raise before reading any."""
        return {}

    @abstractmethod
    def runners(self, directory: Path, manifest: Mapping[str, Any]) -> Sequence[Runner]:
        """Runtimes of this machine that can execute the artifact, the most faithful first.

        `manifest` is manifest.json of the run directory: `inputs`, `outputs` (name, dtype, shape) and `facts`.
        Raises MissingToolError where there is none.
        """

    @property
    def tolerance(self) -> float | None:
        """The largest difference to the model that the target's own arithmetic explains, over the largest magnitude of an
        output; None for that of float32. A tolerance that the user states is used instead.
        """
        return None

    def agreement(self, program: Program, directory: Path, manifest: Mapping[str, Any], samples: Sequence[Sample]) -> Agreement | None:
        """Compare the artifact's integers with those of the program that was lowered, None where it quantizes no activation.

        A target that writes quantized activations overrides this: their outputs are compared loosely otherwise.
        """
        return None

    def assess(
        self,
        directory: Path,
        manifest: Mapping[str, Any],
        original: Callable[..., tuple[torch.Tensor, ...]],
        text: Iterable[Sample] | None,
        source: Path | None,
    ) -> Mapping[str, Any]:
        """How far the artifact is from the original model by the measures of its kind: JSON values for report.json, {} for none.

        `directory` has the references, inputs and what the original made of them. `text`: samples of the kind that the model was made for, None where there are none; `source`: the folder of the model, if
        any. Raises ContractError where a measure breaks what the artifact promises.
        """
        return {}

    def locate(self, program: Program, sample: Sample) -> str:
        """Where the runtime begins to differ from `program`, which was lowered, in words.

        `""` lets the program be lowered once more with every value as an output; a target that cannot write such a program
        overrides this.
        """
        return ""

    def verdict(self, facts: Mapping[str, Any], distance: Distance | None) -> str:
        """A line on what is known of the artifact and what is not, `""` where the checks say it all.

        `facts`: those of `Lowered`; `distance`: of the most faithful runtime to the original model, None where none ran.
        """
        return ""

    def contestants(self, directory: Path, manifest: Mapping[str, Any], threads: int, folder: Path) -> Sequence[Contestant]:
        """Programs of this machine that time the artifact, the first one the most faithful; none where nothing can.

        `folder`: where they may be built. Raises MissingToolError.
        """
        return ()

    def cost(self, directory: Path, manifest: Mapping[str, Any], case: Path, folder: Path) -> Mapping[str, Any]:
        """What one inference costs on the device whatever machine this is: JSON values for `edgecc bench`, {} where unknown.

        `case`: a folder with input0.npy, ...; `folder`: where programs may be built.
        """
        return {}

    def generate(self, directory: Path, manifest: Mapping[str, Any], request: GenerationRequest) -> Generator[Piece, None, None]:
        """Continue the prompt of `request` with the artifact, token by token; closing the generator ends the runtime.

        A target whose runtime generates text overrides this. Raises UsageError where the artifact generates none, or takes
        ids and no text; ContractError where the runtime fails; MissingToolError.
        """
        raise UsageError(f"target {self.name!r} generates no text", hint="edgecc run DIR --input NAME=FILE.npy")

    def token_speed(self, directory: Path, manifest: Mapping[str, Any], threads: int, seconds: float) -> Mapping[str, Any]:
        """How fast the artifact reads and writes tokens: JSON values for `edgecc bench`, {} where it is not timed so.

        `runtime`, `note`, `prompt_tokens_per_second` and `decode_tokens_per_second` (each with p50 and p90, or None),
        `prompt_tokens`, `new_tokens`, `load_ms`, `peak_bytes` and `runs`. Raises ContractError; MissingToolError.
        """
        return {}

    def lint(self, file: Path, profile: str) -> LintReport:
        """Check a finished file, which edgecc need not have made, by the target's rules, without running it.

        Raises UsageError where the target has no rules, does not know the profile or cannot read the file; MissingToolError.
        """
        raise UsageError(f"target {self.name!r} has no lint", hint="edgecc lint FILE.onnx --trt 10.15")
