"""What a target refuses is said all at once, with every place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecc.errors import UnsupportedError
from edgecc.ir.capture import trace
from edgecc.targeting.base import Capabilities
from edgecc.targeting.support import check

aten = torch.ops.aten


class Net(nn.Module):
    def forward(self, x):
        a = torch.erfinv(x)
        b = torch.erfinv(a)
        return torch.special.i0(b).double()


def capabilities(*refused):
    return Capabilities(frozenset({torch.float32}), lambda n: "no kernel" if n.target in refused else None)


def test_every_operator_and_line_is_listed():
    program = trace(Net(), (torch.ones(2),))
    with pytest.raises(UnsupportedError) as caught:
        check(program, capabilities(aten.erfinv.default, aten.special_i0.default), "toy")
    lines = caught.value.message.splitlines()
    assert lines[0] == "toy cannot lower 3 kind(s) of operator in this model:"
    assert lines[1] == "  aten.erfinv: no kernel" and lines[2].count("test_support.py:") == 2
    assert lines[3] == "  aten.special_i0: no kernel"
    assert lines[5].endswith("dtype f64")


def test_a_supported_program_passes():
    check(trace(nn.ReLU(), (torch.ones(2),)), capabilities(), "toy")
