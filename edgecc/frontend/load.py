"""Load whatever the user named as MODEL: a program, and the original model to compare it with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgecc.errors import RefusedError, UsageError
from edgecc.frontend.classify import Found, Kind, classify
from edgecc.frontend.exported import load_exported
from edgecc.frontend.factory import Made, is_factory, make
from edgecc.frontend.finite import check_finite
from edgecc.frontend.huggingface import load_directory
from edgecc.frontend.input_spec import InputSpec, parse_inputs
from edgecc.frontend.inputs import bind_inputs
from edgecc.frontend.torchscript import capture_torchscript
from edgecc.frontend.weights import fit_weights, read_checkpoint, read_safetensors, weights_in
from edgecc.ir.capture import eager, trace
from edgecc.ir.program import Program

Reference = Callable[..., tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class Loaded:
    """A captured model.

    `reference` runs the original PyTorch model: one tensor for each of `program.signature.inputs`, to one for each
    of its outputs. `notes` say what was decided on the way.
    """

    program: Program
    reference: Reference
    source: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """`model`: the factory that goes with weights. `seed`: of random example inputs. `lazy`: leave weights in their files."""

    model: str | None = None
    allow_pickle: bool = False
    allow_nonfinite: bool = False
    seed: int = 0
    lazy: bool = False


def load(
    source: str,
    *,
    model: str | None = None,
    inputs: Sequence[str] = (),
    allow_pickle: bool = False,
    allow_nonfinite: bool = False,
    seed: int = 0,
    lazy: bool = False,
) -> Loaded:
    """Capture MODEL: `file.py:factory`, a `.pt2`, weights with `model`, a Hugging Face directory or TorchScript.

    `lazy` leaves the weights of a Hugging Face directory in its safetensors files (`edgecc.ir.lazy`): they are neither
    held in memory nor checked to be finite. Other models, and directories that need more than reading, load as ever.

    Raises UsageError (what was found is no model, or does not fit), RefusedError (it would run code that was not
    agreed to), CaptureError (torch.export cannot trace it), MissingToolError (transformers is absent).
    """
    options = Options(model, allow_pickle, allow_nonfinite, seed, lazy)
    specs = parse_inputs(inputs)
    path = Path(source)
    if not path.exists() and is_factory(source):
        return _load_factory(source, specs, options)
    found = classify(path)
    if model is not None and found.kind not in (Kind.WEIGHTS, Kind.SAFETENSORS, Kind.PICKLE):
        raise UsageError(f"--model goes with weights, but {path} is {found.kind.value}, which brings its own model")
    return _LOADERS[found.kind](path, specs, options, found)


def _load_factory(source: str, specs: Sequence[InputSpec], options: Options) -> Loaded:
    if options.model is not None:
        raise UsageError(f"--model goes with weights, but {source} is a factory itself")
    return _capture(make(source), specs, options, f"factory {source}")


def _load_weights(path: Path, specs: Sequence[InputSpec], options: Options, found: Found) -> Loaded:
    made = make(_required_model(path, options))
    weights, notes = read_safetensors(path) if found.kind is Kind.SAFETENSORS else read_checkpoint(path)
    notes += fit_weights(made.module, weights, str(path))
    return _capture(made, specs, options, f"{found.kind.value} {path}, model {options.model}", notes)


def _load_pickle(path: Path, specs: Sequence[InputSpec], options: Options, found: Found) -> Loaded:
    if not options.allow_pickle:
        raise RefusedError(
            f"{path} is a pickle that would run {', '.join(found.dangers)}",
            hint="save weights alone (model.state_dict()) or a .pt2; --allow-pickle runs it, if you trust who made it",
        )
    content = _unpickle(path)
    if isinstance(content, torch.nn.Module):
        if options.model is not None:
            raise UsageError(f"--model goes with weights, but {path} holds a whole module, {type(content).__name__}")
        return _capture(Made(content), specs, options, f"pickled module {path}")
    weights, notes = weights_in(content, str(path))
    made = make(_required_model(path, options))
    notes += fit_weights(made.module, weights, str(path))
    return _capture(made, specs, options, f"pickled weights {path}, model {options.model}", notes)


def _load_exported(path: Path, specs: Sequence[InputSpec], options: Options, found: Found) -> Loaded:
    program, reference = load_exported(path, specs, seed=options.seed)
    if not options.allow_nonfinite:
        check_finite(program.module)
    return Loaded(program, reference, f"{found.kind.value} {path}")


def _load_torchscript(path: Path, specs: Sequence[InputSpec], options: Options, found: Found) -> Loaded:
    program, reference = capture_torchscript(path, specs, seed=options.seed, allow_nonfinite=options.allow_nonfinite)
    return Loaded(program, reference, f"{found.kind.value} {path}", ("converted from TorchScript: nodes have no line of Python source",))


def _load_hugging_face(path: Path, specs: Sequence[InputSpec], options: Options, found: Found) -> Loaded:
    made, notes = load_directory(path, lazy=options.lazy)
    return _capture(made, specs, options, f"{found.kind.value} {path}", notes)


def _capture(made: Made, specs: Sequence[InputSpec], options: Options, source: str, notes: tuple[str, ...] = ()) -> Loaded:
    if not options.allow_nonfinite:
        check_finite(made.module)
    call = bind_inputs(made.module, made.args, made.kwargs, specs, seed=options.seed)
    made.module.eval()
    program = trace(made.module, call.args, call.kwargs, dims=call.dims)
    return Loaded(program, eager(made.module, call.args, call.kwargs), source, notes)


def _required_model(path: Path, options: Options) -> str:
    if options.model is None:
        raise UsageError(f"{path} holds weights alone", hint="say what they belong to: --model file.py:factory")
    return options.model


def _unpickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=False, map_location="cpu")
    except Exception as error:  # unpickling runs code of the file, which may raise anything
        raise UsageError(
            f"{path} cannot be unpickled: {type(error).__name__}: {error}", hint="is the code that defines the model importable?"
        ) from error


_LOADERS: dict[Kind, Callable[[Path, Sequence[InputSpec], Options, Found], Loaded]] = {
    Kind.EXPORTED: _load_exported,
    Kind.TORCHSCRIPT: _load_torchscript,
    Kind.WEIGHTS: _load_weights,
    Kind.SAFETENSORS: _load_weights,
    Kind.PICKLE: _load_pickle,
    Kind.HUGGING_FACE: _load_hugging_face,
}
