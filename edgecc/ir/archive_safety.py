"""Refuse `.pt2` archives whose loading would run code, and hand torch a copy of exactly what was checked.

What torch.export.load of torch 2.13 unpickles or executes in an archive, and how each is closed:

* `data/sample_inputs/*.pt`, and in older archives `data/weights/*.pt`, `data/constants/*.pt` and `serialized_*.pt`:
  read as weights only, but on any failure read again as a full pickle. They must pass a scan of their opcodes and
  then be readable as weights only, so that the second reading never happens;
* `data/weights/weight_N` and `data/constants/tensor_N` with `use_pickle`: a full pickle. Refused;
* `data/constants/opaque_obj_N` (a bare pickle) and `custom_obj_N` (torchbind). Refused;
* `data/aotinductor/**`: shared libraries that are opened with dlopen. Refused;
* `models/*.json`: text that becomes Python code, see `edgecc.ir.archive_json`;
* the zip itself: two readers are at work (Python's and torch's, which ignores the case of names), and an archive
  may read differently in each. Duplicate names in any case, compressed entries, entries outside of one root folder
  and entries of unknown purpose are refused, and torch reads a fresh zip written from the entries that passed.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from edgecc.errors import RefusedError, UsageError
from edgecc.ir.archive_containers import use_plain_containers
from edgecc.ir.archive_json import check_model_json, check_payload_json
from edgecc.ir.pickle_scan import Scan, scan_pickle, scan_stream
from edgecc.ir.zips import open_zip

_MODEL = re.compile(r"models/[\w.-]+\.json\Z|serialized_exported_program\.json\Z")
_PAYLOADS = re.compile(r"data/(weights|constants)/[\w.-]+_(weights|constants)_config\.json\Z")
_RAW = re.compile(r"data/(weights/weight|constants/tensor)_\d+\Z")
_PICKLED = re.compile(
    r"data/(sample_inputs|weights|constants)/[\w.-]+\.pt\Z|serialized_(state_dict|constants|example_inputs)\.(pt|json)\Z",
)
_PLAIN = re.compile(
    r"(archive_format|archive_version|version|byteorder|\.format_version|\.storage_alignment|\.data/\w+)\Z|extra(_files)?/.*\Z"
)
_CODE = {
    "data/aotinductor/": "a shared library made by AOTInductor, which is native code",
    "data/constants/custom_obj_": "a torchbind object, which is code of an extension",
    "data/constants/opaque_obj_": "a pickled object",
}
_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
_HINT = "export the model again with torch.export.save from sources that you trust"


def check_archive(path: Path) -> None:
    """Pass an archive whose loading runs no code. Raises RefusedError, or UsageError for a broken archive."""
    checked_copy(path)


def load_checked(path: Path, extra_files: dict[str, str]) -> torch.export.ExportedProgram:
    """Load an archive that passes the check; `extra_files` is filled as torch.export.load does.

    Raises RefusedError, or UsageError for an archive that is broken or of a version that torch does not read.
    """
    copy = checked_copy(path)
    with _logged_errors() as logged:
        try:
            return torch.export.load(copy, extra_files=extra_files)
        except Exception as error:  # torch raises whatever the entry at hand led to, or logs it and raises something vague
            cause = logged[0] if logged else error
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            raise UsageError(f"torch.export cannot load {path}: {reason}", hint=_HINT) from error


@contextmanager
def _logged_errors() -> Iterator[list[BaseException]]:
    """Collect the exceptions that torch.export logs, in place of printing them."""
    logger = logging.getLogger("torch.export")
    handler, propagates = _Collector(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield handler.errors
    finally:
        logger.propagate = propagates
        logger.removeHandler(handler)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self.errors.append(record.exc_info[1])


def checked_copy(path: Path) -> io.BytesIO:
    """A fresh archive in memory of the entries of `path`, each of them checked, for torch.export.load.

    Raises RefusedError for an archive whose loading would run code, UsageError for a broken one.
    """
    copy = io.BytesIO()
    try:
        with open_zip(path) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as checked:
            root, entries = _entries(archive)
            if not any(_MODEL.match(name) for name in entries):
                raise UsageError(f"{path} holds no exported model: {', '.join(list(entries)[:6])}", hint=_HINT)
            for name, info in entries.items():
                checked.writestr(zipfile.ZipInfo(root + name), _checked(name, archive.read(info)))
    except _DAMAGE as error:
        raise UsageError(
            f"{path} cannot be read as an archive of torch.export: {error}", hint="the file may be truncated; copy it again"
        ) from error
    copy.seek(0)
    return copy


def _entries(archive: zipfile.ZipFile) -> tuple[str, Mapping[str, zipfile.ZipInfo]]:
    """The root folder (`""` in the layout before torch 2.8) and the entries by their name below it."""
    infos = [i for i in archive.infolist() if not i.is_dir()]
    names = [i.filename for i in infos]
    root = "" if "serialized_exported_program.json" in names else f"{names[0].split('/')[0]}/" if names else ""
    entries: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for info in infos:
        name = info.filename
        if name.casefold() in seen:
            raise RefusedError(f"the archive holds {name!r} twice, so that two readers may see different things", hint=_HINT)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise RefusedError(f"entry {name!r} is compressed or encrypted, which torch.export.save never does", hint=_HINT)
        if not name.startswith(root) or ".." in name.split("/") or "\\" in name or info.orig_filename != name:
            raise RefusedError(f"entry {name!r} is outside of the folder {root!r} of the archive", hint=_HINT)
        seen.add(name.casefold())
        entries[name.removeprefix(root)] = info
    return root, entries


def _checked(name: str, data: bytes) -> bytes:
    """The content of an entry, after its check. Raises RefusedError."""
    for prefix, what in _CODE.items():
        if name.startswith(prefix):
            raise RefusedError(f"loading this archive could run code: {name} is {what}", hint=_HINT)
    if _MODEL.match(name):
        model = json.loads(data.decode("utf-8"))
        check_model_json(model, name)
        use_plain_containers(model)
        return json.dumps(model).encode()
    if _PAYLOADS.match(name):
        check_payload_json(json.loads(data.decode("utf-8")), name)
    elif _PICKLED.match(name):
        _check_pickled(name, data)
    elif not _RAW.match(name) and not _PLAIN.match(name):
        raise RefusedError(f"the archive holds {name!r}, whose purpose is unknown: it may be code", hint=_HINT)
    return data


def _check_pickled(name: str, data: bytes) -> None:
    """Pass what torch.save wrote of tensors in plain containers: nothing named but tensors, and readable as weights only."""
    if not data:
        return
    try:
        dangers = [d for scan in _scans(data) for d in scan.dangers]
    except (ValueError, zipfile.BadZipFile) as error:
        raise RefusedError(f"loading this archive could run code: {name} is not a file of torch.save ({error})", hint=_HINT) from error
    if dangers:
        raise RefusedError(f"loading this archive would run code: {name} is a pickle that calls {', '.join(dangers)}", hint=_HINT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, KeyError, EOFError, AttributeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RefusedError(f"loading this archive could run code: {name} is not readable as weights only ({reason})", hint=_HINT) from error


def _scans(data: bytes) -> list[Scan]:
    """Scan every pickle in a file of torch.save, the zip layout or the older one."""
    if not data.startswith(b"PK"):
        return [scan_stream(data, limit=16)]
    with open_zip(io.BytesIO(data)) as nested:
        return [scan_pickle(nested.read(i)) for i in nested.infolist() if i.filename.endswith(".pkl")]
