"""A target for the tests of the command line, as a user would write one for --load: the artifact is a .pt2, its runtime
is PyTorch itself, which loads that file again. Also passes that misbehave in every way a pass can."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from edgecc import EXACT, Capabilities, Lowered, Pass, Requirement, Runner, Target, load
from edgecc.errors import ContractError, MissingToolError, UsageError
from edgecc.ir import archive
from edgecc.quantization.support import QuantSupport

aten = torch.ops.aten
CPUS = ("small", "large")


@dataclass(frozen=True)
class TorchHost(Target):
    """PyTorch on this machine."""

    name = "torch_host"
    cpu: str = "small"
    error: float = 0.0

    def __post_init__(self):
        if self.cpu not in CPUS:
            raise UsageError(f"torch_host has no cpu {self.cpu!r}", hint=f"one of {', '.join(CPUS)}")

    def pipeline(self):
        return "normalize: name-nothing | fuse: double-negation"

    def capabilities(self):
        refused = {aten.erfinv.default: "there is no inverse error function"}
        return Capabilities(frozenset({torch.float32, torch.int64}), lambda node: refused.get(node.target))

    def requirements(self):
        return [
            Requirement("torch", torch.__version__, "running the artifact", "pip install torch"),
            Requirement("a faster machine", "", "patience", "buy one", required=False),
        ]

    def lower(self, program, directory, context):
        archive.save(program, directory / "model.pt2")
        return Lowered("model.pt2", {"error": self.error})

    def runners(self, directory, manifest):
        return [TorchRunner(directory / "model.pt2", manifest)]


@dataclass(frozen=True)
class QuantHost(TorchHost):
    """PyTorch, which runs q/dq operators too."""

    name = "quant_host"

    def capabilities(self):
        return Capabilities(frozenset({torch.float32, torch.int8, torch.uint8}), lambda node: None, QuantSupport("integer"))


@dataclass(frozen=True)
class NeedyHost(TorchHost):
    """PyTorch, if only there were a toolchain."""

    name = "needy_host"

    def requirements(self):
        return [Requirement("unobtainium", "", "everything", "pip install unobtainium")]

    def capabilities(self):
        raise MissingToolError("needy_host needs unobtainium, which is missing", hint="pip install unobtainium")


class TorchRunner(Runner):
    """Loads the stored archive. `facts.error` is added to each output, to stand for a broken compiler."""

    runtime = "torch host"

    def __init__(self, file: Path, manifest):
        self.program, self.manifest = load(file), manifest

    def run(self, inputs):
        try:
            outputs = self.program(*(torch.from_numpy(inputs[i["name"]]) for i in self.manifest["inputs"]))
        except RuntimeError as error:
            raise ContractError(f"the runtime failed: {error}") from error
        error = self.manifest["facts"]["error"]
        return {o["name"]: (t + error if error else t).detach().numpy() for o, t in zip(self.manifest["outputs"], outputs, strict=True)}


@dataclass(frozen=True)
class NameNothing(Pass):
    """Change nothing."""

    name = "name-nothing"
    numerics = EXACT

    def run(self, program, context):
        return 0


@dataclass(frozen=True)
class DoubleNegation(Pass):
    """Replace neg(neg(x)) by x."""

    name = "double-negation"
    numerics = EXACT
    limit: int = 100

    def run(self, program, context):
        count = 0
        for node in program.calls(aten.neg.default):
            inner = node.args[0]
            if inner.target is not aten.neg.default:
                if not any(user.target is aten.neg.default for user in node.users):
                    context.missed(node, "it negates once only")
                continue
            if count == self.limit:
                break
            context.applied(node, "negated twice")
            program.replace(node, inner.args[0])
            count += 1
        return count


@dataclass(frozen=True)
class Wait(Pass):
    """Touch a file and sleep."""

    name = "wait"
    file: str = ""

    def run(self, program, context):
        Path(self.file).touch()
        time.sleep(60)
        return 0


@dataclass(frozen=True)
class Fail(Pass):
    """Divide by zero."""

    name = "fail"

    def run(self, program, context):
        return 1 // 0


@dataclass(frozen=True)
class ForgetSign(Pass):
    """Drop a negation, which is wrong."""

    name = "forget-sign"

    def run(self, program, context):
        node = program.calls(aten.neg.default)[0]
        program.replace(node, node.args[0])
        return 1
