"""Stand-ins: what torch.export sees in place of lazy weights, which it does not know how to trace.

A stand-in is a plain tensor that nothing reads or writes, so that no memory is behind it: the system gives a page only to
who touches it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from edgecc.ir.lazy import Lazy
from edgecc.ir.program import Program, stored_weights

#: The lazy tensor behind each stand-in, by the address of the stand-in, which is kept with it.
Behind = Mapping[int, tuple[torch.Tensor, Lazy]]


@contextmanager
def stand_ins(model: torch.nn.Module) -> Iterator[Behind]:
    """Give the model stand-ins for its lazy parameters and buffers, one for a tied one, and afterwards the lazy ones again."""
    lazy = [(held, name, tensor) for held in _holders(model) for name, tensor in held.items() if isinstance(tensor, Lazy)]
    made = {id(tensor): _stand_in(tensor) for _, _, tensor in lazy}
    try:
        for held, name, tensor in lazy:
            held[name] = made[id(tensor)]
        yield {made[id(tensor)].data_ptr(): (made[id(tensor)], tensor) for _, _, tensor in lazy}
    finally:
        for held, name, tensor in lazy:
            held[name] = tensor


def _holders(model: torch.nn.Module) -> list[dict[str, torch.Tensor | None]]:
    return [held for part in model.modules() for held in (part._parameters, part._buffers)]  # type: ignore[misc]  # dicts of either


def put_back(program: Program, behind: Behind) -> None:
    """Give the program the lazy tensors in place of their stand-ins."""
    for path in stored_weights(program.module) if behind else ():
        parent, _, leaf = path.rpartition(".")
        part = program.module.get_submodule(parent)
        tensor = getattr(part, leaf)
        if tensor.data_ptr() in behind:
            setattr(part, leaf, behind[tensor.data_ptr()][1])


def _stand_in(tensor: Lazy) -> torch.Tensor:
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return torch.nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else empty
