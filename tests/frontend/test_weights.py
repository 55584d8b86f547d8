"""State dicts are read without running code, and fit into their module or say in full why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgecc.errors import RefusedError, UsageError
from edgecc.frontend.finite import check_finite
from edgecc.frontend.weights import fit_weights, read_checkpoint, read_safetensors, weights_in


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.bn1(self.conv1(x)).mean((2, 3)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


def _equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_weights_are_copied_and_nothing_is_noted() -> None:
    trained, fresh = Net(), Net()
    assert fit_weights(fresh, trained.state_dict(), "w.pt") == ()
    assert _equal(fresh, trained)


def test_every_missing_unexpected_and_misshaped_tensor_is_listed() -> None:
    weights = Net().state_dict()
    weights["conv1.weights"] = weights.pop("conv1.weight")
    weights["extra.bias"] = torch.zeros(3)
    weights["head.weight"] = torch.zeros(2, 5)
    del weights["bn1.running_mean"]
    with pytest.raises(UsageError) as error:
        fit_weights(Net(), weights, "w.pt")
    lines = error.value.message.splitlines()
    assert lines == [
        "w.pt does not fit Net:",
        "  missing: conv1.weight f32[4, 3, 3, 3] (did you mean 'conv1.weights'?)",
        "  missing: bn1.running_mean f32[4]",
        "  unexpected: conv1.weights f32[4, 3, 3, 3] (did you mean 'conv1.weight'?)",
        "  unexpected: extra.bias f32[3]",
        "  mis-shaped: head.weight is f32[2, 5], want f32[2, 4]",
    ]


def test_integers_do_not_fit_a_float_weight() -> None:
    weights = Net().state_dict() | {"head.weight": torch.zeros(2, 4, dtype=torch.int64)}
    with pytest.raises(UsageError, match=r"mis-shaped: head\.weight is i64\[2, 4\], want f32\[2, 4\]"):
        fit_weights(Net(), weights, "w.pt")


def test_half_precision_weights_are_cast_and_noted() -> None:
    trained, fresh = Net(), Net()
    weights = {k: v.half() if v.is_floating_point() else v for k, v in trained.state_dict().items()}
    assert fit_weights(fresh, weights, "w.pt") == ("weights cast from f16 to f32",)
    assert fresh.head.weight.dtype == torch.float32
    assert torch.equal(fresh.head.weight, trained.head.weight.half().float())


def test_weights_fill_a_module_that_was_made_without_storage() -> None:
    trained = Net()
    with torch.device("meta"):
        empty = Net()
    fit_weights(empty, trained.state_dict(), "w.pt")
    assert _equal(empty, trained)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_dropped_and_noted(prefix: str) -> None:
    trained, fresh = Net(), Net()
    notes = fit_weights(fresh, {prefix + k: v for k, v in trained.state_dict().items()}, "w.pt")
    assert _equal(fresh, trained)
    assert notes[0].startswith("prefix 'module.'" if prefix.startswith("module") else "prefix '_orig_mod.'")


def test_a_prefix_that_only_some_names_have_is_left_alone() -> None:
    weights = {("module." if i else "") + k: v for i, (k, v) in enumerate(Net().state_dict().items())}
    with pytest.raises(UsageError, match="unexpected: module"):
        fit_weights(Net(), weights, "w.pt")


def test_one_name_of_a_tied_weight_is_enough() -> None:
    fresh, value = Tied(), torch.randn(5, 4)
    assert fit_weights(fresh, {"embed.weight": value}, "w.pt") == ()
    assert torch.equal(fresh.head.weight, value)


def test_counters_of_batch_norm_may_be_missing() -> None:
    weights = {k: v for k, v in Net().state_dict().items() if not k.endswith("num_batches_tracked")}
    assert fit_weights(Net(), weights, "w.pt") == ()


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_state_dict_inside_a_checkpoint_is_found_and_noted(tmp_path: Path, key: str) -> None:
    trained = Net()
    torch.save({"epoch": 3, key: trained.state_dict()}, tmp_path / "w.pt")
    weights, notes = read_checkpoint(tmp_path / "w.pt")
    assert weights.keys() == trained.state_dict().keys()
    assert notes == (f"weights are under {key!r} of the checkpoint; 'epoch' passed over",)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(2)], {"optimizer": {"lr": 0.1}}])
def test_a_checkpoint_without_weights_says_what_it_holds(content: object) -> None:
    with pytest.raises(UsageError, match="holds no state dict; it holds"):
        weights_in(content, "w.pt")


def test_more_than_weights_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(RefusedError, match="holds more than weights"):
        read_checkpoint(tmp_path / "w.pt")


def test_safetensors_are_read_and_damage_is_told(tmp_path: Path) -> None:
    trained = Net()
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    weights, _ = read_safetensors(tmp_path / "w.safetensors")
    assert all(torch.equal(weights[k], v) for k, v in trained.state_dict().items())
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:-8])
    with pytest.raises(UsageError, match="damaged safetensors"):
        read_safetensors(tmp_path / "w.safetensors")


# -- finite


def test_bad_values_are_counted_by_name() -> None:
    net = Net()
    with torch.no_grad():
        net.conv1.weight[0, 0, 0, :2] = float("nan")
        net.head.bias[1] = float("-inf")
    net.bn1.running_var[0] = float("nan")
    with pytest.raises(UsageError, match=r"conv1\.weight \(2\), head\.bias \(1\), bn1\.running_var \(1\)"):
        check_finite(net)


def test_an_infinite_buffer_may_be_a_mask() -> None:
    net = Net()
    net.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
    check_finite(net)
