"""Functionalize: in-place operators become pure ones, so that every pass may move and merge nodes freely.

A write to a value that nothing else can see is renamed (`relu_` to `relu`), which keeps the graph as it was written.
For any other write torch functionalizes the whole graph, which keeps its operators too but for views.
"""

from __future__ import annotations

import warnings

import torch
from torch import fx

from edgecc.ir.fake import infer

aten = torch.ops.aten

_NO_EFFECT = (aten.detach_.default,)

# Operators that are declared pure and return views, by the ones that say so.
_DECLARED = {
    aten._unsafe_view.default: aten.view.default,
    aten.unsafe_chunk.default: aten.chunk.default,
    aten.unsafe_split.Tensor: aten.split.Tensor,
    aten.unsafe_split_with_sizes.default: aten.split_with_sizes.default,
}

# Operators whose result shares no memory with an argument, whatever the sizes, dtypes and flags. The schema does not
# tell: a composite operator such as dropout, einsum or meshgrid is declared pure and yet may return a view. What is
# not listed here is taken for a view, which costs nothing but the general way.
_FRESH = frozenset(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution linear matmul mm bmm addmm baddbmm mv dot outer
    layer_norm native_layer_norm group_norm instance_norm rms_norm batch_norm _native_batch_norm_legit_no_training _weight_norm
    scaled_dot_product_attention embedding lstm gru gru_cell lstm_cell rnn_tanh rnn_relu
    relu relu6 hardtanh leaky_relu prelu elu celu selu gelu silu mish hardswish hardsigmoid sigmoid tanh softplus softsign glu log_sigmoid
    softmax _softmax log_softmax _log_softmax
    add sub rsub mul div floor_divide remainder fmod pow neg abs sign exp expm1 log log1p log2 log10 sqrt rsqrt reciprocal square sin cos tan
    atan atan2 sinh cosh erf erfc floor ceil trunc clamp clamp_min clamp_max maximum minimum lerp addcmul addcdiv nan_to_num
    eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor
    __and__ __or__ __xor__ isnan isinf where masked_fill
    sum mean amax amin argmax argmin max min prod std var var_mean std_mean cumsum cumprod any all logsumexp linalg_vector_norm sort topk argsort
    cat stack index index_select gather scatter index_put slice_scatter select_scatter repeat repeat_interleave roll flip tril triu pad
    constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d pixel_shuffle pixel_unshuffle channel_shuffle
    im2col one_hot bucketize
    max_pool1d max_pool2d max_pool2d_with_indices avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d
    upsample_nearest1d upsample_nearest2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d grid_sampler
    clone lift_fresh_copy _to_copy zeros ones full arange eye empty scalar_tensor zeros_like ones_like full_like empty_like rand_like
    new_zeros new_ones new_full new_empty
    """.split()  # noqa: SIM905  as a list of quoted strings the names cannot be read
)


def functionalize(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return an ExportedProgram without mutations; the one that is passed may have its writes renamed."""
    writes = [n for graph in _graphs(exported) for n in graph.nodes if _mutates(n)]
    if not writes:
        return exported
    order = {n: i for i, n in enumerate(exported.graph.nodes)}
    pure = [_pure(n) if n in order and _is_private(n, order) else None for n in writes]
    if None in pure:
        return _functionalize_views(exported)
    for node, target in zip(writes, pure, strict=True):
        assert target is not None
        node.target = target
    exported.graph.lint()
    return exported


def _graphs(exported: torch.export.ExportedProgram) -> list[fx.Graph]:
    """The graph and those of the regions in it."""
    return [m.graph for m in exported.graph_module.modules() if isinstance(m, fx.GraphModule)]


def _functionalize_views(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The general way. Operators that are declared pure but may return a view are taken apart, for torch believes them."""
    for graph in _graphs(exported):
        _declare_views(graph)
    known = torch.export.default_decompositions()
    called = {n.target for graph in _graphs(exported) for n in graph.nodes}
    hiding = {op: known[op] for op in called if _may_hide_a_view(op) and op in known}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functional: torch.export.ExportedProgram = exported.run_decompositions(hiding)
    _declare_views(functional.graph)
    _restore_batch_norm(functional.graph)
    return functional


def _declare_views(graph: fx.Graph) -> None:
    for node in graph.nodes:
        node.target = _DECLARED.get(node.target, node.target)
        if node.target is aten.dropout.default and node.args[2] is False:  # returns its input; torch would make it a copy
            node.target, node.args = aten.alias.default, node.args[:1]


def _restore_batch_norm(graph: fx.Graph) -> None:
    """Undo the one loss of the general way: batch_norm becomes an operator of three results, of which two are empty."""
    for node in [n for n in graph.nodes if n.target is aten._native_batch_norm_legit_no_training.default]:
        results = [n for n in node.users if n.args[1] == 0]
        if len(results) != len(node.users):
            continue
        x, weight, bias, mean, variance, momentum, eps = node.args
        node.target, node.args = aten.batch_norm.default, (x, weight, bias, mean, variance, False, momentum, eps, False)
        node.meta["val"] = node.meta["val"][0]
        for result in results:
            result.replace_all_uses_with(node)
            graph.erase_node(result)
    graph.lint()


def _mutates(node: fx.Node) -> bool:
    op = node.target
    return isinstance(op, torch._ops.OpOverload) and op._schema.is_mutable and op not in _NO_EFFECT


def _is_fresh(op: object) -> bool:
    return isinstance(op, torch._ops.OpOverload) and op.namespace == "aten" and op._schema.name.removeprefix("aten::") in _FRESH


def _may_hide_a_view(op: object) -> bool:
    return isinstance(op, torch._ops.OpOverload) and not _is_fresh(op) and not any(a.alias_info for a in op._schema.arguments)


def _is_private(write: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Whether nothing but `write` can see the written value: it is fresh, and who else reads it did so before and keeps no view."""
    written = write.args[0]
    if not isinstance(written, fx.Node) or written.op != "call_function":
        return False
    for user in written.users:
        if user is not write and (order[user] > order[write] or not (_is_fresh(user.target) or _writes_elsewhere(user, written))):
            return False
    return _is_private(written, order) if _mutates(written) else _is_fresh(written.target)


def _writes_elsewhere(node: fx.Node, value: fx.Node) -> bool:
    return _mutates(node) and node.args[0] is not value and _pure(node) is not None


def _pure(node: fx.Node) -> torch._ops.OpOverload | None:
    """The overload without the trailing underscore and with the same arguments, where its result has the dtype of the written value."""
    op = node.target
    assert isinstance(op, torch._ops.OpOverload)
    namespace, _, name = op._schema.name.partition("::")
    writable = [a.is_write for a in op._schema.arguments]
    if not name.endswith("_") or not writable[0] or any(writable[1:]):
        return None
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    overload = getattr(packet, op._overloadname, None) if packet is not None else None
    if not isinstance(overload, torch._ops.OpOverload):
        return None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    value = infer(node.graph, overload, args, kwargs)
    return overload if isinstance(value, torch.Tensor) and value.dtype == node.meta["val"].dtype else None
