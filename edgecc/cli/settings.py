"""From flags to values: the recipe, the registry, the target and the traced model that a command line asks for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc import recipe as recipes
from edgecc.errors import UsageError
from edgecc.recipe import Recipe

if TYPE_CHECKING:
    from edgecc.frontend.load import Loaded
    from edgecc.ir.signature import Signature
    from edgecc.registry import Registry

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: How many windows of a text are taken, to calibrate or to assess.
WINDOWS = 200

#: Attribute of the parsed arguments for each key of the recipe that a flag sets.
_KEYS = {
    "model": "model",
    "factory": "factory",
    "inputs": "input",
    "target": "target",
    "load": "load",
    "calibration": "calibration",
    "eval": "eval",
    "qat": "qat",
    "qat_checkpoint": "qat_checkpoint",
    "qat_log": "qat_log",
    "target_options.cpu": "cpu",
    "target_options.triple": "triple",
    "target_options.precision": "precision",
    "target_options.tensor_types": "tensor_type",
    "target_options.compensate": "compensate",
    "target_options.imatrix": "imatrix",
    "target_options.allow_approximate": "allow_approximate",
    "target_options.context": "context",
    "target_options.tokenizer": "tokenizer",
    "target_options.shard_bytes": "shard_size",
    "options.seed": "seed",
    "options.verify": "verify",
    "options.pipeline": "passes",
    "options.insert": "insert",
    "options.disable": "disable_pass",
    "options.stop_after": "stop_after",
    "options.dump_ir": "dump_ir",
    "options.cases": "cases",
    "options.quant": "quant",
    "options.quant_layers": "quant_layer",
    "options.quant_with": "quant_with",
    "options.quant_method": "quant_method",
    "options.max_drop": "max_drop",
    "options.speedup": "speedup",
}


def add_load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--load", action="append", metavar="FILE.py", help="run a Python file that defines passes or targets (repeatable)")


def add_model(parser: argparse.ArgumentParser, *, positional: str = "MODEL") -> None:
    """MODEL and the flags that say how to load it."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar=positional,
        help="file.py:factory, model.pt2, a state dict (.pt, .pth, .safetensors) with --model, a Hugging Face directory",
    )
    parser.add_argument(
        "--model",
        dest="factory",
        metavar="FACTORY",
        help="what builds the module for a state dict: file.py:factory or package.module:factory",
    )
    parser.add_argument(
        "--input",
        action="append",
        metavar="SPEC",
        help="an example input: 'x:f32[1,3,32,32]', 'ids:i64[batch=1..8,seq=1..512]' (dynamic), or x=FILE.npy (repeatable)",
    )
    parser.add_argument("--allow-nonfinite", action="store_true", help="take weights with NaN or infinite values")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="unpickle a whole-module .pt file, which can run any code: only for files that you trust",
    )


def recipe(args: argparse.Namespace) -> Recipe:
    """The recipe of `--recipe`, then the flags, then `--set`. Raises UsageError."""
    found = recipes.read(args.recipe) if args.recipe else Recipe()
    for key, attribute in _KEYS.items():
        value = getattr(args, attribute, None)
        if value is not None and value is not False:
            read = _PAIRS.get(attribute)
            found = found.with_key(key, [read(v) for v in value] if read else value)
    for assignment in args.set or ():
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment!r}: want KEY=VALUE", hint="--set options.tolerance=1e-3")
        found = found.with_key(key.strip(), _literal(text.strip()))
    return found


def registry(load: tuple[str, ...] | list[str] | None) -> Registry:
    from edgecc.registry import Registry

    return Registry.create(Path(f) for f in load or ())


def load_model(args: argparse.Namespace, found: Recipe, *, lazy: bool = False) -> Loaded:
    """Trace the recipe's model. A factory that draws random weights draws them from the recipe's seed. `lazy`: weights may stay in
    their files.

    Agreeing to a pickle or to non-finite weights stands on the command line, never in a recipe.
    """
    import torch

    from edgecc.frontend.load import load

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(found.options.seed)
        return load(
            found.model,
            model=found.factory or None,
            inputs=found.inputs,
            allow_pickle=args.allow_pickle,
            allow_nonfinite=args.allow_nonfinite,
            seed=found.options.seed,
            lazy=lazy,
        )


def directory(recipe: Recipe) -> Path | None:
    """The folder of the model, None where it is no folder."""
    path = Path(recipe.model)
    return path if recipe.model and path.is_dir() else None


def _text(recipe: Recipe, file: str, signature: Signature, limit: int) -> Any:
    """Windows of a text file, in tokens of the model."""
    from edgecc.frontend import text

    tokenizer = recipe.target_options.get("tokenizer") or ""
    folder = Path(str(tokenizer)) if tokenizer not in ("", "none") else directory(recipe)
    if folder is None:
        raise UsageError(f"{file} is text, and there is no tokenizer for it", hint="--tokenizer DIR, a folder with tokenizer.json")
    return text.samples(Path(file), folder, signature, limit=limit)


def data(recipe: Recipe, signature: Signature, *, calibrates: bool = False) -> dict[str, Any]:
    """The samples to check, to calibrate with, the text to assess on and the evaluation of a job. Raises UsageError."""
    from edgecc import calibration, reference
    from edgecc.frontend import factory

    found: dict[str, Any] = {}
    if recipe.eval.endswith(".txt"):
        found["text"] = _text(recipe, recipe.eval, signature, WINDOWS)
    elif recipe.eval:
        found["evaluate"] = calibration.evaluation(factory.function(recipe.eval), recipe.eval)
    if recipe.options.max_drop >= 0 and "evaluate" not in found:
        raise UsageError("--max-drop needs something to measure", hint="--eval module:function")
    if not recipe.calibration:
        return found
    if recipe.calibration.endswith(".txt"):
        data = _text(recipe, recipe.calibration, signature, WINDOWS)
    elif factory.is_factory(recipe.calibration):
        data = calibration.CalibrationSet(factory.function(recipe.calibration), signature, recipe.calibration)
    elif recipe.options.quant or calibrates:
        data = calibration.from_files(Path(recipe.calibration), signature)
    else:
        return {**found, "samples": reference.read_samples(Path(recipe.calibration), signature)}
    first = next(iter(data), None)
    if first is None:
        raise UsageError(f"{recipe.calibration} gives no sample", hint="give at least one; 100 to 500 are usual")
    return {**found, "calibration": data}


def _insertion(text: str) -> tuple[str, str]:
    phase, colon, passes = text.partition(":")
    if not colon:
        raise UsageError(f"--insert {text!r}: want PHASE:'pass{{...}}'", hint="--insert 'fuse:my-pass{rank=8}'")
    return phase.strip(), passes.strip()


def _layer(text: str) -> tuple[str, str]:
    pattern, equals, scheme = text.rpartition("=")
    if not equals or not pattern:
        raise UsageError(f"--quant-layer {text!r}: want REGEX=SCHEME", hint="--quant-layer 'encoder.layer.0=w8a16'")
    return pattern, scheme.strip()


def _tensor_type(text: str) -> tuple[str, str]:
    pattern, equals, kind = text.rpartition("=")
    if not equals or not pattern:
        raise UsageError(f"--tensor-type {text!r}: want REGEX=FORMAT", hint="--tensor-type 'attn_v=q8_0'")
    return pattern, kind.strip().lower()


#: Flags whose values are read as pairs.
_PAIRS = {"insert": _insertion, "quant_layer": _layer, "tensor_type": _tensor_type}


def _literal(text: str) -> Any:
    """A TOML value; what is none is a bare word."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
