"""Saving and loading: a .pt2 keeps names, symbols, provenance and values, and torch reads it too."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from edgecc.ir import archive
from edgecc.ir.capture import trace
from edgecc.ir.signature import Dim
from edgecc.ir.text import to_text
from edgecc.testing import trace_function


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.GELU())
    return trace(model, (torch.randn(2, 3, 9),), dims={"input": {0: Dim("batch", 1, 8), 2: Dim("length", 5, 64)}})


def test_a_loaded_program_has_the_same_text_signature_and_values(tmp_path):
    program = small()
    archive.save(program, tmp_path / "a.pt2")
    loaded = archive.load(tmp_path / "a.pt2")
    assert loaded.signature == program.signature
    assert to_text(loaded) == to_text(program)
    for shape in ((1, 3, 5), (7, 3, 33)):
        x = torch.randn(shape)
        assert torch.equal(loaded(x)[0], program(x)[0])


def test_torch_loads_what_edgecc_saves(tmp_path):
    program = small()
    archive.save(program, tmp_path / "a.pt2")
    x = torch.randn(4, 3, 11)
    with torch.no_grad():
        (got,) = torch.export.load(tmp_path / "a.pt2").module()(x)
    assert torch.equal(got, program(x)[0])


def test_an_archive_of_torch_export_is_a_program(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 2).eval()
    torch.export.save(torch.export.export(model, (torch.ones(1, 3),)), tmp_path / "t.pt2")
    x = torch.randn(1, 3)
    assert torch.equal(archive.load(tmp_path / "t.pt2")(x)[0], model(x))


def test_the_same_program_gives_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        archive.save(small(), tmp_path / folder / "p.pt2")
    assert (tmp_path / "a" / "p.pt2").read_bytes() == (tmp_path / "b" / "p.pt2").read_bytes()


def test_several_outputs_keep_their_names(tmp_path):
    program = trace_function(lambda x: {"a": x + 1, "b": (x * 2, x)}, torch.ones(2))
    archive.save(program, tmp_path / "p.pt2")
    assert [s.name for s in archive.load(tmp_path / "p.pt2").signature.outputs] == ["a", "b.0", "b.1"]


def test_torch_decomposes_an_archive_whose_weights_have_capitals(tmp_path):
    """FX spells names of inputs in its own way: torch's exporters fail where that differs from what it was asked for."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.LayerNorm = nn.LayerNorm(4)

        def forward(self, x, mask):
            return self.LayerNorm(x) * mask

    program = trace(Masked(), (torch.randn(2, 4), torch.ones(2, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its own code
        decomposed = archive.export(program).run_decompositions()
    x, mask = torch.randn(2, 4), torch.tensor([[1.0], [0.5]])
    torch.testing.assert_close(decomposed.module()(x, mask)[0], program(x, mask)[0])
