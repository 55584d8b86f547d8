"""Sidecar: what stands beside model.onnx for the machine that has TensorRT, a script that builds the engine and a README.

None of it can run here. Flags of trtexec: TensorRT documentation, trtexec; those of polygraphy: `polygraphy run --help`;
the Python interface: TensorRT documentation, The Python API. Paths are relative: the folder may be moved.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from edgecc.ir.signature import Signature
from edgecc.pipeline.context import Sample
from edgecc.targets.onnx_common.write import MODEL
from edgecc.targets.tensorrt.ranges import Range

SCRIPT, README = "build_engine.sh", "README.txt"
ENGINE, CACHE = "model.engine", "model.timing"


def write(
    directory: Path, release: str, ranges: Sequence[Range], signature: Signature, samples: Sequence[Sample], *, typed_by_flag: bool
) -> None:
    """Write build_engine.sh and README.txt. `typed_by_flag`: whether the release takes the types of the file only when told to."""
    build, compare = _trtexec(ranges, typed_by_flag), _polygraphy(ranges, signature, samples, typed_by_flag)
    script = directory / SCRIPT
    script.write_text(_SCRIPT.format(release=release, build=_lines(build), compare=_lines(compare), engine=ENGINE, cache=CACHE))
    script.chmod(script.stat().st_mode | 0o111)
    snippet = _snippet(ranges, typed_by_flag)
    (directory / README).write_text(_README.format(release=release, script=SCRIPT, engine=ENGINE, cache=CACHE, snippet=snippet))


def _trtexec(ranges: Sequence[Range], typed_by_flag: bool) -> list[str]:
    words = ["trtexec", f"--onnx={MODEL}", f"--saveEngine={ENGINE}", f"--timingCacheFile={CACHE}"]
    words += ["--stronglyTyped"] * typed_by_flag
    for flag, field in (("min", "least"), ("opt", "best"), ("max", "most")):
        shapes = [f"{r.name}:{'x'.join(map(str, getattr(r, field)))}" for r in ranges]
        words += [f"--{flag}Shapes={','.join(shapes)}"] if shapes else []
    return words


def _polygraphy(ranges: Sequence[Range], signature: Signature, samples: Sequence[Sample], typed_by_flag: bool) -> list[str]:
    """Compare with ONNX Runtime; integers are drawn from the range of the samples, for an index beyond its table means nothing."""
    words = ["polygraphy", "run", MODEL, "--trt", "--onnxrt", *["--strongly-typed"] * typed_by_flag]
    for flag, field in (
        ("--trt-min-shapes", "least"),
        ("--trt-opt-shapes", "best"),
        ("--trt-max-shapes", "most"),
        ("--input-shapes", "best"),
    ):
        shapes = [f"{r.name}:[{','.join(map(str, getattr(r, field)))}]" for r in ranges]
        words += [flag, *shapes] if shapes else []
    drawn = []
    for index, spec in enumerate(signature.inputs):
        values = [s[index] for s in samples if s[index].numel()]
        if values and not spec.dtype.is_floating_point and spec.dtype is not torch.bool:
            drawn.append(f"{spec.name}:[{min(int(v.min()) for v in values)},{max(int(v.max()) for v in values)}]")
    return [*words, "--val-range", *drawn] if drawn else words


def _lines(words: Sequence[str]) -> str:
    """A command of the shell, a flag with its values a line."""
    flags: list[list[str]] = [[]]
    for word in map(shlex.quote, words):
        if word.startswith("-") or word.startswith("'-"):
            flags.append([])
        flags[-1].append(word)
    return " \\\n  ".join(" ".join(f) for f in flags)


def _snippet(ranges: Sequence[Range], typed_by_flag: bool) -> str:
    flag = "1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)" if typed_by_flag else ""
    lines = [f"shapes.set_shape({r.name!r}, {r.least}, {r.best}, {r.most})" for r in ranges]
    if lines:
        lines = ["shapes = builder.create_optimization_profile()", *lines, "config.add_optimization_profile(shapes)"]
    return _SNIPPET.format(flag=flag, shapes="".join(f"    {line}\n" for line in lines), model=MODEL, engine=ENGINE, cache=CACHE)


_SCRIPT = """\
#!/usr/bin/env bash
# Builds {engine} with TensorRT {release} from model.onnx, then compares it with ONNX Runtime.
# Written by edgecc on a machine without TensorRT: neither command has been run. README.txt says what that leaves open.
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"

# {cache} holds the timings of kernels. It is valid for one GPU model and one release: delete it when either changes.
{build}

if command -v polygraphy >/dev/null; then
  {compare}
else
  echo "polygraphy is not installed: the numbers of the engine were not compared" >&2
fi
"""

_README = """\
model.onnx for TensorRT {release}

What edgecc has checked: the documented rules of TensorRT {release} on this file (manifest.json, facts.lint), and its numbers in
ONNX Runtime against PyTorch (report.json, verify). TensorRT itself was not run: nothing below has been tried.

1. Build and compare, on the machine that has the GPU
     ./{script}
   trtexec was not checked for: whether it takes this file, how much memory and time the build needs, how fast {engine} is.
   An engine is for the GPU model and the release that built it; {cache} makes the next build shorter.
   polygraphy was not checked for: how far TensorRT's kernels are from those of ONNX Runtime on your inputs. It draws its own.
   reference/case-*.npz have inputs and PyTorch's outputs for them.

2. Or in Python, with the package tensorrt alone. Not checked for: anything but its syntax.

{snippet}"""

_SNIPPET = """\
    from pathlib import Path

    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network({flag})
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file("{model}"):
        raise SystemExit("\\n".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    cache = Path("{cache}")
    timing = config.create_timing_cache(cache.read_bytes() if cache.exists() else b"")
    config.set_timing_cache(timing, ignore_mismatch=False)
{shapes}    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit("TensorRT could not build the engine: its log above says why")
    Path("{engine}").write_bytes(engine)
    cache.write_bytes(config.get_timing_cache().serialize())
"""
