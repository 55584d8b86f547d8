"""Recurrent layers: one matrix product for all inputs of a layer, then one kernel that walks the time steps.

Gates stand in PyTorch's order: LSTM input, forget, cell, output; GRU reset, update, new.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, dtype, shape
from edgecc.targets.tvm_cpu.lowering.contraction import linear
from edgecc.targets.tvm_cpu.lowering.handler import Handler, Handlers
from edgecc.targets.tvm_cpu.lowering.layout import transpose
from edgecc.targets.tvm_cpu.lowering.slicing import select, slice_axis

aten = torch.ops.aten


def _recurrent(kind: str) -> Handler:
    """`kind`: lstm, gru, tanh or relu."""

    def lower(
        b: Builder,
        node: fx.Node,
        x: Expr,
        hx: Any,
        params: list[Expr],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> list[Expr]:
        starts = hx if isinstance(hx, list) else [hx]
        sequence = x if batch_first else transpose(b, x, 0, 1)
        directions, each = 1 + bidirectional, 4 if has_biases else 2
        last: list[list[Expr]] = []
        for layer in range(num_layers):
            outputs = []
            for direction in range(directions):
                k = layer * directions + direction
                weights = params[each * k : each * (k + 1)]
                first = [select(b, s, 0, k, shape(s)[1:]) for s in starts]
                output, *final = _scan(b, kind, sequence, first, weights, backwards=bool(direction))
                outputs.append(output)
                last.append(final)
            sequence = b.op("concat", outputs, 2) if bidirectional else outputs[0]
        finals = [b.op("concat", [b.op("expand_dims", f[i], 0) for f in last], 0) for i in range(len(starts))]
        return [sequence if batch_first else transpose(b, sequence, 0, 1), *finals]

    return Handler(lower, _refuse)


def _gru_cell(
    b: Builder, node: fx.Node, x: Expr, hx: Expr, w_ih: Expr, w_hh: Expr, b_ih: Expr | None = None, b_hh: Expr | None = None
) -> Expr:
    """One step. x [n, in], hx [n, h] -> [n, h]. Cho et al. 2014, with PyTorch's bias inside of the reset gate."""
    reset, update, new = _gates(b, linear(b, x, w_ih, b_ih), 3)
    h_reset, h_update, h_new = _gates(b, linear(b, hx, w_hh, b_hh), 3)
    r, z = b.op("sigmoid", b.op("add", reset, h_reset)), b.op("sigmoid", b.op("add", update, h_update))
    n = b.op("tanh", b.op("add", new, b.op("multiply", r, h_new)))
    return b.op("add", n, b.op("multiply", z, b.op("subtract", hx, n)))


def _lstm_cell(
    b: Builder, node: fx.Node, x: Expr, hx: list[Expr], w_ih: Expr, w_hh: Expr, b_ih: Expr | None = None, b_hh: Expr | None = None
) -> list[Expr]:
    """One step. x [n, in], hx two of [n, h] -> the next two. Hochreiter and Schmidhuber 1997, with a forget gate."""
    sums = _gates(b, b.op("add", linear(b, x, w_ih, b_ih), linear(b, hx[0], w_hh, b_hh)), 4)
    i, f, o = (b.op("sigmoid", sums[k]) for k in (0, 1, 3))
    c = b.op("add", b.op("multiply", f, hx[1]), b.op("multiply", i, b.op("tanh", sums[2])))
    return [b.op("multiply", o, b.op("tanh", c)), c]


def _gates(b: Builder, x: Expr, count: int) -> list[Expr]:
    *lead, width = shape(x)
    size = width // count
    return [slice_axis(b, x, len(lead), k * size, [*lead, size]) for k in range(count)]


