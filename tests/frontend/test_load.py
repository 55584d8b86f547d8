"""Every kind of MODEL becomes a program that computes what the original model does, or one clear error."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgecc.errors import CaptureError, RefusedError, UsageError
from edgecc.frontend.load import Loaded, load
from edgecc.ir import archive
from tests.frontend.archives import Command, exported, save

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
RESNET = f"{DATA}/resnet_cifar.py:resnet20"

MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x, scale=None, *, flip: bool = False):
        y = self.last(torch.relu(self.first(x)))
        if scale is not None:
            y = y * scale
        return (y.flip(0), x) if flip else (y, x)

class Nested(nn.Module):
    def forward(self, batch, pair):
        return {"sum": batch["ids"] + pair[0], "product": batch["ids"] * pair[1]}

class Branches(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x + 1
        return x - 1

def net():
    torch.manual_seed(0)
    return Net()

def net_with_examples():
    return net(), (torch.ones(3, 4),)

def flipped():
    return net(), {"x": torch.randn(3, 4), "flip": True}

def nested():
    return Nested(), ({"ids": torch.ones(2, 3)}, (torch.ones(2, 3), torch.full((2, 3), 2.0)))

def branches():
    return Branches(), (torch.ones(2),)

def broken():
    model = net()
    model.first.weight.data[0, 0] = float("nan")
    return model, (torch.ones(3, 4),)

def training():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    return model, (torch.ones(3, 4),)
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models.py").write_text(MODELS)
    return tmp_path / "models.py"


def _agrees(loaded: Loaded, *inputs: torch.Tensor) -> None:
    given = inputs or loaded.program.examples
    got, want = loaded.program(*given), loaded.reference(*given)
    assert len(got) == len(want) == len(loaded.program.signature.outputs)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # the same operators; a fused linear may reassociate


# -- factories and inputs


def test_a_factory_with_its_examples(models: Path) -> None:
    loaded = load(f"{models}:net_with_examples")
    assert [str(s) for s in loaded.program.signature.inputs] == ["x: f32[3, 4]"]
    _agrees(loaded)


def test_inputs_replace_the_examples_and_make_dimensions_dynamic(models: Path) -> None:
    loaded = load(f"{models}:net_with_examples", inputs=["x:f32[n=1..9,4]"])
    assert loaded.program.signature.dims[0].name == "n"
    for size in (1, 2, 9):
        _agrees(loaded, torch.randn(size, 4))


def test_a_dimension_without_bounds_has_none(models: Path) -> None:
    loaded = load(f"{models}:net_with_examples", inputs=["x:f32[n,4]"])
    assert [(d.name, d.lower, d.upper) for d in loaded.program.signature.dims] == [("n", 1, None)]
    _agrees(loaded, torch.randn(300, 4))


def test_an_optional_parameter_may_be_given(models: Path) -> None:
    loaded = load(f"{models}:net", inputs=["x:f32[3,4]", "scale:f32[]"])
    assert [s.name for s in loaded.program.signature.inputs] == ["x", "scale"]
    _agrees(loaded)


def test_a_constant_among_the_examples_stays(models: Path) -> None:
    loaded = load(f"{models}:flipped")
    assert [s.name for s in loaded.program.signature.inputs] == ["x"]
    _agrees(loaded)


def test_nested_inputs_go_by_their_joined_keys(models: Path) -> None:
    loaded = load(f"{models}:nested", inputs=["batch_ids:f32[n=2..8,3]", "pair_0:f32[n,3]", "pair_1:f32[n,3]"])
    assert [s.name for s in loaded.program.signature.inputs] == ["batch_ids", "pair_0", "pair_1"]
    assert [s.name for s in loaded.program.signature.outputs] == ["sum", "product"]
    _agrees(loaded, torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 3))


def test_values_of_a_file_are_the_examples(models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((3, 4), 2, np.float32))
    loaded = load(f"{models}:net", inputs=[f"x={tmp_path}/x.npy"])
    assert loaded.program.examples[0].unique().tolist() == [2.0]
    _agrees(loaded)


def test_a_model_in_training_mode_is_captured_in_eval_mode(models: Path) -> None:
    _agrees(load(f"{models}:training"))


@pytest.mark.parametrize(
    ("factory", "inputs", "said"),
    [
        ("net", [], r"Net also needs x: forward[\s\S]*--input 'x:f32"),
        ("net", ["y:f32[3,4]"], r"takes no input 'y'"),
        ("net_with_examples", ["scael:f32[]"], "did you mean 'scale'"),
        ("net_with_examples", ["x:i64[3,4]"], "is i64, but the model's example is f32"),
        ("net_with_examples", ["x:f32[4]"], "has 1 dimensions, but the model's example has 2"),
        ("flipped", ["flip:bool[]"], "is bool True in the example inputs, not a tensor"),
        ("nested", ["batch_id:f32[2,3]"], "did you mean 'batch_ids'"),
        ("broken", [], r"NaN or infinite values: first\.weight \(1\)"),
    ],
)
def test_inputs_that_do_not_fit_are_told(models: Path, factory: str, inputs: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load(f"{models}:{factory}", inputs=inputs)


def test_weights_that_are_not_finite_may_be_allowed(models: Path) -> None:
    assert load(f"{models}:broken", allow_nonfinite=True).program(torch.ones(3, 4))[0].isnan().any()


def test_a_wrong_size_fails_at_the_users_line(models: Path) -> None:
    with pytest.raises(CaptureError, match=r"models\.py:\d+"):
        load(f"{models}:net", inputs=["x:f32[3,5]"])


def test_a_branch_on_data_fails_at_the_users_line(models: Path) -> None:
    with pytest.raises(CaptureError, match=r"models\.py:\d+"):
        load(f"{models}:branches")


# -- weights


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_with_their_model(models: Path, tmp_path: Path, suffix: str) -> None:
    original = load(f"{models}:net_with_examples")
    weights = {k: v + 1 for k, v in original.program.module.state_dict().items()}
    path = tmp_path / f"w.{suffix}"
    save_file(weights, path) if suffix == "safetensors" else torch.save(weights, path)
    loaded = load(str(path), model=f"{models}:net_with_examples")
    assert torch.equal(loaded.program.weights()["last.bias"], weights["last.bias"])
    _agrees(loaded)


def test_weights_without_their_model(models: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="holds weights alone"):
        load(str(tmp_path / "w.pt"))
    with pytest.raises(UsageError, match="unexpected: a "):
        load(str(tmp_path / "w.pt"), model=f"{models}:net_with_examples")


def test_a_model_beside_what_brings_its_own_is_refused(models: Path, tmp_path: Path) -> None:
    for source in (f"{models}:net", str(save(tmp_path / "e.pt2"))):
        with pytest.raises(UsageError, match="--model goes with weights"):
            load(source, model=f"{models}:net")


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
def test_resnet20_on_its_weights() -> None:
    loaded = load(f"{DATA}/resnet20_cifar.pt", model=RESNET, inputs=["x:f32[n=1..8,3,32,32]"])
    assert str(loaded.program.signature.inputs[0]) == "x: f32[n, 3, 32, 32]"
    _agrees(loaded, torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


# -- pickles


def test_a_pickled_module_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(4, 2), tmp_path / "m.pt")
    with pytest.raises(RefusedError, match=r"would run .*torch\.nn\.modules\.linear\.Linear[\s\S]*--allow-pickle"):
        load(str(tmp_path / "m.pt"), inputs=["input:f32[3,4]"])
    _agrees(load(str(tmp_path / "m.pt"), inputs=["input:f32[3,4]"], allow_pickle=True))


def test_a_pickle_that_calls_the_shell_does_not_run(tmp_path: Path) -> None:
    torch.save(Command(f"touch '{tmp_path}/marker'"), tmp_path / "m.pt")
    with pytest.raises(RefusedError, match="system"):
        load(str(tmp_path / "m.pt"))
    assert not (tmp_path / "marker").exists()


def test_an_allowed_checkpoint_with_other_objects_gives_its_weights(models: Path, tmp_path: Path) -> None:
    original = load(f"{models}:net_with_examples")
    torch.save({"args": Path("a"), "state_dict": dict(original.program.module.state_dict())}, tmp_path / "w.pt")
    with pytest.raises(RefusedError, match="pathlib"):
        load(str(tmp_path / "w.pt"), model=f"{models}:net_with_examples")
    loaded = load(str(tmp_path / "w.pt"), model=f"{models}:net_with_examples", allow_pickle=True)
    assert loaded.notes == ("weights are under 'state_dict' of the checkpoint; 'args' passed over",)


def test_an_allowed_pickle_that_is_no_model_is_told(tmp_path: Path) -> None:
    torch.save(Path("a"), tmp_path / "m.pt")
    with pytest.raises(UsageError, match="holds no state dict"):
        load(str(tmp_path / "m.pt"), allow_pickle=True)


# -- exported programs


def test_an_exported_program_is_compared_with_its_own_module(tmp_path: Path) -> None:
    loaded = load(str(save(tmp_path / "e.pt2")))
    assert [s.name for s in loaded.program.signature.inputs] == ["inputs_x", "shift"]
    _agrees(loaded, torch.randn(9, 4), torch.randn(4))


def test_inputs_replace_those_of_an_archive(tmp_path: Path) -> None:
    loaded = load(str(save(tmp_path / "e.pt2")), inputs=["inputs_x:f32[7,4]"])
    assert loaded.program.examples[0].shape == (7, 4)
    _agrees(loaded)


def test_an_archive_without_inputs_gets_seeded_ones(tmp_path: Path) -> None:
    program = exported()
    program._example_inputs = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, tmp_path / "e.pt2")
    _agrees(load(str(tmp_path / "e.pt2")))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("x:f32[7,4]", "takes no input 'x'"),
        ("shift:f32[n]", "makes axis 0 dynamic"),
        ("inputs_x:f64[7,4]", "inputs_x is f64, want f32"),
        ("inputs_x:f32[7,5]", "size 5 at axis 1, want 4"),
        ("inputs_x:f32[99,4]", "is 99, want s"),
    ],
)
def test_inputs_that_do_not_fit_an_archive_are_told(tmp_path: Path, spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load(str(save(tmp_path / "e.pt2")), inputs=[spec])


def test_a_program_that_was_saved_loads_with_its_names(models: Path, tmp_path: Path) -> None:
    first = load(f"{models}:net_with_examples", inputs=["x:f32[n=2..9,4]"])
    archive.save(first.program, tmp_path / "p.pt2")
    second = load(str(tmp_path / "p.pt2"), inputs=["x:f32[n,4]"])
    assert second.program.signature.inputs == first.program.signature.inputs
    assert [(d.name, d.lower, d.upper) for d in second.program.signature.dims] == [("n", 2, 9)]
    _agrees(second, torch.randn(6, 4))


# -- TorchScript


def _script(path: Path, how: str) -> Path:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (torch.jit.script(net) if how == "script" else torch.jit.trace(net, torch.ones(2, 3, 8, 8))).save(str(path))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_is_converted(tmp_path: Path, how: str) -> None:
    loaded = load(str(_script(tmp_path / "s.pt", how)), inputs=["input:f32[n=1..4,3,8,8]"])
    assert str(loaded.program.signature.inputs[0]) == "input: f32[n, 3, 8, 8]"
    _agrees(loaded, torch.randn(4, 3, 8, 8))


def test_torchscript_needs_its_inputs_named(tmp_path: Path) -> None:
    path = _script(tmp_path / "s.pt", "script")
    with pytest.raises(UsageError, match="carries no example inputs; give input"):
        load(str(path))
    with pytest.raises(UsageError, match="takes no input 'x'"):
        load(str(path), inputs=["x:f32[2,3,8,8]"])


def test_torchscript_that_torch_cannot_convert_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"torch cannot convert[\s\S]*torch\.export\.save"):
        load(str(_script(tmp_path / "s.pt", "script")), inputs=["input:f32[2,5,8,8]"])


class _Writes(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "written.pt")
        return x


def test_torchscript_that_writes_files_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(_Writes()).save(str(tmp_path / "s.pt"))
    with pytest.raises(RefusedError, match=r"opens files"):
        load(str(tmp_path / "s.pt"), inputs=["x:f32[2]"])


# -- nothing at all


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        load(str(tmp_path / "absent.pt2"))
    with pytest.raises(UsageError, match="there is no file"):
        load(f"{tmp_path}/absent.py:factory")
