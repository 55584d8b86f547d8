"""The plan of a GGUF file: what the model is, what it is written as, and every key and tensor, before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecc.errors import UnsupportedError, UsageError
from edgecc.ir.program import Program
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.numerics import compare
from edgecc.targets.gguf import mixture as mixtures
from edgecc.targets.gguf.architectures import keys as metadata
from edgecc.targets.gguf.architectures.choose import Choice, Difference, choose
from edgecc.targets.gguf.architectures.sizes import sizes_of
from edgecc.targets.gguf.architectures.table import Architecture
from edgecc.targets.gguf.architectures.tensors import Tensor, tensors_of
from edgecc.targets.gguf.config import check_config, read_config
from edgecc.targets.gguf.recognition.description import LanguageModel, rows_of
from edgecc.targets.gguf.recognition.model import read_model
from edgecc.targets.gguf.recognition.reading import UnrecognizedError
from edgecc.targets.gguf.sizes import Size, sizes, total
from edgecc.targets.gguf.vocabulary import Vocabulary, no_vocabulary, read_vocabulary
from edgecc.targets.gguf.writer import Value

_POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3}  # llama_pooling_type


@dataclass(frozen=True)
class Request:
    """What the options of the target ask for. `tokenizer`: the folder with its files, `directory`: of the model's configuration; None
    where there is none.
    """

    mixture: str
    overrides: Sequence[tuple[str, str]]
    allow_approximate: bool
    context: int
    tokenizer: Path | None
    pre_tokenizer: str
    directory: Path | None


@dataclass(frozen=True)
class Plan:
    """`formats` is the block format of each tensor by name, `notes` what the user should know."""

    model: LanguageModel
    choice: Choice
    keys: Mapping[str, Value]
    tensors: Sequence[Tensor]
    formats: Mapping[str, mixtures.Choice]
    pooling: str
    notes: Sequence[str]

    @property
    def architecture(self) -> Architecture:
        return self.choice.architecture

    def rows(self) -> list[Size]:
        """What each tensor takes."""
        return sizes({t.name: t.shape for t in self.tensors}, self.formats)

    def facts(self) -> dict[str, Any]:
        """JSON values for manifest.json and report.json."""
        rows = self.rows()
        fallbacks = [
            {"tensor": r.name, "wanted": self.formats[r.name].wanted, "format": r.format, "reason": r.reason}
            for r in rows
            if self.formats[r.name].wanted != r.format
        ]
        return {
            "architecture": self.architecture.name,
            "approximations": [str(d) for d in self.choice.approximations],
            "refused": {a.name: str(d) for a, d in self.choice.refused},
            "bits_per_weight": round(total(rows).bits, 4),
            "tensor_bytes": total(rows).bytes,
            "formats": _counted(rows),
            "fallbacks": fallbacks,
            "notes": list(self.notes),
        }


def make_plan(program: Program, request: Request, context: PassContext) -> Plan:
    """Raises UnsupportedError where no architecture of llama.cpp computes what the program does, UsageError for a configuration or a
    tokenizer that contradicts it.
    """
    model, choice = recognize(program, request.allow_approximate, context)
    config = read_config(request.directory)
    notes = [f"smaller than {config.path} says, as after pruning: {line}" for line in check_config(model, config)]
    stated, key = config.context()
    length, why = _context(model, request.context, stated, program)
    _check_length(program, length, f"--context says {length}" if request.context else f"{config.path} says {length} ({key})")
    notes += [why] if why else []
    vocabulary = _vocabulary(request, choice.architecture.name, model.vocabulary)
    notes += vocabulary.notes
    tensors = tensors_of(model, choice.architecture)
    counts = sizes_of(model, choice.architecture)
    facts = mixtures.Model(choice.architecture.name, len(model.layers), max(counts.heads), max(counts.kv_heads))
    formats = mixtures.assign({t.name: t.shape for t in tensors}, facts, request.mixture, request.overrides)
    pooling = config.pooling if model.head is None else "none"
    keys: dict[str, Value] = {
        **metadata.keys_of(model, choice.architecture, length),
        "general.file_type": mixtures.file_type(request.mixture),
        "general.quantization_version": mixtures.QUANTIZATION_VERSION,
    }
    if model.head is None:
        keys[f"{choice.architecture.name}.pooling_type"] = _POOLING[pooling]
    return Plan(model, choice, {**keys, **vocabulary.keys}, tensors, formats, pooling, notes)


def recognize(program: Program, allow_approximate: bool, context: PassContext) -> tuple[LanguageModel, Choice]:
    """The model and the architecture that it is written as. Raises UnsupportedError with the first difference."""
    try:
        model = read_model(program)
    except UnrecognizedError as error:
        raise UnsupportedError(
            f"the graph is no model that llama.cpp runs: {error}", hint="edgecc inspect MODEL prints the graph around that node"
        ) from error
    found = choose(model)
    if not isinstance(found, Choice):
        (nearest, difference), *others = found
        also = "".join(f"\n  {a.name}: {d}" for a, d in others[:3])
        raise UnsupportedError(f"no architecture of llama.cpp computes this; the nearest is {nearest.name}: {difference}{also}")
    if found.approximations and not allow_approximate:
        raise UnsupportedError(
            f"llama.cpp's {found.architecture.name} is not quite this model: {found.approximations[0]}\n  {_effect(program, context)}",
            hint="--allow-approximate takes it so",
        )
    return model, found


def _effect(program: Program, context: PassContext) -> str:
    """What GELU by tanh does to the outputs."""
    if not context.samples:
        return "its effect was not measured: no sample was run"
    import torch

    near = program.snapshot()
    for node in near.calls(torch.ops.aten.gelu.default):
        near.retarget(node, torch.ops.aten.gelu.default, node.args[0], approximate="tanh")
    near.recompile()
    moved = compare([program(*s) for s in context.samples], [near(*s) for s in context.samples])
    return (
        f"GELU by tanh moves the outputs by at most {moved.max_abs:.3g} ({moved.relative:.2g} of the largest), "
        f"SQNR {moved.sqnr_db:.1f} dB, cosine {moved.cosine:.8f}, on {len(context.samples)} samples"
    )


def _context(model: LanguageModel, asked: int, configured: int, program: Program) -> tuple[int, str]:
    """How many tokens the file says that the model was made for, and a note where that is a guess. Raises UsageError where a table
    of positions has another length than was asked for.
    """
    table = rows_of(model.embeddings.positions) if model.embeddings.positions is not None else 0
    if table and asked not in (0, table):
        raise UsageError(f"--context is {asked}, and the model has a table of {table} positions", hint="leave --context out")
    if table:
        return table, ""
    if asked or configured:
        return asked or configured, ""
    length = max([d.upper or 0 for d in program.signature.dims] + [e.shape[-1] for e in program.examples if e.dim()])
    return length, f"the context length is {length}, that of the inputs: --context N says what the model was trained for"


def _check_length(program: Program, length: int, who: str) -> None:
    """Raises UsageError where the inputs have more tokens than the file will take."""
    uppers = {d.name: d.upper or 0 for d in program.signature.dims}
    given = [uppers.get(str(size), size) for spec in program.signature.inputs for size in spec.shape[-1:]]
    longest = max([int(size) for size in given if isinstance(size, int)], default=0)
    if longest > length:
        raise UsageError(
            f"the inputs have up to {longest} tokens, more than the model takes: {who}",
            hint=f"--input 'NAME:i64[1,{length}]' for each input, or --context {longest}",
        )


def _vocabulary(request: Request, architecture: str, rows: int) -> Vocabulary:
    if request.tokenizer is None:
        return no_vocabulary(architecture, rows)
    return read_vocabulary(request.tokenizer, rows, pre=request.pre_tokenizer)


def _counted(rows: Sequence[Size]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        found[row.format] = found.get(row.format, 0) + 1
    return found


__all__ = ["Difference", "Plan", "Request", "make_plan", "recognize"]
