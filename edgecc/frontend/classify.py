"""Tell what a model file is from its bytes, without unpickling or importing anything."""

from __future__ import annotations

import ast
import difflib
import enum
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgecc.errors import UsageError
from edgecc.ir.pickle_scan import Scan, scan_pickle, scan_stream
from edgecc.ir.zips import open_zip

_HINT = "give a .pt2 of torch.export.save, weights with --model file.py:factory, a Hugging Face directory, or file.py:factory"


class Kind(enum.Enum):
    """What a path holds. PICKLE is a pickle that names more than tensors: a whole module, or anything else."""

    EXPORTED = "a torch.export archive"
    TORCHSCRIPT = "a TorchScript archive"
    WEIGHTS = "weights of torch.save"
    SAFETENSORS = "weights in safetensors"
    PICKLE = "a pickled object"
    HUGGING_FACE = "a Hugging Face model directory"


@dataclass(frozen=True)
class Found:
    """The kind of a path. `dangers`: for PICKLE, the names that unpickling would import."""

    kind: Kind
    dangers: tuple[str, ...] = ()


def classify(path: Path) -> Found:
    """Classify a file or directory. Raises UsageError that says what was found where it is no model."""
    if not path.exists():
        raise UsageError(f"there is no file {path}", hint=_neighbour(path))
    if path.is_dir():
        return _classify_directory(path)
    if not path.is_file():
        raise UsageError(f"{path} is a pipe or a device, which can be read only once", hint="write it to a file")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise UsageError(f"{path} is empty", hint=_HINT)
    if head.startswith(b"PK\x03\x04"):
        return _classify_zip(path)
    if _is_safetensors(path, head):
        return Found(Kind.SAFETENSORS)
    if path.suffix == ".py":
        raise UsageError(f"{path} is Python source", hint=f"name the function that makes the model: {path}:{_first_function(path)}")
    foreign = _foreign(path, head)
    if foreign:
        raise UsageError(f"{path} is {foreign}, not a PyTorch model", hint=_HINT)
    try:
        return _of_scan(scan_stream(path.read_bytes()))
    except ValueError as error:
        raise UsageError(f"{path} is no model file that edgecc knows (it starts with {head[:8].hex(' ')})", hint=_HINT) from error


def _classify_directory(path: Path) -> Found:
    if (path / "config.json").is_file():
        return Found(Kind.HUGGING_FACE)
    if (path / "manifest.json").is_file():
        raise UsageError(f"{path} is an output directory of edgecc, not a model", hint="`edgecc inspect` and `edgecc run` read it")
    names = sorted(p.name for p in path.iterdir())[:5]
    raise UsageError(f"{path} is a directory without config.json; it holds {', '.join(names) or 'nothing'}", hint=_HINT)


def _classify_zip(path: Path) -> Found:
    try:
        with open_zip(path) as archive:
            names = archive.namelist()
            below = {name.partition("/")[2] for name in names}
            if "serialized_exported_program.json" in names or "archive_format" in below or any(n.startswith("models/") for n in below):
                return Found(Kind.EXPORTED)
            if "constants.pkl" in below:
                return Found(Kind.TORCHSCRIPT)
            if any(n.startswith(".data/extern_modules") for n in below):
                raise UsageError(f"{path} is a torch.package archive, which carries Python code", hint=_HINT)
            pickles = [name for name in names if name.partition("/")[2] == "data.pkl"]
            if pickles:
                return _of_scan(scan_pickle(archive.read(pickles[0])))
            if names and all(name.endswith(".npy") for name in names):
                raise UsageError(f"{path} holds NumPy arrays, not a model", hint="give arrays as inputs, --input x=FILE.npz")
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, ValueError) as error:
        raise UsageError(f"{path} is a damaged or truncated zip archive: {error}", hint="copy or download the file again") from error
    raise UsageError(f"{path} is a zip archive of {', '.join(names[:4]) or 'nothing'}, not a PyTorch model", hint=_HINT)


def _of_scan(scan: Scan) -> Found:
    return Found(Kind.WEIGHTS) if scan.holds_only_weights else Found(Kind.PICKLE, scan.dangers)


def _is_safetensors(path: Path, head: bytes) -> bool:
    """A u64 length, and a JSON object of that length. https://github.com/huggingface/safetensors, section Format."""
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or not length >= 2:
        return False
    if length > path.stat().st_size - 8:
        raise UsageError(f"{path} is a truncated safetensors file: its header alone needs {length + 8} bytes", hint="download it again")
    with path.open("rb") as file:
        file.seek(8)
        try:
            return isinstance(json.loads(file.read(length)), dict)
        except ValueError as error:
            raise UsageError(f"{path} looks like safetensors, but its header is damaged: {error}", hint="download it again") from error


def _foreign(path: Path, head: bytes) -> str:
    """What a file of another world is, in words; `""` where unknown."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (run `git lfs pull` to get the file itself)"
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "a web page (a download that went wrong)"
    starts = {
        b"GGUF": "a GGUF file",
        b"\x93NUMPY": "a NumPy array",
        b"\x1f\x8b": "gzip data",
        b"\x89HDF": "an HDF5 file (Keras?)",
        b"\x7fELF": "a shared library or a program",
        b"{": "JSON text",
    }
    found = next((what for start, what in starts.items() if head.startswith(start)), "")
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if path.suffix == ".onnx":
        return "an ONNX model"
    return found


def _first_function(path: Path) -> str:
    """The first public function of a Python file, read and not run; `factory` where there is none."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return "factory"
    return next((n.name for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")), "factory")


def _neighbour(path: Path) -> str:
    """A hint with the nearest name in the same directory."""
    if not path.parent.is_dir():
        return f"there is no directory {path.parent} either"
    close = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else _HINT