def _scan(b: Builder, kind: str, x: Expr, first: list[Expr], weights: list[Expr], *, backwards: bool) -> list[Expr]:
    """One direction of one layer. x [n, t, in], first [n, h] each -> outputs [n, t, h], last states [n, h] each."""
    w_in, w_hidden, *biases = weights
    hidden, to = int(shape(w_hidden)[1]), dtype(x)
    b_in, b_hidden = biases or [b.constant([0] * int(shape(w_in)[0]), to)] * 2
    if kind != "gru":  # there the new gate scales the hidden part, bias included, before it is added
        b_in = b.op("add", b_in, b_hidden)
    projected = linear(b, x, w_in, b_in)
    batch, steps = shape(x)[:2]
    kernel = _LAYERS[kind](hidden, to, backwards)
    operands = [projected, transpose(b, w_hidden, 0, 1), *([b_hidden] if kind == "gru" else []), *first]
    state = ([batch, hidden], to)
    return b.prim_func(f"{kind}_scan", kernel, operands, [([batch, steps, hidden], to), *[state] * len(first)])


def _lstm(hidden: int, of: str, backwards: bool) -> Any:
    from tvm.script import tirx as T

    @T.prim_func(private=True, s_tir=True)  # type: ignore[untyped-decorator]
    def kernel(
        px: T.handle,
        pw: T.handle,
        ph0: T.handle,
        pc0: T.handle,
        py: T.handle,
        ph: T.handle,
        pc: T.handle,
    ) -> None:
        T.func_attr({"tirx.noalias": True})
        batch, steps = T.int64(), T.int64()
        x = T.match_buffer(px, (batch, steps, 4 * hidden), of)
        w = T.match_buffer(pw, (hidden, 4 * hidden), of)
        h0 = T.match_buffer(ph0, (batch, hidden), of)
        c0 = T.match_buffer(pc0, (batch, hidden), of)
        y = T.match_buffer(py, (batch, steps, hidden), of)
        h = T.match_buffer(ph, (batch, hidden), of)
        c = T.match_buffer(pc, (batch, hidden), of)
        with T.sblock("scan"):
            T.reads(x[0:batch, 0:steps, 0 : 4 * hidden], w[0:hidden, 0 : 4 * hidden], h0[0:batch, 0:hidden], c0[0:batch, 0:hidden])
            T.writes(y[0:batch, 0:steps, 0:hidden], h[0:batch, 0:hidden], c[0:batch, 0:hidden])
            g = T.sblock_alloc_buffer((4 * hidden,), of)
            for n in T.serial(batch):
                for j in T.serial(hidden):
                    h[n, j] = h0[n, j]
                    c[n, j] = c0[n, j]
                for s in T.serial(steps):
                    for j in T.serial(4 * hidden):
                        g[j] = x[n, (steps - 1 - s) if backwards else s, j]
                    for k in T.serial(hidden):
                        for j in T.serial(4 * hidden):
                            g[j] = g[j] + h[n, k] * w[k, j]
                    for j in T.serial(hidden):
                        c[n, j] = T.sigmoid(g[hidden + j]) * c[n, j] + T.sigmoid(g[j]) * T.tanh(g[2 * hidden + j])
                        h[n, j] = T.sigmoid(g[3 * hidden + j]) * T.tanh(c[n, j])
                        y[n, (steps - 1 - s) if backwards else s, j] = h[n, j]

    return kernel


