"""The plan of a GGUF file: what the model is, what it is written as, and every key and tensor, before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.pipeline.context import PassContext
from edgecc.targets.gguf import mixture as mixtures
from edgecc.targets.gguf.architectures import keys as metadata
from edgecc.targets.gguf.architectures.choose import Choice
from edgecc.targets.gguf.architectures.naming import tensors_of
from edgecc.targets.gguf.architectures.sizes import sizes_of
from edgecc.targets.gguf.architectures.table import Architecture
from edgecc.targets.gguf.architectures.tensors import Tensor
from edgecc.targets.gguf.config import check_config, read_config
from edgecc.targets.gguf.recognition.description import LanguageModel, rows_of
from edgecc.targets.gguf.recognize import recognize
from edgecc.targets.gguf.sizes import Size, sizes, total
from edgecc.targets.gguf.vocabulary import Vocabulary, no_vocabulary, read_vocabulary
from edgecc.targets.gguf.writer import Value

if TYPE_CHECKING:
    from edgecc.targets.gguf.target import Gguf

_POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3}  # llama_pooling_type


@dataclass(frozen=True)
class Plan:
    """`formats` is the block format of each tensor by name, `approximations` where the program was changed for llama.cpp's sake, `notes`
    what the user should know.
    """

    model: LanguageModel
    choice: Choice
    keys: Mapping[str, Value]
    tensors: Sequence[Tensor]
    formats: Mapping[str, mixtures.Choice]
    approximations: Sequence[str]
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
            "approximations": list(self.approximations),
            "refused": {a.name: str(d) for a, d in self.choice.refused},
            "bits_per_weight": round(total(rows).bits, 4),
            "tensor_bytes": total(rows).bytes,
            "formats": _counted(rows),
            "fallbacks": fallbacks,
            "notes": list(self.notes),
        }


def make_plan(program: Program, options: Gguf, context: PassContext) -> Plan:
    """Raises UnsupportedError where no architecture of llama.cpp computes what the program does, UsageError for a configuration or a
    tokenizer that contradicts it.
    """
    model, choice = recognize(program, options.allow_approximate, context)
    config = read_config(context.directory)
    notes = [f"smaller than {config.path} says, as after pruning: {line}" for line in check_config(model, config)]
    stated, key = config.context()
    length, why = _context(model, options.context, stated, program)
    _check_length(program, length, f"--context says {length}" if options.context else f"{config.path} says {length} ({key})")
    notes += [why] if why else []
    vocabulary = _vocabulary(options, context, choice.architecture.name, model.vocabulary)
    notes += vocabulary.notes
    tensors = tensors_of(model, choice.architecture)
    counts = sizes_of(model, choice.architecture)
    facts = mixtures.Model(choice.architecture.name, len(model.layers), max(counts.heads), max(counts.kv_heads))
    formats = mixtures.assign({t.name: t.shape for t in tensors}, facts, options.mixture, options.tensor_types)
    keys: dict[str, Value] = {
        **metadata.keys_of(model, choice.architecture, length),
        "general.file_type": mixtures.file_type(options.mixture),
        "general.quantization_version": mixtures.QUANTIZATION_VERSION,
    }
    if model.head is None:
        keys[f"{choice.architecture.name}.pooling_type"] = _POOLING[config.pooling]
    near = [f"{r.node}: {r.message} ({r.source})" for r in context.remarks.of("approximate-gelu", "applied")]
    return Plan(model, choice, {**keys, **vocabulary.keys}, tensors, formats, near, notes)


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


def _vocabulary(options: Gguf, context: PassContext, architecture: str, rows: int) -> Vocabulary:
    folder = options.tokenizer_of(context.directory)
    return no_vocabulary(architecture, rows) if folder is None else read_vocabulary(folder, rows, pre=options.pre_tokenizer)


def _counted(rows: Sequence[Size]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        found[row.format] = found.get(row.format, 0) + 1
    return found
