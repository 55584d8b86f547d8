"""arm_cpu: the ARM binary itself, under qemu where this is no ARM machine, against PyTorch eager."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

from edgecc.errors import ContractError, MissingToolError, UsageError
from edgecc.ir.capture import trace
from edgecc.ir.signature import Dim
from edgecc.passes.fold_batch_norm import FoldBatchNorm
from edgecc.targets.arm_cpu.target import ArmCpu
from edgecc.targets.tvm_cpu.runners import find_runners
from edgecc.testing import apply, trace_function
from tests.targets.cpu_host import DATA, SmallNet, TwoHeads, arm_runner, arrays, compile_for, largest_difference

# One float32 reassociation over at most 256 terms of magnitude 1.
CLOSE = 1e-5


@pytest.mark.slow
def test_resnet20_under_the_emulator_is_the_one_of_pytorch(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip("../shared/data is not here")
    spec = importlib.util.spec_from_file_location("resnet_cifar", DATA / "resnet_cifar.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.resnet20()
    model = made[0] if isinstance(made, tuple) else made
    model.load_state_dict(torch.load(DATA / "resnet20_cifar.pt", weights_only=True))
    torch.manual_seed(0)
    program = trace(model, (torch.randn(1, 3, 32, 32),))
    apply(FoldBatchNorm(), program)
    runner = arm_runner(tmp_path, compile_for(ArmCpu(), program, tmp_path))
    x = torch.randn(1, 3, 32, 32)
    found = torch.from_numpy(runner.run({"x": x.numpy()})["output"])
    with torch.no_grad():
        torch.testing.assert_close(found, model.eval()(x), rtol=0, atol=1e-4)  # 20 layers of reassociated float32


@pytest.mark.slow
def test_every_batch_size_in_bounds_runs_and_the_next_one_is_refused(tmp_path: Path) -> None:
    program = trace_function(SmallNet(), torch.randn(2, 2, 8, 8), dims={"x": {0: Dim("batch", 1, 4)}})
    runner = arm_runner(tmp_path, compile_for(ArmCpu(), program, tmp_path))
    torch.manual_seed(1)
    for batch in (1, 3, 4):
        assert largest_difference(program, runner, torch.randn(batch, 2, 8, 8)) <= CLOSE
    with pytest.raises(UsageError, match=r"dimension batch is 5, want 1\.\.4"):
        runner.run(arrays(program, [torch.randn(5, 2, 8, 8)]))


@pytest.mark.slow
def test_integer_inputs_and_several_named_outputs(tmp_path: Path) -> None:
    tokens = torch.randint(0, 11, (2, 6))
    program = trace_function(TwoHeads(), tokens)
    runner = arm_runner(tmp_path, compile_for(ArmCpu(), program, tmp_path))
    assert largest_difference(program, runner, tokens) <= CLOSE
    with pytest.raises(UsageError, match="tokens is int32, want int64"):
        runner.run(arrays(program, [tokens.int()]))


@pytest.mark.slow
def test_several_cases_run_in_one_process_in_order(tmp_path: Path) -> None:
    program = trace_function(SmallNet(), torch.randn(1, 2, 8, 8))
    runner = arm_runner(tmp_path, compile_for(ArmCpu(), program, tmp_path))
    inputs = [torch.full((1, 2, 8, 8), float(value)) for value in range(3)]
    found = runner.run_many([arrays(program, [x]) for x in inputs])
    for outputs, x in zip(found, inputs, strict=True):
        torch.testing.assert_close(torch.from_numpy(outputs["output"]), program(x)[0], rtol=0, atol=CLOSE)


@pytest.mark.slow
def test_the_runtime_names_what_was_emulated(tmp_path: Path) -> None:
    facts = compile_for(ArmCpu(), trace_function(SmallNet(), torch.randn(1, 2, 8, 8)), tmp_path)
    runner = arm_runner(tmp_path, facts)
    if runner.runtime.startswith("native"):
        pytest.skip("this is an ARM machine, nothing is emulated")
    assert (runner.runtime, runner.emulated) == ("qemu-aarch64 cortex-a72", True)
    other = find_runners(tmp_path, {**facts, "cpu": "generic-armv8"})[0]
    assert other.runtime == "qemu-aarch64 cortex-a53 (for generic-armv8)"


@pytest.mark.slow
def test_without_an_emulator_the_host_build_runs_and_says_why(tmp_path: Path) -> None:
    program = trace_function(SmallNet(), torch.randn(1, 2, 8, 8))
    facts = compile_for(ArmCpu(), program, tmp_path)
    if facts["host"] is None:
        pytest.skip("this machine runs the ARM binary itself")
    (runner,) = find_runners(tmp_path, facts, path="")
    assert runner.runtime.startswith("host ")
    assert "not the deployed binary" in runner.note
    assert "qemu-aarch64 is not installed" in runner.note
    assert largest_difference(program, runner, torch.randn(1, 2, 8, 8)) <= CLOSE


@pytest.mark.slow
def test_without_the_device_runtime_the_host_build_runs_and_says_why(tmp_path: Path) -> None:
    program = trace_function(SmallNet(), torch.randn(1, 2, 8, 8))
    target = ArmCpu(runtime="vm", device_runtime=str(tmp_path / "nothing"))
    facts = compile_for(target, program, tmp_path)
    if facts["host"] is None:
        pytest.skip("this machine runs the ARM binary itself")
    assert facts["runner"] == "not built: the TVM runtime for aarch64-linux-gnu is not here"
    assert not (tmp_path / "device" / "runner").exists()
    (runner,) = target.runners(tmp_path, {"facts": facts})
    assert runner.runtime.startswith("host ")


@pytest.mark.slow
def test_without_any_runtime_the_error_lists_what_to_install(tmp_path: Path) -> None:
    facts = compile_for(ArmCpu(), trace_function(SmallNet(), torch.randn(1, 2, 8, 8)), tmp_path)
    if facts["host"] is None:
        pytest.skip("this machine runs the ARM binary itself")
    with pytest.raises(MissingToolError, match="apt-get install qemu-user"):
        find_runners(tmp_path, {**facts, "host": None}, path="")


@pytest.mark.slow
def test_a_damaged_library_is_a_broken_contract_with_the_runtimes_message(tmp_path: Path) -> None:
    program = trace_function(SmallNet(), torch.randn(1, 2, 8, 8))
    runner = arm_runner(tmp_path, compile_for(ArmCpu(), program, tmp_path))
    inputs = arrays(program, [torch.randn(1, 2, 8, 8)])
    whole = (tmp_path / "model.so").read_bytes()
    (tmp_path / "model.so").write_bytes(whole[:1000])
    with pytest.raises(ContractError, match=r"the model (failed|ended)"):
        runner.run(inputs)
    (tmp_path / "model.so").write_bytes(b"no library")
    with pytest.raises(ContractError, match=r"failed with exit code 1 .*model\.so"):
        runner.run(inputs)


@pytest.mark.slow
def test_a_runtime_that_takes_too_long_is_a_broken_contract(tmp_path: Path) -> None:
    program = trace_function(SmallNet(), torch.randn(1, 2, 8, 8))
    runner = find_runners(tmp_path, compile_for(ArmCpu(), program, tmp_path))[0]
    with pytest.raises(ContractError, match=r"did not finish on .* within 0\.001 s"):
        dataclasses.replace(runner, seconds=0.001).run(arrays(program, [torch.randn(1, 2, 8, 8)]))


@pytest.mark.slow
def test_armv7_and_android_libraries_are_built_and_their_program_verified_on_the_host(tmp_path: Path) -> None:
    program = trace_function(SmallNet(), torch.randn(1, 2, 8, 8))
    for target, header in (
        (ArmCpu(cpu="cortex-a7", triple="arm-linux-gnueabihf"), b"\x7fELF\x01"),
        (ArmCpu(cpu="cortex-a78", triple="aarch64-linux-android"), b"\x7fELF\x02"),
    ):
        directory = tmp_path / target.triple
        directory.mkdir()
        facts = compile_for(target, program, directory)
        assert (directory / "model.so").read_bytes().startswith(header)
        if facts["host"] is not None:
            assert largest_difference(program, find_runners(directory, facts, path="")[0], torch.randn(1, 2, 8, 8)) <= CLOSE
    assert b"libm.so\0" in (tmp_path / "aarch64-linux-android" / "model.so").read_bytes()


@pytest.mark.slow
def test_the_artifact_names_no_path_of_this_machine(tmp_path: Path) -> None:
    compile_for(ArmCpu(), trace_function(SmallNet(), torch.randn(1, 2, 8, 8)), tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    wanted = {"model.so", "model.a", "model.txt", "include/edgecc_model.h", "example.c", "edgecc_model.py", "README.txt"}
    wanted |= {"device/runner.cc", "device/runner.h", "device/CMakeLists.txt", "device/README.txt"}
    assert wanted <= {str(path.relative_to(tmp_path)) for path in files}
    for path in files:
        content = path.read_bytes()
        for place in (str(Path.home()), "/tmp/", str(Path(__file__).parents[2])):
            assert place.encode() not in content, f"{path} names {place}"


def test_an_unknown_cpu_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"cpu of arm_cpu: 'cortex-a73'[\s\S]*did you mean 'cortex-a7"):
        ArmCpu(cpu="cortex-a73")


def test_an_x86_cpu_is_no_arm_cpu() -> None:
    with pytest.raises(UsageError, match="unknown cpu of arm_cpu: 'haswell'"):
        ArmCpu(cpu="haswell")


def test_an_unknown_triple_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'aarch64-linux-android'"):
        ArmCpu(triple="arm64-linux-android")


def test_an_armv7_cpu_on_an_armv8_platform_is_refused_with_the_platform_that_fits() -> None:
    with pytest.raises(UsageError, match="triple=arm-linux-gnueabihf fits"):
        ArmCpu(cpu="cortex-a7")


def test_no_threads_are_refused() -> None:
    with pytest.raises(UsageError, match="threads is 0"):
        ArmCpu(threads=0)


def test_the_tvm_runtime_of_the_device_is_required_where_it_executes_the_model_only() -> None:
    assert not [r for r in ArmCpu().requirements() if r.name.startswith("TVM runtime")]


@pytest.mark.slow
def test_the_virtual_machine_runs_the_same_model_under_the_emulator(tmp_path: Path) -> None:
    program = trace_function(SmallNet(), torch.randn(2, 2, 8, 8), dims={"x": {0: Dim("batch", 1, None)}})
    runner = arm_runner(tmp_path, compile_for(ArmCpu(runtime="vm"), program, tmp_path))
    assert largest_difference(program, runner, torch.randn(5, 2, 8, 8)) <= CLOSE


def test_requirements_name_what_is_missing_and_never_raise(tmp_path: Path) -> None:
    found = {r.name: r for r in ArmCpu(runtime="vm", device_runtime=str(tmp_path)).requirements()}
    assert found["apache-tvm-ffi"].required
    assert "apache-tvm-ffi==0.1.14.post0" in found["apache-tvm-ffi"].install
    runtime = found.get("TVM runtime for aarch64-linux-gnu")
    if runtime is None:
        pytest.skip("this machine runs the ARM binary itself")
    assert (runtime.found, runtime.required) == ("", False)
    assert runtime.install == "python -m edgecc.targets.tvm_cpu.device_runtime aarch64"
