"""Lazy weights: tensors that know their sizes and dtype, and read their values only where an operation needs them.

A lazy tensor stands in a module or a program wherever a tensor may. What only asks for sizes, and what only rearranges
(a transpose, a slice, a copy, a concatenation of lazy tensors), stays lazy; any other operation reads the values,
computes on plain tensors, and lets them go. Each operation reads anew, so the memory in use is that of one operation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from edgecc.errors import InternalError

aten = torch.ops.aten
Read = Callable[[], torch.Tensor]
Item = TypeVar("Item")


class Lazy(torch.Tensor):
    """A tensor on the CPU whose values `read()` returns, with this shape, dtype and these strides (contiguous unless given).

    `read` may be called any number of times, from any thread, and must give equal values each time. Where it has a method
    `rows(start, stop)`, which returns what reads only these rows, slices of the tensor do not read the rest. The tensor
    cannot be written to, and no gradient reaches it: both raise InternalError.
    """

    _read: Read

    @staticmethod
    def __new__(
        cls: type[Lazy], read: Read, shape: Sequence[int], dtype: torch.dtype = torch.float32, strides: Sequence[int] | None = None
    ) -> Lazy:
        # private, without a public counterpart: a tensor with sizes and no storage (tried with torch 2.13)
        made: Lazy = torch.Tensor._make_wrapper_subclass(
            cls, tuple(shape), strides=None if strides is None else tuple(strides), dtype=dtype, device=torch.device("cpu")
        )
        made._read = read
        return made

    def __init__(self, read: Read, shape: Sequence[int], dtype: torch.dtype = torch.float32, strides: Sequence[int] | None = None) -> None:
        pass

    def __repr__(self) -> str:  # type: ignore[override]  # torch's option is for its own tensors
        return f"Lazy({list(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Lazy:
        """Another tensor that reads the same values, which nothing can write to."""
        copy = Lazy(self._read, self.shape, self.dtype, self.stride())
        copy.requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copy._is_param = True  # what torch.nn.Parameter sets on a subclass
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        return read(self).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            return _redirect(*args)
        if getattr(func, "__name__", "") in _MEMORY:
            raise InternalError("a weight that stays in its file has no memory: use edgecc.ir.lazy.read, or identity")
        if _stays_lazy(func):
            # private, as torch's own subclasses do: go on to __torch_dispatch__ instead of back to here (tried with torch 2.13)
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if _writes(func, args, kwargs):
            raise _written(func)
        return _compute(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        if func in _SAME:
            return Lazy(args[0]._read, args[0].shape, args[0].dtype, args[0].stride())
        if func in _REARRANGE and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            return _rearranged(func, args, kwargs)
        if _writes(func, args, kwargs):
            raise _written(func)
        return _compute(func, args, kwargs)


def is_lazy(tensor: object) -> bool:
    return isinstance(tensor, Lazy)


def read(tensor: torch.Tensor) -> torch.Tensor:
    """The values as a plain tensor of the same shape and dtype, without gradient; a plain tensor as it is.

    Raises InternalError where what the tensor reads is not what it promised.
    """
    if not isinstance(tensor, Lazy):
        return tensor
    with torch.no_grad():
        values = tensor._read()
    if values.shape != tensor.shape or values.dtype != tensor.dtype:
        raise InternalError(f"a lazy tensor {list(tensor.shape)} {tensor.dtype} read {list(values.shape)} {values.dtype}")
    return values.detach()


def identity(tensor: torch.Tensor) -> int:
    """A number that two tensors of equal sizes, strides and dtype share where they are one: both views of the same values."""
    return id(tensor._read) if isinstance(tensor, Lazy) else tensor.data_ptr()


# -- what stays lazy

_ASKS = frozenset(
    """
    size stride dim ndimension numel nelement element_size is_contiguous storage_offset is_floating_point is_complex is_signed
    get_device type requires_grad_ is_inference __len__ __hash__
    """.split()  # noqa: SIM905  as a list of quoted strings the names cannot be read
)
_MEMORY = ("data_ptr", "storage", "untyped_storage", "_typed_storage", "share_memory_")
_VIEWS = frozenset(
    """
    detach alias t transpose permute view reshape flatten unsqueeze squeeze expand contiguous clone __getitem__ narrow select
    split chunk unbind cat concat stack to float half bfloat16 double swapaxes movedim pad
    """.split()  # noqa: SIM905  as above
)
_SAME = frozenset({aten.detach.default, aten.alias.default, aten.lift_fresh.default})
_REARRANGE = frozenset(
    {
        *(aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default, aten.t.default, aten.transpose.int),
        *(aten.permute.default, aten.slice.Tensor, aten.select.int, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim),
        *(aten.squeeze.dims, aten.expand.default, aten.clone.default, aten._to_copy.default, aten.cat.default, aten.stack.default),
        *(aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int, aten.constant_pad_nd.default),
    }
)


def _stays_lazy(func: Callable[..., Any]) -> bool:
    """Whether a function of torch, a method of Tensor or an ATen overload asks for no value. Attributes never do."""
    if isinstance(func, torch._ops.OpOverload):
        return func in _SAME or func in _REARRANGE
    name = getattr(func, "__name__", "")
    return name == "__get__" or name in _ASKS or name in _VIEWS


def _rearranged(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The result of an operator as lazy tensors that run it when they are read."""
    rows = _rows(*args) if func == aten.slice.Tensor and not kwargs else None
    if rows is not None:
        return rows
    options = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory", "non_blocking")}
    with torch.no_grad():
        sizes = func(*_mapped(_without_values, args), **options)

    def part(index: int | None) -> torch.Tensor:
        values = func(*_mapped(read, args), **options)
        return values if index is None else values[index]  # type: ignore[no-any-return]

    if isinstance(sizes, torch.Tensor):
        return Lazy(functools.partial(part, None), sizes.shape, sizes.dtype, sizes.stride())
    return [Lazy(functools.partial(part, i), s.shape, s.dtype, s.stride()) for i, s in enumerate(sizes)]


