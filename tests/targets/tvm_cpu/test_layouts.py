"""Layouts: programs give what PyTorch gives whatever the order of their tensors, and few tensors are copied."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgecc import data
from edgecc.diagnostics import Remarks
from edgecc.ir import capture
from edgecc.ir.program import Program
from edgecc.ir.signature import Dim
from edgecc.pipeline import manager
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.spec import parse
from edgecc.registry import Registry
from edgecc.targets.x86_cpu.target import X86Cpu
from edgecc.testing import trace_function
from tests.models import ZOO, build
from tests.targets.lowering_host import Together, close

tvm = pytest.importorskip("tvm", reason="Apache TVM is not installed")

from tvm.relax.backend.cpu_generic import pipeline as cpu_pipeline  # noqa: E402

from edgecc.targets.tvm_cpu.layout import Plan, apply, plan  # noqa: E402
from edgecc.targets.tvm_cpu.lowering import legalize, lower  # noqa: E402
from edgecc.targets.tvm_cpu.schedules.stage import read  # noqa: E402


def assigned(program: Program) -> tuple[Any, Plan]:
    """The module with its tensors reordered, and the plan of it."""
    target = tvm.target.Target("llvm")
    with target:
        dispatched = tvm.transform.Sequential(cpu_pipeline.library_dispatch_passes(target))(lower(program))
        module = tvm.relax.transform.FoldConstant()(legalize(dispatched))
    chosen = plan(module)
    return apply(module, chosen), chosen


def through_the_passes(program: Program) -> Program:
    """The program as the target lowers it."""
    registry = Registry.create()
    context = PassContext(data.samples(program, seed=0, count=1), 0, Remarks())
    manager.run(parse(X86Cpu().pipeline(), registry.passes), program, context, [])
    return program


def runner(module: Any) -> Callable[..., list[np.ndarray[Any, Any]]]:
    target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
    machine = tvm.relax.VirtualMachine(tvm.compile(module, target=target), tvm.cpu())
    return lambda *inputs: [o.numpy() for o in machine["main"](*(tvm.runtime.tensor(i.contiguous().numpy()) for i in inputs))]


def check(model: Any, *inputs: torch.Tensor) -> Plan:
    """Compare with eager; the plan."""
    program = trace_function(model, *inputs)
    module, chosen = assigned(program)
    for got, want in zip(runner(module)(*inputs), program(*inputs), strict=True):
        close(got, want)
    return chosen


def calls(module: Any) -> list[Any]:
    return [b.value for block in module["main"].body.blocks for b in block.bindings if isinstance(b.value, tvm.relax.Call)]


def copied(chosen: Plan) -> list[tuple[int, ...]]:
    return [copy.sizes for copy in chosen.copies]


class TwoConvolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(torch.relu(self.first(x)))
        return y


def test_activations_have_their_channels_innermost_and_weights_their_outputs():
    model = TwoConvolutions()
    module, _ = assigned(trace_function(lambda x: model(x).mean((2, 3)), torch.zeros(2, 3, 6, 7)))
    types = {
        c.args[0].name_hint: ([list(map(int, a.ty.shape)) for a in c.args[1].fields], list(map(int, c.ty.shape))) for c in calls(module)
    }
    assert types["conv2d"] == ([[2, 3, 6, 7], [3, 3, 3, 8]], [2, 6, 7, 8])  # the padding reads the input as it is
    assert types["conv2d1"] == ([[2, 6, 7, 8], [1, 1, 8, 5]], [2, 6, 7, 5])
    assert types["mean"][1] == [2, 5]


def test_a_convolution_with_a_kernel_of_one_element_is_a_product_of_matrices():
    module, _ = assigned(trace_function(TwoConvolutions(), torch.zeros(2, 3, 6, 7)))
    (stage,) = read("conv2d1", module["conv2d1"]).stages
    assert [axis.extent for axis in stage.reduction] == [8]
    variables = {axis.var for axis in (*stage.axes, *stage.reduction)}
    assert all(index in variables for index in stage.term.a.indices)


def test_what_the_program_gives_back_is_copied_into_its_order_and_nothing_else():
    chosen = check(TwoConvolutions(), torch.randn(2, 3, 6, 7))
    assert copied(chosen) == [(2, 5, 6, 7)]
    assert "gives back" in str(chosen.copies[0])


def test_an_image_of_one_channel_is_not_copied():
    conv = nn.Conv2d(1, 4, 3)
    assert copied(check(lambda x: F.max_pool2d(conv(x), 2).amax((2, 3)), torch.randn(2, 1, 9, 9))) == []


def test_a_tensor_that_several_readers_want_is_copied_once():
    a, b = nn.Conv2d(4, 6, 2), nn.Conv2d(4, 6, 2)
    assert copied(check(lambda x: (a(x) * b(x)).sum((2, 3)), torch.randn(2, 4, 5, 6))) == [(2, 4, 5, 6)]


def test_attention_reads_its_heads_without_a_copy():
    torch.manual_seed(0)
    project = nn.Linear(12, 36)

    def attend(x: torch.Tensor) -> torch.Tensor:
        q, k, v = project(x).reshape(2, 7, 3, 3, 4).permute(2, 0, 3, 1, 4)
        return (torch.softmax(q @ k.transpose(-2, -1), -1) @ v).transpose(1, 2).reshape(2, 7, 12)

    assert copied(check(attend, torch.randn(2, 7, 12))) == []


def test_mixing_tokens_needs_no_transposition():
    mix, expand = nn.Linear(5, 9), nn.Linear(9, 5)
    assert copied(check(lambda x: x + expand(F.gelu(mix(x.transpose(1, 2)))).transpose(1, 2), torch.randn(2, 5, 6))) == []


def test_channels_that_are_shuffled_are_moved_once():
    a, b = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 3)

    def shuffle(x: torch.Tensor) -> torch.Tensor:
        y = a(x)
        return b(y.reshape(2, 2, 3, 8, 8).transpose(1, 2).reshape(2, 6, 8, 8)).mean((2, 3))

    moved = [copy for copy in check(shuffle, torch.randn(2, 4, 8, 8)).copies if "shape" in copy.why]
    assert [copy.sizes for copy in moved] == [(2, 3, 2, 8, 8)]


def test_a_small_tensor_is_copied_rather_than_what_it_is_broadcast_to():
    conv = nn.Conv2d(4, 6, 3, padding=1)
    scale = torch.randn(6, 5, 5)
    assert copied(check(lambda x, s: (conv(x) * s.transpose(1, 2)).amax((2, 3)), torch.randn(3, 4, 5, 5), scale)) == [(6, 5, 5)]


def test_nothing_is_left_to_compute_from_constants_alone():
    module, _ = assigned(trace_function(TwoConvolutions(), torch.zeros(2, 3, 6, 7)))
    assert all(any(not isinstance(a, tvm.ir.GenericConst) for a in c.args[1].fields) for c in calls(module))


def test_loops_that_were_written_by_hand_read_the_order_of_the_program():
    torch.manual_seed(0)
    recurrent = nn.GRU(6, 5, batch_first=False)
    check(lambda x: recurrent(x.transpose(0, 1))[0], torch.randn(2, 4, 6))


_CONVOLUTIONS: Sequence[tuple[Any, tuple[int, ...]]] = [
    (lambda: nn.Conv1d(4, 6, 3, padding=2, dilation=2), (2, 4, 9)),
    (lambda: nn.Conv1d(4, 8, 3, groups=4, stride=2), (2, 4, 9)),
    (lambda: nn.Conv2d(4, 6, (1, 3), padding="same"), (2, 4, 5, 6)),
    (lambda: nn.Conv2d(6, 9, 3, groups=3, bias=False), (2, 6, 5, 6)),
    (lambda: nn.Conv2d(6, 4, 1, groups=2, stride=2), (1, 6, 5, 6)),
    (lambda: nn.Conv2d(5, 5, 3, groups=5, padding=1), (2, 5, 5, 6)),
    (lambda: nn.Conv2d(5, 10, 1, groups=5), (2, 5, 5, 6)),
    (lambda: nn.Conv2d(5, 5, 1, groups=5), (2, 5, 5, 6)),
    (lambda: nn.Conv2d(5, 1, 3), (2, 5, 5, 6)),
    (lambda: nn.Conv2d(5, 1, 1), (2, 5, 5, 6)),
    (lambda: nn.Conv2d(5, 7, (4, 5)), (2, 5, 4, 5)),
    (lambda: nn.Conv3d(3, 4, 2, padding=1), (2, 3, 3, 4, 5)),
    (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), (2, 4, 5)),
    (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 5, 6)),
    (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), (2, 4, 5, 6)),
    (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2), (1, 2, 3, 3, 3)),
]


def _image_functions() -> dict[str, tuple[Callable[..., Any], torch.Tensor]]:
    torch.manual_seed(0)
    image, conv = torch.randn(2, 6, 8, 8), nn.Conv2d(6, 6, 3, padding=1)
    group, instance = nn.GroupNorm(3, 6), nn.InstanceNorm2d(6)
    after: dict[str, Callable[[torch.Tensor], Any]] = {
        "max_pool": lambda y: F.max_pool2d(y, 3, 2, 1),
        "max_pool_ceil": lambda y: F.max_pool2d(y, 3, 2, ceil_mode=True),
        "avg_pool": lambda y: F.avg_pool2d(y, 3, 2, 1, count_include_pad=False),
        "adaptive_pool": lambda y: F.adaptive_avg_pool2d(y, 3),
        "adaptive_max_pool": lambda y: F.adaptive_max_pool2d(y, (4, 1)),
        "nearest": lambda y: F.interpolate(y, scale_factor=2.0),
        "bilinear": lambda y: F.interpolate(y, size=(11, 5), mode="bilinear", align_corners=True),
        "bicubic": lambda y: F.interpolate(y, size=(11, 5), mode="bicubic"),
        "reflect": lambda y: F.pad(y, (1, 2, 0, 3), mode="reflect"),
        "softmax_of_channels": lambda y: torch.softmax(y, 1),
        "argmax_of_channels": lambda y: y.argmax(1),
        "argmin_of_rows": lambda y: y.argmin(2, keepdim=True),
        "cumulative": lambda y: y.cumsum(1),
        "sorted": lambda y: y.sort(1)[0],
        "shuffled_pixels": lambda y: F.pixel_unshuffle(y, 2),
        "columns": lambda y: F.unfold(y, 3),
        "group_norm": group,
        "instance_norm": instance,
        "flattened": lambda y: y.flatten(1),
        "split": lambda y: y.chunk(3, 1)[1],
        "rolled": lambda y: torch.roll(y, (1, 2), (1, 3)),
        "flipped": lambda y: y.flip(1, 3),
        "tiled": lambda y: y.repeat(1, 2, 1, 2),
        "stacked": lambda y: torch.stack([y, y * 2], 2),
        "product": lambda y: y @ y.transpose(-1, -2),
        "rows": lambda y: y[:, :, ::2, 1:],
        "gathered": lambda y: y[:, torch.tensor([3, 0])],
        "over_channels": lambda y: torch.cat([y.mean(1, keepdim=True), y], 1),
        "gated": lambda y: y * torch.sigmoid(y.mean((2, 3), keepdim=True)),
        "outer": lambda y: y.mean((2, 3))[:, :, None] * y.mean((1, 2))[:, None],
    }
    return {name: (lambda x, f=f: f(conv(x)), image) for name, f in after.items()}


@pytest.mark.slow
def test_every_kind_of_operator_gives_what_pytorch_gives():
    torch.manual_seed(0)
    cases = {f"conv{n}": (make().eval(), (torch.randn(shape),)) for n, (make, shape) in enumerate(_CONVOLUTIONS)}
    cases |= {name: (function, (image,)) for name, (function, image) in _image_functions().items()}
    inputs = [x for _, own in cases.values() for x in own]
    module, _ = assigned(trace_function(Together(list(cases.values())), inputs))
    for name, got, want in zip(cases, runner(module)(*inputs), Together(list(cases.values()))(inputs), strict=True):
        close(got, want, name=name)


_COPIES = {
    "mobilenet_v2": 0,
    "mobilenet_v3": 0,
    "resnet_bottleneck": 0,
    "efficientnet": 0,
    "densenet": 0,
    "convnext": 1,  # the image: its first convolution does not pad
    "unet": 1,  # the result
    "shufflenet_v2": 3,  # its shuffles
    "vit": 1,  # the image
    "swin": 9,
    "bert_sdpa": 0,
    "llama_tied": 0,
    "gpt2_eager": 0,
    "whisper_sdpa": 0,
    "gru_spotter": 1,
    "conv_transformer": 6,
    "t5_encoder": 0,
}
_DYNAMIC = ("mobilenet_v3", "unet", "shufflenet_v2", "vit", "swin", "conv_transformer", "t5_encoder", "gpt2_eager")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dynamic"), [(n, False) for n in _COPIES] + [(n, True) for n in _DYNAMIC])
def test_a_model_gives_what_pytorch_gives_and_copies_little(name, dynamic):
    model, args, kwargs = build(name)
    program = capture.trace(model, args, kwargs, dims=ZOO[name].dims if dynamic else None)
    module, chosen = assigned(through_the_passes(program))
    run = runner(module)
    sizes: list[dict[str, int]] = [{}, {n: min(5, d.upper or 5) for n, d in ZOO[name].sizes().items()}] if dynamic else [{}]
    for own in sizes:
        _, args, kwargs = build(name, **own)
        inputs = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        for got, want in zip(run(*inputs), capture.eager(model, args, kwargs)(*inputs), strict=True):
            close(got, want, tolerance=1e-5)  # 1e-5: float32 rounding through some dozen layers
    assert len(chosen.copies) == _COPIES[name], [str(copy) for copy in chosen.copies]


def test_a_dynamic_image_size_works():
    model = TwoConvolutions()
    height, batch = Dim("height", 2, 32), Dim("batch", 1, 8)
    program = trace_function(model, torch.randn(2, 3, 6, 7), dims={"x": {0: batch, 2: height}})
    run = runner(assigned(program)[0])
    for sizes in ((1, 3, 2, 7), (5, 3, 11, 7)):
        x = torch.randn(sizes)
        close(run(x)[0], model(x))


_ASSIGN = """
from edgecc.ir import capture
from tests.models import build
from tests.targets.tvm_cpu.test_layouts import assigned
print(assigned(capture.trace(*build("shufflenet_v2")))[0].script(show_meta=True))
"""


@pytest.mark.slow
def test_two_processes_assign_the_same():
    run = [
        subprocess.run([sys.executable, "-c", _ASSIGN], cwd=Path(__file__).parents[3], check=True, capture_output=True) for _ in range(2)
    ]
    assert run[0].stdout == run[1].stdout
    assert b"R.call_tir" in run[0].stdout
