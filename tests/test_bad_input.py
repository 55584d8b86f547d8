"""Bad input to the command line: the right exit code, one clear message, nothing run that was not agreed to, nothing left behind."""

# ruff: noqa: F811  a test takes a fixture by the name that it was imported under
from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import ROOT
from tests.cli.conftest import HOST, edgecc, folder  # noqa: F401  fixtures
from tests.frontend.archives import Command, torch_saved

MODELS = ROOT / "tests/odd_models.py"
FAST = ["--load", HOST, "--target", "torch_host", "-o", "out", "--progress", "none"]
EXTENSIONS = ["pt", "pth", "pt2", "bin"]


def refused(result, code: int, *parts: str) -> None:
    """One message with these parts and no traceback."""
    assert result.code == code, result.err
    assert result.err.startswith("edgecc: error: ") and result.err.count("edgecc:") == 1, result.err
    assert "Traceback" not in result.err and result.out == ""
    for part in parts:
        assert part in result.err


def line_of(text: str) -> str:
    """`odd_models.py:LINE` of the only line that holds a text."""
    (number,) = (n for n, line in enumerate(MODELS.read_text().splitlines(), 1) if text in line)
    return f"odd_models.py:{number}"


# Files


@pytest.mark.parametrize("flags", [[], ["--model", f"{MODELS}:architecture", "--input", "input:f32[2,4]"]], ids=["alone", "weights"])
@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (np.random.default_rng(1).bytes(5000), "is no model file that edgecc knows (it starts with ff e4"),
        (torch_saved({"0.weight": torch.eye(3, 4)})[:400], "is a damaged or truncated zip archive"),
        (b"PK\x03\x04", "is a damaged or truncated zip archive"),
        (b"\x80", "is no model file"),
    ],
    ids=["missing", "empty", "random", "truncated", "header", "byte"],
)
def test_a_file_that_is_no_model_is_named(edgecc, tmp_path, folder, content, message, extension, flags):
    file = tmp_path / f"model.{extension}"
    if content is not None:
        file.write_bytes(content)
    before = folder()
    refused(edgecc("compile", file.name, *flags, *FAST), 2, file.name, message)
    assert folder() == before


@pytest.mark.parametrize("flags", [[], ["--model", f"{MODELS}:architecture", "--input", "input:f32[2,4]"]], ids=["alone", "weights"])
@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("shape", ["bare", "protocol 0", "torch.save", "legacy torch.save", "zip"])
def test_a_pickle_that_would_run_a_program_is_refused_and_not_run(edgecc, tmp_path, folder, shape, extension, flags):
    file, danger = tmp_path / f"model.{extension}", Command("touch ran")
    if shape == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model/data.pkl", pickle.dumps(danger))
            archive.writestr("model/version", "3")
    else:
        file.write_bytes(
            {
                "bare": lambda: pickle.dumps(danger),
                "protocol 0": lambda: pickle.dumps(danger, 0),
                "torch.save": lambda: torch_saved({"0.weight": danger}),
                "legacy torch.save": lambda: torch_saved({"0.weight": danger}, _use_new_zipfile_serialization=False),
            }[shape]()
        )
    refused(edgecc("compile", file.name, *flags, *FAST), 6, "would run", "system", "--allow-pickle")
    assert folder() == [file.name]


def test_a_pickle_inside_another_zip_is_not_run(edgecc, tmp_path, folder):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("setup.pkl", pickle.dumps(Command("touch ran")))
    refused(edgecc("compile", "model.pt", *FAST), 2, "is a zip archive of setup.pkl, not a PyTorch model")
    assert folder() == ["model.pt"]


def test_a_pipe_is_refused_and_not_waited_for(edgecc, tmp_path):
    os.mkfifo(tmp_path / "model.pt")
    refused(edgecc("compile", "model.pt", *FAST), 2, "is a pipe or a device")


# Weights


def test_every_weight_that_does_not_fit_is_listed(edgecc, tmp_path, folder):
    torch.save({"0.weigth": torch.eye(3, 4), "0.bias": torch.zeros(2), "extra": torch.zeros(1)}, tmp_path / "w.pt")
    result = edgecc("compile", "w.pt", "--model", f"{MODELS}:architecture", "--input", "input:f32[2,4]", *FAST)
    refused(
        result,
        2,
        "missing: 0.weight f32[3, 4] (did you mean '0.weigth'?)",
        "unexpected: 0.weigth",
        "unexpected: extra f32[1]",
        "mis-shaped: 0.bias is f32[2], want f32[3]",
    )
    assert folder() == ["w.pt"]