def _rows(tensor: torch.Tensor, dim: int = 0, start: int | None = None, stop: int | None = None, step: int = 1) -> Lazy | None:
    """`tensor[start:stop]` by what reads only these rows, None where that is not known."""
    rows = getattr(tensor._read, "rows", None) if isinstance(tensor, Lazy) and tensor.is_contiguous() else None
    if rows is None or dim % tensor.dim() != 0 or step != 1:
        return None
    first, last, _ = slice(start, stop).indices(len(tensor))
    shape = (max(last - first, 0), *tensor.shape[1:])
    return Lazy(rows(first, first + shape[0]), shape, tensor.dtype)


def _without_values(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _redirect(tensor: Lazy, values: torch.Tensor) -> None:
    """`tensor.data = values`, where they have the same sizes."""
    if values.shape != tensor.shape or values.dtype != tensor.dtype:
        raise InternalError(f"a lazy tensor {list(tensor.shape)} {tensor.dtype} was given {list(values.shape)} {values.dtype}")
    tensor._read = values._read if isinstance(values, Lazy) else values.detach


# -- what computes


def _compute(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    known: dict[int, torch.Tensor] = {}

    def plain(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, Lazy):
            return tensor
        if id(tensor) not in known:
            values = read(tensor)
            # PyTorch's choice of kernel looks at the flag, even without gradients
            known[id(tensor)] = values.requires_grad_() if tensor.requires_grad else values
        return known[id(tensor)]

    result = func(*_mapped(plain, args), **_mapped(plain, kwargs))
    if any(t.requires_grad for t in known.values()) and any(isinstance(r, torch.Tensor) and r.requires_grad for r in _leaves(result)):
        raise InternalError("no gradient reaches a weight that stays in its file", hint="load the model without lazy weights")
    return result


def _leaves(item: Any) -> list[Any]:
    return [item] if isinstance(item, torch.Tensor) else pytree.tree_leaves(item)


def _mapped(change: Callable[[torch.Tensor], torch.Tensor], item: Any) -> Any:
    return pytree.tree_map_only(torch.Tensor, change, item)


def _writes(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the call would write to a lazy tensor: by the schema of an overload, else by what Python calls a method."""
    if isinstance(func, torch._ops.OpOverload):
        arguments = func._schema.arguments
        given = {a.name: v for a, v in zip(arguments, args, strict=False)} | dict(kwargs)
        return any(a.alias_info is not None and a.alias_info.is_write and is_lazy(given.get(a.name)) for a in arguments)
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    in_place = in_place or name in ("__setitem__", "__set__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__")
    targets = [*args[:1], *kwargs.values()] if in_place else [kwargs.get("out")]
    return any(is_lazy(t) for t in targets)


def _written(func: object) -> InternalError:
    return InternalError(f"a weight that stays in its file cannot be written to, by {getattr(func, '__name__', func)}")
