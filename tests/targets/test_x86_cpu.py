"""x86_cpu: the library itself on this machine, where it is one, against PyTorch eager."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgecc.errors import UsageError
from edgecc.targets.tvm_cpu.runners import find_runners
from edgecc.targets.x86_cpu.target import X86Cpu
from edgecc.testing import trace_function
from tests.targets.cpu_host import SmallNet, TwoHeads, compile_for, largest_difference

# One float32 reassociation over at most 256 terms of magnitude 1.
CLOSE = 1e-5


@pytest.mark.slow
def test_the_library_runs_on_this_machine_as_pytorch_does(tmp_path: Path) -> None:
    target = X86Cpu(cpu="x86-64-v2")
    if not target.machine.is_this_machine():
        pytest.skip("this is no x86-64 Linux machine")
    program = trace_function(SmallNet(), torch.randn(1, 2, 8, 8))
    facts = compile_for(target, program, tmp_path)
    (runner,) = find_runners(tmp_path, facts)
    assert (runner.runtime, runner.note) == ("native x86-64", "")
    assert not (tmp_path / "host").exists()
    assert largest_difference(program, runner, torch.randn(1, 2, 8, 8)) <= CLOSE


@pytest.mark.slow
def test_integer_inputs_and_several_outputs(tmp_path: Path) -> None:
    target = X86Cpu()
    if not target.machine.is_this_machine():
        pytest.skip("this machine is no x86-64-v3")
    tokens = torch.randint(0, 11, (2, 6))
    program = trace_function(TwoHeads(), tokens)
    (runner,) = find_runners(tmp_path, compile_for(target, program, tmp_path))
    assert largest_difference(program, runner, tokens) <= CLOSE


@pytest.mark.slow
def test_a_program_that_computes_nothing_gives_its_input_back(tmp_path: Path) -> None:
    target = X86Cpu(cpu="x86-64-v2")
    if not target.machine.is_this_machine():
        pytest.skip("this is no x86-64 Linux machine")
    program = trace_function(lambda x: (x, x), torch.arange(3))
    (runner,) = find_runners(tmp_path, compile_for(target, program, tmp_path))
    assert largest_difference(program, runner, torch.arange(5, 8)) == 0


def test_the_default_does_not_depend_on_this_machine() -> None:
    assert X86Cpu().machine.llvm_target == {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}


def test_an_arm_cpu_is_no_x86_cpu() -> None:
    with pytest.raises(UsageError, match="unknown cpu of x86_cpu: 'cortex-a72'"):
        X86Cpu(cpu="cortex-a72")


def test_a_misspelt_cpu_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'haswell'"):
        X86Cpu(cpu="haswel")
