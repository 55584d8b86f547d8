"""`tools/bench.py integers`: all-integer models: the same bits on every CPU, and their cost beside ONNX Runtime's integer kernels.

Ours is compiled as users do (`--quant int8`); ONNX Runtime's own static quantizer has the same model and calibration data.
ARM binaries are counted under qemu, x86 runtimes take turns on this machine, one thread each.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import models
from benchmarks.arm import TOOLS, run

MODELS = ("mlp", "resnet20", "mobilenet_v2", "ds_cnn", "unet")
ARM = {"cortex-a72": ("cortex-a72", "root"), "cortex-a76": ("cortex-a76", "root-n1"), "neoverse-n2": ("max,sve=off,sme=off", "root-n1")}
_X86 = ("znver4", "cascadelake", "skylake-avx512", "x86-64-v3", "x86-64-v2")
_ENVIRONMENT = ("PYTHONHASHSEED=0", "OMP_NUM_THREADS=1", "PYTHONDONTWRITEBYTECODE=1")
_DATA = TOOLS.parent.parent / "shared" / "data"
Inputs = tuple[torch.Tensor, ...]


def identity(names: Sequence[str], count: int) -> None:
    """Print the sha256 of the outputs for `count` inputs of each model: the reference in PyTorch, this machine, three ARM CPUs."""
    for name in names:
        model, inputs = build(name)
        cases = samples(name, inputs, count, seed=100)
        digests = {}
        for cpu in (host_cpu(), *ARM):
            with tempfile.TemporaryDirectory() as folder:
                result, runner = compiled(name, model, inputs, cpu, Path(folder) / "out")
                digests.setdefault("PyTorch", _reference(result.program, cases))
                digests[cpu] = _ran(result.program, runner, cases)
        same = len(set(digests.values())) == 1
        print(
            f"{name:14}{count} inputs: {'identical' if same else 'DIFFERENT'}  " + "  ".join(f"{k} {v[:12]}" for k, v in digests.items()),
            flush=True,
        )


def _reference(program: Any, cases: Sequence[Inputs]) -> str:
    from edgecc.quantization import reference

    return reference.digest([t for case in cases for t in reference.run(program, case).outputs])


def _ran(program: Any, runner: Any, cases: Sequence[Inputs]) -> str:
    from edgecc.quantization import reference

    names, outputs = [s.name for s in program.signature.inputs], [s.name for s in program.signature.outputs]
    found = runner.run_many([dict(zip(names, [t.numpy() for t in case], strict=True)) for case in cases])
    return reference.digest([torch.from_numpy(np.asarray(o[n])) for o in found for n in outputs])


def instructions(names: Sequence[str]) -> None:
    """Print millions of aarch64 instructions of one inference, ours and ONNX Runtime's QLinear operators."""
    folder = Path(run([str(TOOLS / "peers")]).strip())
    print(f"{'model':14}{'cpu':14}{'edgecc':>10}{'onnxruntime':>13}{'ours / theirs':>15}")
    for name in names:
        model, inputs = build(name)
        for cpu, (emulated, root) in ARM.items():
            with tempfile.TemporaryDirectory() as work:
                compiled(name, model, inputs, cpu, Path(work) / "out")
                cost = json.loads(
                    run([sys.executable, "-m", "edgecc", "bench", f"{work}/out", "--vs", "none", "--seconds", "0.01", "--json", "-q"])
                )
                ours = cost["instructions"] / 1e6
                theirs = _counted(folder, name, model, inputs, emulated, root, Path(work))
            print(f"{name:14}{cpu:14}{ours:10.2f}{theirs:13.2f}{ours / theirs:15.3f}", flush=True)


def _counted(folder: Path, name: str, model: torch.nn.Module, inputs: Inputs, cpu: str, root: str, work: Path) -> float:
    from edgecc.targets.tvm_cpu.measure import counting

    static(name, model, inputs, work / "int8.onnx", unsigned=False)
    np.savez(work / "inputs.npz", *(t.numpy() for t in inputs))
    python = [f"{folder}/{root}/usr/bin/python3.11", str(TOOLS / "benchmarks/ort_runner.py")]
    emulated = ["qemu-aarch64", "-L", str(folder / root), "-cpu", cpu]
    for assignment in (*_ENVIRONMENT, f"PYTHONPATH={folder}/site", f"PYTHONHOME={folder}/{root}/usr"):
        emulated += ["-E", assignment]
    files = [str(work / "int8.onnx"), str(work / "inputs.npz"), str(work / "output.npy"), "1"]
    return counting.count(emulated, [*python, *files], cache=False).instructions / 1e6


def speed(names: Sequence[str], seconds: float) -> None:
    """Print milliseconds of processor time on this machine: ours in int8 and float32, ONNX Runtime's static int8."""
    print(f"{host_cpu()}, one thread, batch 1, p50 of processor time in ms")
    print(f"{'model':14}{'ours int8':>11}{'ours float':>12}{'ORT int8':>10}{'ORT float':>11}{'ORT / ours':>12}{'float / int8':>14}")
    for name in names:
        model, inputs = build(name)
        with tempfile.TemporaryDirectory() as work:
            ours, plain, theirs, theirs_plain = _milliseconds(name, model, inputs, Path(work), seconds)
        print(f"{name:14}{ours:11.3f}{plain:12.3f}{theirs:10.3f}{theirs_plain:11.3f}{theirs / ours:12.2f}{plain / ours:14.2f}", flush=True)