def _gru(hidden: int, of: str, backwards: bool) -> Any:
    from tvm.script import tirx as T

    @T.prim_func(private=True, s_tir=True)  # type: ignore[untyped-decorator]
    def kernel(
        px: T.handle,
        pw: T.handle,
        p_bias: T.handle,
        ph0: T.handle,
        py: T.handle,
        ph: T.handle,
    ) -> None:
        T.func_attr({"tirx.noalias": True})
        batch, steps = T.int64(), T.int64()
        x = T.match_buffer(px, (batch, steps, 3 * hidden), of)
        w = T.match_buffer(pw, (hidden, 3 * hidden), of)
        bias = T.match_buffer(p_bias, (3 * hidden,), of)
        h0 = T.match_buffer(ph0, (batch, hidden), of)
        y = T.match_buffer(py, (batch, steps, hidden), of)
        h = T.match_buffer(ph, (batch, hidden), of)
        with T.sblock("scan"):
            T.reads(x[0:batch, 0:steps, 0 : 3 * hidden], w[0:hidden, 0 : 3 * hidden], bias[0 : 3 * hidden], h0[0:batch, 0:hidden])
            T.writes(y[0:batch, 0:steps, 0:hidden], h[0:batch, 0:hidden])
            g = T.sblock_alloc_buffer((3 * hidden,), of)
            for n in T.serial(batch):
                for j in T.serial(hidden):
                    h[n, j] = h0[n, j]
                for s in T.serial(steps):
                    for j in T.serial(3 * hidden):
                        g[j] = bias[j]
                    for k in T.serial(hidden):
                        for j in T.serial(3 * hidden):
                            g[j] = g[j] + h[n, k] * w[k, j]
                    for j in T.serial(hidden):
                        g[j] = T.sigmoid(x[n, (steps - 1 - s) if backwards else s, j] + g[j])
                        g[hidden + j] = T.sigmoid(x[n, (steps - 1 - s) if backwards else s, hidden + j] + g[hidden + j])
                        g[2 * hidden + j] = T.tanh(x[n, (steps - 1 - s) if backwards else s, 2 * hidden + j] + g[j] * g[2 * hidden + j])
                        h[n, j] = g[2 * hidden + j] + g[hidden + j] * (h[n, j] - g[2 * hidden + j])
                        y[n, (steps - 1 - s) if backwards else s, j] = h[n, j]

    return kernel


def _elman(relu: bool) -> Any:
    def layer(hidden: int, of: str, backwards: bool) -> Any:
        from tvm.script import tirx as T

        @T.prim_func(private=True, s_tir=True)  # type: ignore[untyped-decorator]
        def kernel(px: T.handle, pw: T.handle, ph0: T.handle, py: T.handle, ph: T.handle) -> None:
            T.func_attr({"tirx.noalias": True})
            batch, steps = T.int64(), T.int64()
            x = T.match_buffer(px, (batch, steps, hidden), of)
            w = T.match_buffer(pw, (hidden, hidden), of)
            h0 = T.match_buffer(ph0, (batch, hidden), of)
            y = T.match_buffer(py, (batch, steps, hidden), of)
            h = T.match_buffer(ph, (batch, hidden), of)
            with T.sblock("scan"):
                T.reads(x[0:batch, 0:steps, 0:hidden], w[0:hidden, 0:hidden], h0[0:batch, 0:hidden])
                T.writes(y[0:batch, 0:steps, 0:hidden], h[0:batch, 0:hidden])
                g = T.sblock_alloc_buffer((hidden,), of)
                for n in T.serial(batch):
                    for j in T.serial(hidden):
                        h[n, j] = h0[n, j]
                    for s in T.serial(steps):
                        for j in T.serial(hidden):
                            g[j] = x[n, (steps - 1 - s) if backwards else s, j]
                        for k in T.serial(hidden):
                            for j in T.serial(hidden):
                                g[j] = g[j] + h[n, k] * w[k, j]
                        for j in T.serial(hidden):
                            h[n, j] = T.max(g[j], T.Cast(of, 0)) if relu else T.tanh(g[j])
                            y[n, (steps - 1 - s) if backwards else s, j] = h[n, j]

        return kernel

    return layer


_LAYERS = {"lstm": _lstm, "gru": _gru, "tanh": _elman(False), "relu": _elman(True)}


def _refuse(node: fx.Node) -> str | None:
    arguments = arguments_of(node)
    if arguments["train"] and arguments["dropout"]:
        return "a recurrent layer with dropout in training mode"
    states = arguments["hx"] if isinstance(arguments["hx"], (list, tuple)) else [arguments["hx"]]
    if len({fake(s).shape[-1] for s in states}) > 1:
        return "an LSTM with a projection (proj_size)"
    return None if len(fake(arguments["x"]).shape) == 3 else "a recurrent layer without a batch"


HANDLERS: Handlers = {
    aten.lstm.input: _recurrent("lstm"),
    aten.gru_cell.default: Handler(_gru_cell),
    aten.lstm_cell.default: Handler(_lstm_cell),
    aten.gru.input: _recurrent("gru"),
    aten.rnn_tanh.input: _recurrent("tanh"),
    aten.rnn_relu.input: _recurrent("relu"),
}
