"""Legalize: Relax operators to kernels that mean what PyTorch means where TVM's own kernels lose a NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Comparison = Callable[[Any, Any], Any]


def legalize(module: Any) -> Any:
    """Turn every Relax operator of a tvm.IRModule into a call of a kernel.

    In TVM `max(NaN, 0)` is 0; PyTorch keeps the NaN in relu, clamp, maximum and minimum, and so do the kernels made
    here. They compare the other way round (`x < 0 ? 0 : x`), which costs nothing. TVM legalizes everything else.
    """
    from tvm import relax

    return relax.transform.LegalizeOps({"relax.nn.relu": _relu, "relax.maximum": _maximum, "relax.minimum": _minimum})(module)


def _relu(block: Any, call: Any) -> Any:
    return _against(block, call.args[0], 0, "relu", lambda x, y: x < y)


def _maximum(block: Any, call: Any) -> Any:
    return _extreme(block, call, "maximum", lambda x, y: x < y)


def _minimum(block: Any, call: Any) -> Any:
    return _extreme(block, call, "minimum", lambda x, y: x > y)


def _extreme(block: Any, call: Any, name: str, loses: Comparison) -> Any:
    from tvm import te, tirx, topi

    x, y = call.args
    if (number := _number(y)) is not None:
        return _against(block, x, number, name, loses)

    def kernel(a: Any, b: Any) -> Any:
        whole = topi.add(a, b)  # for its shape only
        left, right = topi.broadcast_to(a, whole.shape), topi.broadcast_to(b, whole.shape)

        def element(*i: Any) -> Any:
            lost = loses(left(*i), right(*i))
            lost = tirx.any(lost, tirx.isnan(right(*i))) if "float" in str(a.dtype) else lost
            return tirx.Select(lost, right(*i), left(*i))

        return te.compute(whole.shape, element, name=name)

    return block.call_te(kernel, x, y, primfunc_name_hint=name)


def _against(block: Any, x: Any, number: float, name: str, loses: Comparison) -> Any:
    """The number where x loses against it, else x, which may be NaN."""
    from tvm import te, tirx

    def kernel(t: Any) -> Any:
        other = tirx.const(number, t.dtype)
        return te.compute(t.shape, lambda *i: tirx.Select(loses(t(*i), other), other, t(*i)), name=name)

    return block.call_te(kernel, x, primfunc_name_hint=name)


def _number(value: Any) -> float | int | None:
    """The number that a constant of rank 0 holds, None for anything else and for NaN."""
    from tvm import relax

    if not isinstance(value, type(relax.const(0, "int64"))) or len(value.ty.shape) != 0:
        return None
    number = value.value.numpy().item()
    return number if number == number else None