def test_weights_that_are_not_finite_are_all_named(edgecc, folder):
    refused(edgecc("compile", f"{MODELS}:with_nan_weights", *FAST), 2, "weight (2), bias (1), mean (1)", "--allow-nonfinite")
    assert folder() == []


# Inputs


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("z:f32[2,4]", "takes no input 'z'"),
        ("x:i64[2,4]", "is i64, but the model's example is f32"),
        ("x:f32[2,4,1]", "has 3 dimensions, but the model's example has 2"),
        ("x:f33[2,4]", "unknown dtype 'f33'"),
        ("x:f32[2,4", "is wrong at character 10: want ']'"),
        ("x:f32[-2,4]", "is wrong at character 7"),
        ("x:f32[b=8..2,4]", "the bounds of b=8..2 are the wrong way round"),
        ("x:f32[b=0..0,4]", "the bounds of b=0..0 allow no size above 0"),
        ("x:f32[b=1..1,4]", "cannot be dynamic: it takes no size above 1"),
        ("x:f32[99999999999999,4]", "cannot be made"),
        ("x:f32[99999999999999999999,4]", "cannot be made"),
        ("x=absent.npy", "absent.npy cannot be read"),
        ("x=objects.npy", "Object arrays cannot be loaded"),
        ("x=letters.npy", "cannot be read: can't convert"),
        ("", "is wrong at character 1: want a name"),
    ],
)
def test_a_wrong_input_is_one_clear_message(edgecc, tmp_path, folder, spec, message):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "letters.npy", np.array(["a"]))
    refused(edgecc("compile", f"{MODELS}:no_parameters", "--input", spec, *FAST), 2, message)
    assert folder() == ["letters.npy", "objects.npy"]


# Models


@pytest.mark.parametrize(
    ("factory", "code", "parts"),
    [
        ("raises", 2, ["failed: KeyError: 'config'", line_of('raise KeyError("config")')]),
        ("exits", 2, ["failed: SystemExit: 0", "odd_models.py:"]),
        ("imports_what_is_missing", 2, ["No module named 'no_such_package_anywhere'", line_of("import no_such_package")]),
        ("returns_a_number", 2, ["returned int, want a torch.nn.Module or (module, example_inputs)"]),
        ("returns_three_things", 2, ["returned ReLU, Tensor, Tensor, want"]),
        ("returns_a_class", 2, ["returned type, want"]),
        ("returns_bad_examples", 2, ["example inputs of type str"]),
        ("no_paramters", 2, ["has no 'no_paramters'", "did you mean 'no_parameters'?"]),
        ("exits_in_forward", 2, ["ended the process with sys.exit(0)"]),
        ("fails_in_forward", 3, ["no weather data", line_of("no weather data")]),
        ("branches", 3, ["torch.export could not trace Branches", line_of("int(x.sum().item())")]),
        ("random", 3, ["does not compute what the model computes"]),
        ("returns_nothing", 3, ["the model returns no tensor"]),
    ],
)
def test_a_bad_factory_or_model_is_one_message_with_the_users_line(edgecc, folder, factory, code, parts):
    refused(edgecc("compile", f"{MODELS}:{factory}", *FAST), code, *parts)
    assert folder() == []


def test_even_what_is_no_exception_becomes_an_exit_code(edgecc):
    result = edgecc("compile", f"{MODELS}:raises_what_is_no_exception", *FAST)
    assert result.code == 70 and "NotAnException: from far below" in result.err and "Traceback" not in result.err


def test_a_factory_that_changes_the_folder_does_not_move_the_output(edgecc, tmp_path):
    assert edgecc("compile", f"{MODELS}:changes_the_folder", *FAST).code == 0
    assert (tmp_path / "out/manifest.json").is_file() and Path.cwd() == tmp_path


def test_every_unsupported_operator_is_named_with_its_line(edgecc, folder):
    pytest.importorskip("tvm")
    refused(
        edgecc("compile", f"{MODELS}:exotic", "--target", "arm_cpu", "-o", "out", "--progress", "none"),
        4,
        "arm_cpu cannot lower 3 kind(s) of operator",
        f"aten.linalg_eigvalsh: no lowering to TVM\n    at {line_of('eigvalsh(gram)')}",
        f"aten.special_i0: no lowering to TVM\n    at {line_of('special.i0(values)')}",
        f"aten.erfinv: no lowering to TVM\n    at {line_of('erfinv(bessel')}",
    )
    assert folder() == []


def test_a_tensor_without_elements_is_refused_by_name_on_a_cpu(edgecc, folder):
    pytest.importorskip("tvm")
    result = edgecc("compile", f"{MODELS}:empty_tensors", "--target", "arm_cpu", "-o", "out", "--progress", "none")
    refused(result, 4, "aten.relu: a tensor without elements", "odd_models.py:")
    assert folder() == []