def _milliseconds(name: str, model: torch.nn.Module, inputs: Inputs, work: Path, seconds: float) -> list[float]:
    """Medians of ours in int8 and in float32, and ONNX Runtime's; each in a process of its own, in turns."""
    from edgecc import benchmark
    from edgecc.targeting.timing import Contestant
    from edgecc.targets.x86_cpu.target import X86Cpu

    (work / "case").mkdir()
    benchmark.write_case({str(i): t.numpy() for i, t in enumerate(inputs)}, [str(i) for i in range(len(inputs))], work / "case")
    contestants = []
    for key, quant in (("int8", "int8"), ("float", "")):
        compiled(name, model, inputs, host_cpu(), work / key, quant)
        (work / f"{key}-driver").mkdir()
        manifest = json.loads((work / key / "manifest.json").read_text())
        contestants += X86Cpu(cpu=host_cpu()).contestants(work / key, manifest, 1, work / f"{key}-driver")[:1]
    static(name, model, inputs, work / "int8.onnx", unsigned=True)
    for file in ("int8.onnx", "int8.float.onnx"):
        contestants.append(Contestant(file, (sys.executable, "-m", "edgecc.peers.onnxruntime_peer", str(work / file), "-t", "1")))
    timings = benchmark.contest(contestants, work / "case", seconds=seconds, together=True)
    return [statistics.median(t.processors) * 1e3 for t in timings]


# -- models


class FeedForward(torch.nn.Module):
    """That of a transformer of width 384 on 128 tokens: 151 MMAC."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(384, 1536), torch.nn.Linear(1536, 384)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.nn.functional.gelu(self.a(x)))


def build(name: str) -> tuple[torch.nn.Module, Inputs]:
    """A model of models.py; the MLP without its LayerNorm, ResNet-20 with its trained weights where they are."""
    if name == "mlp":
        torch.manual_seed(0)
        return FeedForward().eval(), (torch.randn(128, 384),)
    if name == "resnet20" and _DATA.is_dir():
        sys.path.insert(0, str(_DATA))
        import resnet_cifar

        net, _ = resnet_cifar.resnet20()
        net.load_state_dict(torch.load(_DATA / "resnet20_cifar.pt", weights_only=True))
        return net.eval(), samples(name, (torch.empty(1, 3, 32, 32),), 1, seed=0)[0]
    model, inputs = models.build(name)
    return model.eval(), inputs


def samples(name: str, inputs: Inputs, count: int, *, seed: int) -> list[Inputs]:
    """Inputs like those of a model: CIFAR-10 images, tokens as they are, else normal numbers."""
    if name == "resnet20" and _DATA.is_dir():
        sys.path.insert(0, str(_DATA))
        import resnet_cifar

        images, _ = resnet_cifar.images(_DATA / "cifar10_test_2000.npz")
        return [(images[i : i + 1],) for i in range(seed, seed + count)]
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(t.shape, generator=generator) if t.is_floating_point() else t for t in inputs) for _ in range(count)]


def host_cpu() -> str:
    from edgecc.targets.tvm_cpu.machines import machine

    return next(name for name in _X86 if machine(name, "x86_64-linux-gnu").is_this_machine())


def compiled(name: str, model: torch.nn.Module, inputs: Inputs, cpu: str, output: Path, quant: str = "int8") -> tuple[Any, Any]:
    """The result of compiling for a CPU, and what runs it here."""
    import edgecc
    from edgecc.targets.arm_cpu.target import ArmCpu
    from edgecc.targets.x86_cpu.target import X86Cpu

    target = ArmCpu(cpu=cpu) if cpu in ARM else X86Cpu(cpu=cpu)
    options = edgecc.CompileOptions(quant=quant, verify="off")
    calibration = samples(name, inputs, 16, seed=0) if quant else None
    result = edgecc.compile(model, inputs, target=target, options=options, calibration=calibration, output=output)
    return result, target.runners(output, json.loads((output / "manifest.json").read_text()))[0]


def static(name: str, model: torch.nn.Module, inputs: Inputs, file: Path, *, unsigned: bool) -> None:
    """Write `file` as ONNX Runtime's static quantizer makes it, per channel, and the model in float32 beside it."""
    import warnings

    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain = file.with_suffix(".float.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, inputs, file.with_suffix(".export.onnx"), dynamo=True, external_data=False, verbose=False)
        quant_pre_process(str(file.with_suffix(".export.onnx")), str(plain), skip_symbolic_shape=True)
        names = _ports(plain)
        feeds = [dict(zip(names, [t.numpy() for t in case], strict=True)) for case in samples(name, inputs, 16, seed=0)]

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self._left = iter(feeds)

            def get_next(self) -> Any:
                return next(self._left, None)

        activations = QuantType.QUInt8 if unsigned else QuantType.QInt8
        quantize_static(
            str(plain), str(file), Reader(), quant_format=QuantFormat.QOperator, per_channel=True,
            activation_type=activations, weight_type=QuantType.QInt8,
        )  # fmt: skip


def _ports(file: Path) -> list[str]:
    import onnx

    return [port.name for port in onnx.load(str(file)).graph.input]
