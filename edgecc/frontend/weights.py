"""Read weights from a file without running code, and fit them into a module."""

from __future__ import annotations

import difflib
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from edgecc.errors import MissingToolError, RefusedError, UsageError
from edgecc.frontend.reason import reason
from edgecc.ir.dtypes import dtype_name

Weights = Mapping[str, torch.Tensor]

_CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "params_ema", "params", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def read_safetensors(path: Path) -> tuple[Weights, tuple[str, ...]]:
    """The tensors of a safetensors file, and no notes. Raises UsageError for a damaged one."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingToolError(f"{path} needs safetensors, which is not installed", hint="pip install safetensors") from error
    try:
        return dict(load_file(path)), ()
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is a damaged safetensors file: {error}", hint="copy or download the file again") from error


def read_checkpoint(path: Path) -> tuple[Weights, tuple[str, ...]]:
    """The tensors of a file of torch.save that holds only weights, and notes on what was passed over.

    Raises RefusedError where torch's restricted unpickler meets anything else, UsageError for a damaged file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise RefusedError(f"{path} holds more than weights: {reason(error)}", hint="save only model.state_dict()") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is damaged: {reason(error)}", hint="copy or download the file again") from error
    return weights_in(content, str(path))


def weights_in(content: Any, source: str) -> tuple[Weights, tuple[str, ...]]:
    """The state dict in what a checkpoint holds: itself, or under one of the usual keys.

    Raises UsageError that lists what is there where no state dict is."""
    if isinstance(content, Mapping) and content and all(isinstance(v, torch.Tensor) for v in content.values()):
        return {str(k): v for k, v in content.items()}, ()
    found = [k for k in _CONTAINERS if isinstance(content, Mapping) and _is_state_dict(content.get(k))]
    if not found:
        held = (
            ", ".join(f"{k!r} ({type(v).__name__})" for k, v in content.items()) if isinstance(content, Mapping) else type(content).__name__
        )
        raise UsageError(f"{source} holds no state dict; it holds {held or 'an empty dict'}", hint="save model.state_dict()")
    others = [str(k) for k in content if k != found[0]]
    note = f"weights are under {found[0]!r} of the checkpoint" + (f"; {', '.join(map(repr, others))} passed over" if others else "")
    return {str(k): v for k, v in content[found[0]].items() if isinstance(v, torch.Tensor)}, (note,)


def fit_weights(module: torch.nn.Module, weights: Weights, source: str) -> tuple[str, ...]:
    """Copy `weights` into `module`, cast to the types that it has, and return notes on what was changed on the way.

    Raises UsageError that lists every missing, unexpected and mis-shaped tensor.
    """
    own = module.state_dict(keep_vars=True)
    weights, notes = _without_prefix(weights, own)
    ties: dict[int, list[str]] = {}
    for name, tensor in own.items():
        ties.setdefault(id(tensor), []).append(name)
    missing = [n for n, t in own.items() if n not in weights and not any(twin in weights for twin in ties[id(t)])]
    counters = [n for n in missing if n.endswith("num_batches_tracked")]
    missing = [n for n in missing if n not in counters]
    unexpected = [n for n in weights if n not in own]
    shared = [n for n in weights if n in own]
    problems = [f"  missing: {n} {_text(own[n])}{_near(n, unexpected)}" for n in missing]
    problems += [f"  unexpected: {n} {_text(weights[n])}{_near(n, own)}" for n in unexpected]
    problems += [f"  mis-shaped: {n} is {_text(weights[n])}, want {_text(own[n])}" for n in shared if not _fits(weights[n], own[n])]
    if problems:
        raise UsageError(
            f"{source} does not fit {type(module).__name__}:\n" + "\n".join(problems), hint="is --model the model that was trained?"
        )
    casts = sorted({f"{dtype_name(weights[n].dtype)} to {dtype_name(own[n].dtype)}" for n in shared if weights[n].dtype != own[n].dtype})
    on_meta = any(t.is_meta for t in own.values())
    module.load_state_dict({n: weights[n] for n in shared}, strict=False, assign=on_meta)
    return notes + ((f"weights cast from {', '.join(casts)}",) if casts and not on_meta else ())


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, torch.Tensor) for v in value.values())


def _without_prefix(weights: Weights, own: Mapping[str, Any]) -> tuple[Weights, tuple[str, ...]]:
    """Drop a prefix that wrappers add to every name (DataParallel, torch.compile), where the module does not have it."""
    notes: tuple[str, ...] = ()
    for prefix in _PREFIXES:
        if weights and all(n.startswith(prefix) for n in weights) and not any(n.startswith(prefix) for n in own):
            weights = {n.removeprefix(prefix): t for n, t in weights.items()}
            notes += (f"prefix {prefix!r} dropped from the names of all weights",)
    return weights, notes


def _fits(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    return tensor.shape == own.shape and tensor.is_floating_point() == own.is_floating_point()


def _text(tensor: torch.Tensor) -> str:
    return f"{dtype_name(tensor.dtype)}{list(tensor.shape)}"


def _near(name: str, known: Iterable[str]) -> str:
    """` (did you mean ...?)` for a name that differs in little."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f" (did you mean {close[0]!r}?)" if close else ""