EDGES = {
    "no_parameters": ["output"],
    "scalar_output": ["output"],
    "duplicate_outputs": ["output_0", "output_1.again", "output_2"],
    "returns_its_input_and_weights": ["output_0", "output_1", "output_2", "output_3"],
    "returns_its_input_only": ["output"],
    "returns_a_weight_only": ["output"],
    "integers_only": ["output_0", "output_1"],
    "not_a_number": ["output"],
    "infinite": ["output"],
    "huge_constant_output": ["output_0", "output_1"],
    "no_inputs": ["output"],
}


@pytest.mark.parametrize("factory", EDGES)
def test_a_model_at_the_edge_compiles(edgecc, factory):
    result = edgecc("compile", f"{MODELS}:{factory}", *FAST, "--json")
    assert result.code == 0, result.err
    assert result.document["verify"]["runtimes"][0]["equal"]


@pytest.mark.slow
@pytest.mark.parametrize("factory", EDGES)
def test_a_model_at_the_edge_runs_on_a_cpu_as_in_pytorch(edgecc, tmp_path, factory):
    """The outputs stored beside the artifact are PyTorch's own; `run` compares nothing, so the library itself is asked."""
    pytest.importorskip("tvm")
    result = edgecc("compile", f"{MODELS}:{factory}", "--target", "x86_cpu", "-o", "out", "--progress", "none")
    assert result.code == 0, result.err
    with np.load(tmp_path / "out/reference/case-00.npz") as case:
        wanted = {name.removeprefix("output/"): case[name] for name in case.files if name.startswith("output/")}
        if "input/x" in case.files:
            np.save(tmp_path / "x.npy", case["input/x"])
    given = ["--input", "x=x.npy"] if (tmp_path / "x.npy").exists() else []
    assert edgecc("run", "out", *given, "-o", "found.npz", "-q").code == 0
    with np.load(tmp_path / "found.npz") as found:
        assert found.files == EDGES[factory]
        for name, want in wanted.items():
            # 1e-6: sums of at most eight float32 numbers of size one, and one logarithm
            np.testing.assert_allclose(found[name], want, rtol=1e-6, atol=1e-6, equal_nan=True)


# Names


def test_the_target_shows_every_processor_and_platform_that_it_takes(edgecc):
    from edgecc.targets.tvm_cpu.machines import CPUS, TRIPLES

    shown = edgecc("targets", "show", "arm_cpu").out
    assert [n for table in (CPUS, TRIPLES) for n, v in table.items() if v.arch != "x86_64" and n not in shown] == []


@pytest.mark.parametrize(
    ("flags", "message", "hint"),
    [
        (["--target", "arm_cup"], "unknown target 'arm_cup'", "did you mean 'arm_cpu'?"),
        (["--target", "arm_cpu", "--cpu", "cortexa72"], "cortexa72", "did you mean 'cortex-a72'?"),
        (["--target", "arm_cpu", "--triple", "aarch64-linux-gun"], "aarch64-linux-gun", "did you mean 'aarch64-linux-gnu'?"),
        (["--target", "arm_cpu", "--insert", "fuse:fuse-gelo"], "unknown pass 'fuse-gelo'", "did you mean 'fuse-gelu'?"),
        (["--target", "arm_cpu", "--insert", "fusion:fuse-gelu"], "unknown phase 'fusion'", "did you mean 'fuse'?"),
        (["--target", "arm_cpu", "--disable-pass", "fuse-gelo"], "'fuse-gelo'", "did you mean 'fuse-gelu'?"),
        (["--target", "arm_cpu", "--stop-after", "cannonicalize"], "'cannonicalize'", "did you mean 'canonicalize'?"),
        (["--target", "arm_cpu", "--overwite"], "'--overwite'", "did you mean '--overwrite'?"),
        (["--target", "arm_cpu", "--set", "target_options.threds=2"], "'threds'", "did you mean 'threads'?"),
        (["--target", "arm_cpu", "--set", "options.tolerence=1"], "'options.tolerence'", "did you mean 'options.tolerance'?"),
        (["--recipe", "recipe.toml"], "unknown recipe key 'tagret'", "did you mean 'target'?"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(edgecc, tmp_path, folder, flags, message, hint):
    (tmp_path / "recipe.toml").write_text('tagret = "arm_cpu"\n')
    refused(edgecc("compile", f"{MODELS}:no_parameters", *flags, "-o", "out"), 2, message, hint)
    assert folder() == ["recipe.toml"]
