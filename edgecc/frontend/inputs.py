"""Bind example inputs and input specs to the parameters of a model's `forward`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError
from edgecc.frontend.input_spec import InputSpec, example_sizes, example_tensor
from edgecc.ir.dtypes import dtype_name
from edgecc.ir.signature import Dim


@dataclass(frozen=True)
class Call:
    """How `forward` is called to trace it. `dims`: the dynamic axes by flat input name, as `edgecc.ir.capture.trace` wants them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dims: dict[str, dict[int, Dim]]


def bind_inputs(
    model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], specs: Sequence[InputSpec], *, seed: int = 0
) -> Call:
    """The call of `model.forward` with the example inputs, those named in `specs` replaced.

    A nested input goes by its keys joined by `_`. Raises UsageError for a name that forward does not take, a dtype
    or rank other than the example's, and a parameter that nothing is given for.
    """
    signature = inspect.signature(model.forward)
    owner = type(model).__name__
    try:
        named = dict(signature.bind_partial(*args, **kwargs).arguments)
    except TypeError as error:
        raise UsageError(f"the example inputs do not fit forward{signature} of {owner}: {error}") from error
    flat, tree = pytree.tree_flatten_with_path(named)
    leaves = {_flat_name(path): leaf for path, leaf in flat}
    sizes = example_sizes(specs)
    dims = {}
    for index, spec in enumerate(specs):
        tensor = example_tensor(spec, sizes, seed + index)
        if spec.name in leaves:
            _require_like(spec, tensor, leaves[spec.name])
            leaves[spec.name] = tensor
        elif not _takes(signature, spec.name) or spec.name in named:
            raise UsageError(
                f"{owner} takes no input {spec.name!r}: forward{signature}", hint=nearest(spec.name, _names(signature, leaves))
            )
        dims[spec.name] = spec.dims
    named = pytree.tree_unflatten([leaves[_flat_name(path)] for path, _ in flat], tree)
    named |= {s.name: example_tensor(s, sizes, seed + i) for i, s in enumerate(specs) if s.name not in leaves}
    return _call(signature, named, {n: d for n, d in dims.items() if d}, owner)


def _flat_name(path: tuple[Any, ...]) -> str:
    return "_".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path)


def _takes(signature: inspect.Signature, name: str) -> bool:
    """Whether forward has a parameter of this name; `**kwargs` alone takes any."""
    kinds = {p.kind for p in signature.parameters.values()}
    parameter = signature.parameters.get(name)
    if parameter is None:
        return kinds == {inspect.Parameter.VAR_KEYWORD}
    return parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _names(signature: inspect.Signature, leaves: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*(n for n in signature.parameters if _takes(signature, n)), *leaves]))


def _require_like(spec: InputSpec, tensor: torch.Tensor, example: Any) -> None:
    if not isinstance(example, torch.Tensor):
        raise UsageError(f"input {spec.name!r} is {type(example).__name__} {example!r} in the example inputs, not a tensor")
    if tensor.dtype != example.dtype:
        raise UsageError(f"input {spec} is {dtype_name(tensor.dtype)}, but the model's example is {dtype_name(example.dtype)}")
    if tensor.dim() != example.dim():
        raise UsageError(f"input {spec} has {tensor.dim()} dimensions, but the model's example has {example.dim()}: {list(example.shape)}")


def _call(signature: inspect.Signature, named: dict[str, Any], dims: dict[str, dict[int, Dim]], owner: str) -> Call:
    required = [
        n
        for n, p in signature.parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and n not in named
    ]
    if required:
        raise UsageError(
            f"{owner} also needs {', '.join(required)}: forward{signature}",
            hint=" ".join(f"--input '{n}:f32[1,3,224,224]'" for n in required) + ", with the shapes that it takes",
        )
    only_keywords = all(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if only_keywords and signature.parameters:
        extra = next(iter(signature.parameters))
        return Call((), {**named.pop(extra, {}), **named}, {f"{extra}_{n}" if n in named else n: d for n, d in dims.items()})
    ordered = {n: named[n] for n in signature.parameters if n in named}
    bound = inspect.BoundArguments(signature, ordered)
    return Call(bound.args, dict(bound.kwargs), dims)
