"""Models that need no runtime, run by edgecc_model.py, against PyTorch eager."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgecc.errors import ContractError, UsageError
from edgecc.ir.program import Program
from edgecc.ir.signature import Dim
from edgecc.pipeline.context import PassContext
from edgecc.targets.tvm_cpu.runners import find_runners
from edgecc.targets.x86_cpu.target import X86Cpu
from edgecc.testing import trace_function
from tests.targets.cpu_host import SmallNet, TwoHeads, arrays, compile_for, largest_difference
from tests.targets.standalone_host import here, objects, pair, runner

pytestmark = pytest.mark.slow

# One float32 reassociation over at most 256 terms of magnitude 1.
CLOSE = 1e-5


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24), nn.LayerNorm(24), nn.Softmax(-1))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    ("model", "inputs"),
    [(mlp(), (torch.randn(7, 24),)), (SmallNet(), (torch.randn(3, 2, 8, 8),)), (TwoHeads(), (torch.randint(0, 11, (2, 6)),))],
    ids=["mlp", "conv", "integers"],
)
def test_a_model_gives_what_pytorch_gives_on_any_number_of_threads(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], threads: int, tmp_path: Path
) -> None:
    program = trace_function(model, *inputs)
    objects(program, tmp_path, here())
    assert largest_difference(program, runner(program, tmp_path / "model.so", threads), *inputs) <= CLOSE


def test_reshaped_passed_through_repeated_and_constant_outputs(tmp_path: Path) -> None:
    program = pair()
    objects(program, tmp_path, here())
    inputs = torch.randn(6, 24), torch.randint(0, 10, (6,))
    assert largest_difference(program, runner(program, tmp_path / "model.so"), *inputs) <= CLOSE


def test_every_size_in_bounds_runs_in_one_process_and_others_are_refused(tmp_path: Path) -> None:
    program = pair(dynamic=True)
    objects(program, tmp_path, here())
    cases = [(torch.randn(n, 24), torch.randint(0, 10, (n,))) for n in (6, 1, 4)]
    ready = runner(program, tmp_path / "model.so", 2)
    found = ready.run_many([arrays(program, case) for case in cases])
    for outputs, case in zip(found, cases, strict=True):
        for array, tensor in zip(outputs.values(), program(*case), strict=True):
            np.testing.assert_allclose(array, tensor.detach().numpy(), rtol=0, atol=CLOSE)
    with pytest.raises(UsageError, match=r"dimension batch is 7, want 1\.\.6"):
        ready.run(arrays(program, (torch.randn(7, 24), torch.randint(0, 10, (7,)))))


def test_the_library_itself_checks_sizes_that_must_agree(tmp_path: Path) -> None:
    program = pair(dynamic=True)
    objects(program, tmp_path, here())
    ready = runner(program, tmp_path / "model.so")

    class Unchecked:
        bind = staticmethod(lambda case: [*case.values()])

    object.__setattr__(ready, "interface", Unchecked())
    with pytest.raises(UsageError, match=r"tokens has size 3 at axis 0, want batch in 1\.\.6, which is 4 here"):
        ready.run(arrays(program, (torch.randn(4, 24), torch.randint(0, 10, (3,)))))


class Windows(nn.Module):
    """A size that is an expression of the input's, `frames // 2 + 1` at most, and a product of two."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = nn.functional.avg_pool1d(x, 3, stride=2, padding=1)
        return pooled.relu() + 1, x.flatten(0, 1) * 2


def test_output_sizes_are_expressions_of_input_sizes(tmp_path: Path) -> None:
    dims = {"x": {0: Dim("batch", 1, 4), 2: Dim("frames", 4, 33)}}
    program = trace_function(Windows(), torch.randn(2, 3, 9), dims=dims)
    objects(program, tmp_path, here())
    ready = runner(program, tmp_path / "model.so")
    for batch, frames in ((4, 33), (1, 4), (3, 10)):
        assert largest_difference(program, ready, torch.randn(batch, 3, frames)) <= CLOSE


def test_a_program_that_computes_nothing_gives_its_input_back(tmp_path: Path) -> None:
    program = trace_function(lambda x: (x, x), torch.arange(3))
    objects(program, tmp_path, here())
    assert largest_difference(program, runner(program, tmp_path / "model.so"), torch.arange(5, 8)) == 0


def test_a_dimension_without_an_upper_bound_needs_the_runtime_and_says_so(tmp_path: Path) -> None:
    target, context = x86(), PassContext()
    program = trace_function(SmallNet(), torch.randn(2, 2, 8, 8), dims={"x": {0: Dim("batch", 1)}})
    facts = target.lower(program, tmp_path, context).facts
    assert (facts["runtime"], "memory" in facts, (tmp_path / "include").exists()) == ("vm", False, False)
    (remark,) = context.remarks.of(target.name, "missed")
    assert "needs the TVM runtime (runtime=vm): the dimension" in remark.message
    assert "has no upper bound" in remark.message
    (ready,) = find_runners(tmp_path, facts)
    assert largest_difference(program, ready, torch.randn(9, 2, 8, 8)) <= CLOSE


def test_the_virtual_machine_is_an_option(tmp_path: Path) -> None:
    program = trace_function(SmallNet(), torch.randn(1, 2, 8, 8))
    facts = compile_for(X86Cpu(cpu="x86-64-v2", runtime="vm"), program, tmp_path)
    assert facts["runtime"] == "vm" and not (tmp_path / "model.a").exists()
    assert b"vm_load_executable" in (tmp_path / "model.so").read_bytes() or b"__tvm_ffi" in (tmp_path / "model.so").read_bytes()
    (ready,) = find_runners(tmp_path, facts)
    assert largest_difference(program, ready, torch.randn(1, 2, 8, 8)) <= CLOSE


def test_a_damaged_library_is_a_broken_contract(tmp_path: Path) -> None:
    program: Program = pair()
    objects(program, tmp_path, here())
    (tmp_path / "model.so").write_bytes(b"no library")
    with pytest.raises(ContractError, match=r"failed with exit code 1 .*model\.so"):
        runner(program, tmp_path / "model.so").run(arrays(program, (torch.randn(6, 24), torch.randint(0, 10, (6,)))))


def test_unknown_runtimes_and_symbols_that_are_no_c_names_are_refused() -> None:
    for options, message in (
        ({"runtime": "jit"}, "runtime is 'jit', want c or vm"),
        ({"symbol": "1x"}, "symbol is '1x', want a C name"),
        ({"prefer": "accuracy"}, "prefer is 'accuracy', want speed or size"),
    ):
        with pytest.raises(UsageError, match=message):
            X86Cpu(**options)  # type: ignore[arg-type]


def x86() -> X86Cpu:
    here()
    return X86Cpu(cpu="x86-64-v2")
