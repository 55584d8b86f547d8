"""The C interface of a compiled model: every misuse is a status and a message, and nothing is read or written out of bounds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from edgecc.ir import capture
from edgecc.targets.tvm_cpu.standalone import library
from tests.models import build
from tests.targets.standalone_host import C, c_program, here, objects, pair, write_raw

pytestmark = pytest.mark.slow

REFUSALS = """\
null model: 1 a pointer is null
null memory: 1 a pointer is null
null instance: 1 a pointer is null
unaligned memory: 2 memory is not aligned to 64 bytes
small memory: 6 memory is too small
no threads: 8 the thread count is out of bounds, or a thread could not be started
many threads: 8 the thread count is out of bounds, or a thread could not be started
run of null: 1 a pointer is null
no such port: 0
few inputs: 3 the number of inputs is wrong
few outputs: 3 the number of outputs is wrong
null inputs: 1 the inputs are null
null outputs: 1 the outputs are null
null data: 1 x has null data
unaligned input: 2 x is not aligned to 64 bytes
dtype: 4 x has the wrong type
no dtype: 4 x has the wrong type
rank: 5 x has rank 1, want 2
null shape: 1 x has a null shape
small input: 6 x has 575 bytes, want 576
large size: 5 x has size 7 at axis 0, want batch in 1..6
negative size: 5 x has size -1 at axis 0, want batch in 1..6
null output: 1 {first} has null data
unaligned output: 2 {first} is not aligned to 64 bytes
small output: 6 {first} has 383 bytes, want 384
output size: 5 {first} has size 5 at axis 0, want batch in 1..6, which is 6 here
output in input: 7 {first} overlaps an input
outputs overlap: 7 {second} overlaps another output
right 10
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a model, its sources and a case, and what must be printed."""
    folder = tmp_path_factory.mktemp("standalone")
    program = pair(dynamic=True)
    objects(program, folder, here())
    torch.manual_seed(2)
    inputs = torch.randn(6, 24), torch.randint(0, 10, (6,))
    write_raw(folder, inputs, program(*inputs))
    first, second = (s.name for s in program.signature.outputs[:2])
    return folder, REFUSALS.format(first=first, second=second)


def run(folder: Path, program: Path, threads: int, *before: str) -> str:
    done = subprocess.run([*before, str(program), str(folder), str(threads)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.parametrize("threads", [1, 3])
def test_misuse_is_refused_and_two_instances_run_at_once(built: tuple[Path, str], threads: int) -> None:
    folder, wanted = built
    program = c_program(folder, [C / "use_and_misuse.c", "model.a"])
    assert run(folder, program, threads) == wanted


@pytest.mark.parametrize("threads", [1, 2])
def test_the_address_and_undefined_behaviour_sanitizers_find_nothing(built: tuple[Path, str], threads: int) -> None:
    folder, wanted = built
    sources = [C / "use_and_misuse.c", "model.c", "edgecc_runtime.c", "weights.S", "kernels.o"]
    program = c_program(folder, sources, "-O1", "-Wno-overflow", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    assert run(folder, program, threads) == wanted


@pytest.mark.parametrize("threads", [1, 2])
def test_the_thread_sanitizer_finds_nothing(built: tuple[Path, str], threads: int) -> None:
    folder, wanted = built
    sources = [C / "use_and_misuse.c", "model.c", "edgecc_runtime.c", "weights.S", "kernels.o"]
    program = c_program(folder, sources, "-O1", "-fsanitize=thread", "-no-pie", "-Wno-error=tsan")
    assert run(folder, program, threads, "setarch", "-R") == wanted


@pytest.mark.parametrize("threads", [1, 2])
def test_valgrind_finds_nothing(built: tuple[Path, str], threads: int) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    folder, wanted = built
    program = c_program(folder, [C / "use_and_misuse.c", "model.a"])
    assert run(folder, program, threads, "valgrind", "-q", "--error-exitcode=9", "--leak-check=full") == wanted


def test_nothing_is_allocated_while_it_runs(built: tuple[Path, str]) -> None:
    folder, _ = built
    calls = subprocess.run(["nm", "-u", str(folder / "model.a")], capture_output=True, text=True, check=True).stdout.split()
    allowed = {"memcpy", "memset", "memmove", "syscall", "sched_yield", "pthread_create", "pthread_join"}
    ours = {c for c in calls if c.startswith("compiled_model")}
    assert {c for c in calls if len(c) > 1 and not c.endswith(":")} - ours <= allowed


def test_two_models_are_linked_into_one_program(tmp_path: Path) -> None:
    for symbol in ("left", "right"):
        objects(pair(), tmp_path / symbol, here(), symbol)
    (tmp_path / "both.c").write_text(
        '#include <stdio.h>\n#include "edgecc_model.h"\nextern const edgecc_model left, right;\n'
        'int main(void) { printf("%d %d\\n", edgecc_model_inputs(&left), edgecc_model_outputs(&right)); return 0; }\n'
    )
    program = c_program(tmp_path / "left", [tmp_path / "both.c", "model.a", "../right/model.a"])
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "2 6\n"


MODELS = (
    *("residual_mlp", "mlp_mixer", "ds_cnn", "lstm_spotter", "gru_spotter"),
    *("bert_sdpa", "tcn", "recommender", "controller", "conv_autoencoder"),
)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_the_zoo_are_clean_under_valgrind_and_the_sanitizers(name: str, tmp_path: Path) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    model, args, kwargs = build(name)
    objects(capture.trace(model, args, kwargs), tmp_path, here())
    example = library.SOURCES / "example.c"
    plain = c_program(tmp_path, [example, "model.a"])
    subprocess.run(["valgrind", "-q", "--error-exitcode=9", "--leak-check=full", plain, "2"], check=True, capture_output=True, timeout=300)
    sources = [example, "model.c", "edgecc_runtime.c", "weights.S", "kernels.o"]
    checked = c_program(tmp_path, sources, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    subprocess.run([checked, "2"], check=True, capture_output=True, timeout=300)
