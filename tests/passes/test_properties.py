"""What every pass promises, checked on the zoo: its numerics, a fixed point, a sound graph, provenance, one text."""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import fx

import edgecc.passes
from edgecc.ir.capture import trace
from edgecc.ir.fake import size_expression
from edgecc.ir.program import Program, stored_weights
from edgecc.ir.provenance import source_line
from edgecc.pipeline.base import Exact, Lossy, Pass
from edgecc.pipeline.context import PassContext
from edgecc.testing import apply
from tests.models import ZOO, build

RAW = ("shufflenet_v2", "in_place", "gpt2_eager")
NORMALIZED = ("swin", "gru_cell_unrolled", "spelled_out_transformer", "shared_weights")
"""Small models, together with every kind of thing that passes rewrite: norms, views, splits, writes, Conv1D, ties,
masks. Some are tested as traced, some after the passes that run first in every pipeline."""

FIRST = ("decompose", "canonicalize")


def _passes() -> dict[str, type[Pass]]:
    """The Pass subclasses that the files of passes/ define, by name. A file without one would be no pass."""
    folder = Path(next(iter(edgecc.passes.__path__)))
    found: dict[str, type[Pass]] = {}
    for path in sorted(folder.glob("*.py")):
        module = importlib.import_module(f"edgecc.passes.{path.stem}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, Pass) and cls.__module__ == module.__name__ and not inspect.isabstract(cls):
                assert cls.name == path.stem.replace("_", "-"), f"{path.name} holds {cls.name}"
                found[cls.name] = cls
    return found


PASSES = _passes()


@cache
def _traced(model: str, dynamic: bool, normalized: bool) -> Program:
    module, args, kwargs = build(model)
    program = trace(module, args, kwargs, dims=ZOO[model].dims if dynamic else None)
    for name in FIRST if normalized else ():
        apply(PASSES[name](), program)
    return program


def _program(model: str, dynamic: bool = False, normalized: bool = False) -> Program:
    return _traced(model, dynamic, normalized).clone()


@pytest.mark.parametrize("model", RAW + NORMALIZED)
@pytest.mark.parametrize("name", PASSES)
def test_a_pass_keeps_its_promises(name: str, model: str) -> None:
    program = _program(model, normalized=model in NORMALIZED)
    signature, before = program.signature, program(*program.examples)
    count, _ = apply(PASSES[name](), program)
    assert program.signature == signature
    _check_numerics(PASSES[name], before, program(*program.examples), changed=count > 0)
    _check_graph(program)
    again = PASSES[name]().run(program, PassContext(samples=(program.examples,), origin=name))
    assert again == 0, f"a second run made {again} rewrites"


@pytest.mark.parametrize("model", ["gpt2_eager", "swin"])
@pytest.mark.parametrize("name", PASSES)
def test_a_pass_keeps_dynamic_dimensions(name: str, model: str) -> None:
    program = _program(model, dynamic=True)
    symbols = _symbols(program)
    apply(PASSES[name](), program)
    assert symbols and _symbols(program) == symbols
    _, *inputs = build(model, **{n: max(d.lower, min(3, d.upper or 3)) for n, d in ZOO[model].sizes().items()})
    other = tuple(torch.utils._pytree.tree_leaves(inputs))
    for a, b in zip(_program(model, dynamic=True)(*other), program(*other), strict=True):
        assert a.shape == b.shape
        if not isinstance(PASSES[name].numerics, Lossy):
            _check_close(a, b, 1e-4)


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_gives_the_same_text_twice(name: str) -> None:
    for model in ("gpt2_eager", "shufflenet_v2"):
        first, second = _program(model), _program(model)
        apply(PASSES[name](), first)
        apply(PASSES[name](), second)
        assert str(first.graph) == str(second.graph) and list(first.weights()) == list(second.weights())


def _check_numerics(cls: type[Pass], before: tuple[torch.Tensor, ...], after: tuple[torch.Tensor, ...], *, changed: bool) -> None:
    for a, b in zip(before, after, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if isinstance(cls.numerics, Exact) or not changed:
            assert torch.equal(a, b), f"{cls.name} is declared exact: off by {(a - b).abs().max()}"
        elif not isinstance(cls.numerics, Lossy):
            _check_close(a, b, cls.numerics.tolerance)


def _check_close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> None:
    """By the largest magnitude, as `Reordered` defines it."""
    assert (a.double() - b.double()).abs().max() <= tolerance * a.double().abs().max()


def _check_graph(program: Program) -> None:
    program.graph.lint()
    used = {str(n.target) for n in program.graph.nodes if n.op == "get_attr"}
    assert sorted(used) == sorted(stored_weights(program.module)), "stray weights"
    calls = program.calls()
    known = sum(bool(source_line(n)) for n in calls)
    assert known >= 0.99 * len(calls), [n.name for n in calls if not source_line(n)]
    with torch.no_grad():
        _Recorder(program.module).run(*program.examples)


class _Recorder(fx.Interpreter):
    """Runs node by node, and compares what PyTorch gives with what `meta["val"]` says."""

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if n.op != "output":
            self._compare(n, n.meta["val"], result)
        return result

    def _compare(self, node: fx.Node, said: object, found: object) -> None:
        if isinstance(said, torch.Tensor):
            assert isinstance(found, torch.Tensor) and found.dtype == said.dtype, node.format_node()
            assert [size_expression(s) for s in said.shape] == list(found.shape), node.format_node()
        elif isinstance(said, (list, tuple)):
            for a, b in zip(said, found, strict=True):  # type: ignore[call-overload]
                self._compare(node, a, b)


def _symbols(program: Program) -> set[str]:
    """The symbols in the sizes of the inputs: a pass that turns one into a number fixes that dimension."""
    shapes = (n.meta["val"].shape for n in program.inputs())
    return {str(size_expression(s)) for shape in shapes for s in shape if not isinstance(size_expression(s), int)}
