"""Lazy tensors: read only where values are needed, computed with as plain ones are, and never written to."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from edgecc.analysis.cost import cost
from edgecc.errors import InternalError
from edgecc.ir import archive, lazy
from edgecc.ir.capture import eager, trace
from edgecc.ir.lazy import Lazy
from edgecc.ir.program import Program
from edgecc.ir.text import to_text
from edgecc.ir.verify import verify
from edgecc.passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from edgecc.testing import apply

VALUES = torch.arange(24, dtype=torch.float32).view(6, 4)
X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


class Source:
    """Reads VALUES, and counts how often."""

    def __init__(self, values: torch.Tensor = VALUES) -> None:
        self.values, self.reads = values, 0

    def __call__(self) -> torch.Tensor:
        self.reads += 1
        return self.values.clone()

    def lazy(self) -> Lazy:
        return Lazy(self, self.values.shape, self.values.dtype)


REARRANGED: dict[str, Callable[[torch.Tensor], Any]] = {
    "transpose, stored": lambda w: w.t().contiguous(),
    "transpose": lambda w: w.transpose(0, 1),
    "rows": lambda w: w[2:5],
    "columns": lambda w: w[:, 1:],
    "row": lambda w: w[-1],
    "reshaped": lambda w: w.reshape(2, 3, 4).permute(1, 0, 2).reshape(6, 4),
    "half": lambda w: w.to(torch.float16),
    "stack": lambda w: torch.stack([w, w + 1]),
    "concatenation": lambda w: torch.cat([w, torch.ones(1, 4)]),
    "parts": lambda w: torch.cat(w.chunk(3)[::-1]),
    "split": lambda w: w.split([1, 5])[1],
    "operator": lambda w: torch.ops.aten.slice.Tensor(w, 0, 1, 9223372036854775807),
}


@pytest.mark.parametrize("change", REARRANGED.values(), ids=REARRANGED.keys())
def test_what_is_rearranged_stays_lazy_and_reads_like_a_plain_tensor(change: Callable[[torch.Tensor], Any]) -> None:
    found, want = change(Source().lazy()), change(VALUES)
    assert lazy.is_lazy(found) and (found.shape, found.dtype, found.stride()) == (want.shape, want.dtype, want.stride())
    assert torch.equal(lazy.read(found), want) and lazy.read(found).stride() == want.stride()


def test_sizes_copies_and_modules_read_nothing() -> None:
    source = Source()
    weight = torch.nn.Parameter(source.lazy())
    module = torch.nn.Linear(4, 6)
    module.weight = weight
    twin = copy.deepcopy(module)
    assert isinstance(twin.weight, torch.nn.Parameter) and twin.weight.requires_grad and lazy.is_lazy(twin.weight)
    assert (weight.numel(), weight.nbytes, weight.dim(), len(weight)) == (24, 96, 2, 6)
    assert "Lazy([6, 4], torch.float32)" in repr(weight) and lazy.is_lazy(module.state_dict()["weight"])
    assert source.reads == 0


def test_only_the_rows_that_are_asked_for_are_read() -> None:
    class Rows(Source):
        def rows(self, start: int, stop: int) -> Source:
            return Source(self.values[start:stop])

    source = Rows()
    assert torch.equal(lazy.read(source.lazy()[1:3]), VALUES[1:3]) and torch.equal(lazy.read(source.lazy()[4:]), VALUES[4:])
    assert lazy.read(source.lazy()[5:2]).shape == (0, 4) and source.reads == 0
    assert torch.equal(lazy.read(source.lazy()[::2]), VALUES[::2]) and torch.equal(lazy.read(source.lazy()[:, 1:]), VALUES[:, 1:])


def test_an_operation_reads_once_and_computes_as_on_a_plain_tensor() -> None:
    source = Source()
    weight, bias = torch.nn.Parameter(source.lazy()), torch.ones(6)
    plain = torch.nn.Parameter(VALUES)
    with torch.no_grad():
        assert torch.equal(F.linear(X, weight, bias), F.linear(X, plain, bias)) and source.reads == 1
        assert torch.equal(torch.ops.aten.linear.default(X, weight, bias), F.linear(X, plain, bias)) and source.reads == 2
        assert torch.equal(weight * weight, VALUES * VALUES) and source.reads == 3
        assert torch.equal(F.embedding(torch.tensor([[1, 5]]), weight), VALUES[[1, 5]][None])
        assert float(weight.sum()) == float(VALUES.sum()) and weight.numpy().sum() == VALUES.numpy().sum()


WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "method": lambda w: w.copy_(VALUES),
    "item": lambda w: w.__setitem__(0, 1.0),
    "operator": lambda w: w.__iadd__(1),
    "init": torch.nn.init.zeros_,
    "overload": lambda w: torch.ops.aten.mul_.Tensor(w, 2.0),
    "out": lambda w: torch.add(VALUES, 1, out=w),
    "view": lambda w: w[0].fill_(3),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_write_is_an_error_and_not_lost(write: Callable[[torch.Tensor], object]) -> None:
    with torch.no_grad(), pytest.raises(InternalError, match="cannot be written to"):
        write(Source().lazy())


def test_a_gradient_is_an_error_and_not_lost() -> None:
    with pytest.raises(InternalError, match="no gradient"):
        F.linear(X, torch.nn.Parameter(Source().lazy()))


def test_an_address_is_an_error_for_it_would_say_that_all_weights_are_one() -> None:
    with pytest.raises(InternalError, match="has no memory"):
        Source().lazy().data_ptr()


def test_a_source_that_breaks_its_word_is_told() -> None:
    with pytest.raises(InternalError, match=r"\[2, 4\] torch.float32 read \[6, 4\]"):
        lazy.read(Lazy(Source(), (2, 4)))


# -- programs


class Tied(torch.nn.Module):
    """An embedding whose table is the output layer too, with one layer between."""

    def __init__(self, table: torch.Tensor, weight: torch.Tensor) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(6, 4)
        self.layer, self.head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 6, bias=False)
        self.embed.weight = self.head.weight = torch.nn.Parameter(table)
        self.layer.weight = torch.nn.Parameter(weight)
        self.register_buffer("scale", torch.ones(4))
        with torch.no_grad():
            self.layer.bias.fill_(0.5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.layer(self.embed(ids)) * self.scale))  # type: ignore[no-any-return]


IDS = torch.tensor([[0, 5, 2]])


def _models() -> tuple[Tied, Tied, list[Source]]:
    sources = [Source(VALUES / 24), Source(VALUES[:4] / 7)]
    return Tied(*(s.values for s in sources)), Tied(*(s.lazy() for s in sources)), sources


def _programs() -> tuple[Program, Program, list[Source]]:
    plain, streamed, sources = _models()
    return trace(plain, (IDS,)), trace(streamed, (IDS,)), sources


def test_tracing_reads_nothing_and_gives_the_same_program() -> None:
    plain, streamed, sources = _models()
    want, program = trace(plain, (IDS,)), trace(streamed, (IDS,))
    verify(program)
    assert to_text(program) == to_text(want) and cost(program) == cost(want)
    assert lazy.is_lazy(streamed.head.weight) and streamed.head.weight is streamed.embed.weight
    assert sum(s.reads for s in sources) == 0
    assert torch.equal(program(IDS)[0], want(IDS)[0])
    assert torch.equal(eager(streamed, (IDS,))(IDS)[0], eager(plain, (IDS,))(IDS)[0])


def test_a_tied_weight_becomes_one_node_and_others_do_not() -> None:
    want, program, sources = _programs()
    assert apply(EliminateCommonSubexpressions(), program)[0] == apply(EliminateCommonSubexpressions(), want)[0]
    assert to_text(program) == to_text(want) and sum(s.reads for s in sources) == 0
    assert torch.equal(program(IDS)[0], want(IDS)[0])


def test_equal_values_are_found_where_that_is_asked_for() -> None:
    model = Tied(Source().lazy(), Source(VALUES[:4]).lazy())
    model.head.weight = torch.nn.Parameter(Source().lazy())
    program = trace(model, (IDS,))
    assert apply(EliminateCommonSubexpressions(), program)[0] == 0
    assert apply(EliminateCommonSubexpressions(equal_weights=True), program)[0] == 1


@pytest.mark.parametrize("copied", [Program.clone, Program.snapshot])
def test_weights_are_replaced_added_copied_and_dropped(copied: Callable[[Program], Program]) -> None:
    _, program, _ = _programs()
    before, twin = program(IDS)[0], copied(program)
    layer = next(n for n in twin.calls(torch.ops.aten.linear.default) if len(n.args) == 3)
    x, weight, bias = layer.args
    added = twin.add_weight("turned", twin.weight(weight).t(), layer)
    assert lazy.is_lazy(twin.weight(added)) and added.meta["val"].is_contiguous()
    product = twin.call_before(layer, torch.ops.aten.matmul.default, x, added)
    twin.replace(layer, twin.call_before(layer, torch.ops.aten.add.Tensor, product, bias))
    assert twin.drop_unused_weights() == ["layer.weight"]
    twin.recompile()
    verify(twin)
    torch.testing.assert_close(twin(IDS)[0], before, rtol=0, atol=1e-6)  # sums of four terms of order 1 in another order
    twin.set_weight(added, Lazy(lambda: torch.zeros(4, 4), (4, 4)))
    assert lazy.is_lazy(twin.weight(added)) and not torch.equal(twin(IDS)[0], before)
    assert torch.equal(program(IDS)[0], before)


def test_an_archive_has_the_values() -> None:
    want, program, _ = _programs()
    file = io.BytesIO()
    archive.save(program, file)
    assert torch.equal(torch.export.load(io.BytesIO(file.getvalue())).module()(IDS)[0], want(IDS)[0])
