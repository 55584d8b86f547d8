"""Recurrent layers as ONNX LSTM, GRU and RNN, one node for a layer of one or two directions.

Gates stand in PyTorch's order input, forget, cell, output and reset, update, new; ONNX wants input, output, forget, cell
and update, reset, new. Both directions are one weight [directions, gates * hidden, ..], stored in place of PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.handler import Handler, Handlers, Value

aten = torch.ops.aten


@dataclass(frozen=True)
class Cell:
    """`order`: where each of ONNX's gates stands in PyTorch's weights; `options`: attributes of the node."""

    kind: str
    order: tuple[int, ...]
    options: tuple[tuple[str, Any], ...] = ()


_LSTM, _GRU = Cell("LSTM", (0, 3, 1, 2)), Cell("GRU", (1, 0, 2), (("linear_before_reset", 1),))
_TANH, _RELU = Cell("RNN", (0,)), Cell("RNN", (0,), (("activations", "Relu"),))


def _recurrent(cell: Cell) -> Handler:
    def lower(
        b: Builder,
        node: fx.Node,
        x: Value,
        hx: Any,
        params: list[Value],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> list[Value]:
        states = hx if isinstance(hx, list) else [hx]
        starts = [None if _is_zero(node, k, b, s) else s for k, s in enumerate(states)]
        directions, each = 1 + bidirectional, 4 if has_biases else 2
        sequence = b.swap(x, 0, 1) if batch_first else x
        last: list[list[Value]] = []
        for layer in range(num_layers):
            weights = params[each * layer * directions : each * (layer + 1) * directions]
            rows = range(layer * directions, (layer + 1) * directions)
            first = [None if s is None else _rows(b, s, rows) for s in starts]
            sequence, *final = _layer(b, cell, sequence, first, weights, each, len(states))
            last.append(final)
        finals = [b.concat([final[k] for final in last], 0) for k in range(len(states))]
        return [b.swap(sequence, 0, 1) if batch_first else sequence, *finals]

    return Handler(lower, _refuse)


def _is_zero(node: fx.Node, k: int, b: Builder, state: Value) -> bool:
    """Whether an initial state is zeros, which is what ONNX starts from."""
    given = arguments_of(node)["hx"]
    source = given[k] if isinstance(given, (list, tuple)) else given
    held = b.tensor_of(state)
    return source.target in (aten.zeros.default, aten.new_zeros.default, aten.zeros_like.default) or (held is not None and not held.any())


def _rows(b: Builder, state: Value, rows: range) -> Value:
    return b.slice(state, 0, rows.start, rows.stop, [len(rows), *b.sizes(state)[1:]])


def _layer(
    b: Builder, cell: Cell, x: Value, first: Sequence[Value | None], weights: Sequence[Value], each: int, states: int
) -> list[Value]:
    """One layer. x [t, n, in], first [directions, n, h] each -> outputs [t, n, directions * h], last [directions, n, h] each."""
    directions, hidden, to = len(weights) // each, b.sizes(weights[1])[1], b.dtype(x)
    w, r = (b.derived(weights[k::each], cell.kind, _stacked(cell.order)) for k in (0, 1))
    bias = None
    if each == 4:
        pairs = [weights[each * d + k] for d in range(directions) for k in (2, 3)]
        bias = b.derived(pairs, f"{cell.kind}_both", _both_biases(cell.order))
    steps, batch = b.sizes(x)[:2]
    results = [(to, [steps, directions, batch, hidden]), *[(to, [directions, batch, hidden])] * states]
    options = {k: [v] * directions if isinstance(v, str) else v for k, v in cell.options}
    direction = "bidirectional" if directions == 2 else None
    y, *last = b.ops(cell.kind, x, w, r, bias, None, *first, hidden_size=hidden, direction=direction, results=results, **options)
    if directions == 1:
        return [b.squeeze(y, [1]), *last]
    return [b.reshape(b.transpose(y, [0, 2, 1, 3]), [steps, batch, directions * hidden]), *last]


def _stacked(order: Sequence[int]) -> Callable[..., torch.Tensor]:
    """Weights [gates * h, ..] of each direction -> [directions, gates * h, ..]."""
    return lambda *parts: torch.stack([_ordered(p, order) for p in parts])


def _both_biases(order: Sequence[int]) -> Callable[..., torch.Tensor]:
    """Input and hidden bias of each direction -> [directions, 2 * gates * h]."""
    return lambda *parts: torch.cat([_ordered(p, order) for p in parts]).reshape(len(parts) // 2, -1)


def _ordered(weight: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    gates = weight.chunk(len(order))
    return torch.cat([gates[k] for k in order])


def _gru_cell(
    b: Builder, node: fx.Node, x: Value, hx: Value, w_ih: Value, w_hh: Value, b_ih: Value | None = None, b_hh: Value | None = None
) -> Value:
    """A sequence of one step. x [n, in], hx [n, h] -> [n, h]."""
    return _step(b, _GRU, x, [hx], [w_ih, w_hh, b_ih, b_hh])[0]


def _lstm_cell(
    b: Builder, node: fx.Node, x: Value, hx: list[Value], w_ih: Value, w_hh: Value, b_ih: Value | None = None, b_hh: Value | None = None
) -> list[Value]:
    return _step(b, _LSTM, x, hx, [w_ih, w_hh, b_ih, b_hh])


def _step(b: Builder, cell: Cell, x: Value, states: Sequence[Value], weights: Sequence[Value | None]) -> list[Value]:
    given = [w for w in weights if w is not None]
    first = [b.unsqueeze(s, [0]) for s in states]
    _, *last = _layer(b, cell, b.unsqueeze(x, [0]), first, given, len(given), len(states))
    return [b.squeeze(s, [0]) for s in last]


def _refuse(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    if arguments["train"] and arguments["dropout"]:
        return "a recurrent layer with dropout in training mode"
    states = arguments["hx"] if isinstance(arguments["hx"], (list, tuple)) else [arguments["hx"]]
    if len({fake(s).shape[-1] for s in states}) > 1:
        return "an LSTM with a projection (proj_size)"
    if len(fake(arguments["x"]).shape) != 3:
        return "a recurrent layer without a batch"
    return _refuse_computed(arguments["params"])


def _refuse_cell(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    return _refuse_computed([w for k in ("w_ih", "w_hh", "b_ih", "b_hh") if (w := arguments[k]) is not None])


def _refuse_computed(weights: Sequence[fx.Node]) -> str | None:
    return None if all(w.op == "get_attr" for w in weights) else "a recurrent layer whose weights are computed"


HANDLERS: Handlers = {
    aten.lstm.input: _recurrent(_LSTM),
    aten.gru.input: _recurrent(_GRU),
    aten.rnn_tanh.input: _recurrent(_TANH),
    aten.rnn_relu.input: _recurrent(_RELU),
    aten.gru_cell.default: Handler(_gru_cell, _refuse_cell),
    aten.lstm_cell.default: Handler(_lstm_cell, _refuse_cell),
}
