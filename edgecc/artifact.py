"""The run directory: written beside its place and renamed into it, so that a failure never leaves half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgecc.errors import RefusedError, UsageError

SCHEMA = 1
_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "target": str,
    "target_options": dict,
    "deployable": str,
    "inputs": list,
    "outputs": list,
    "dims": list,
    "tolerance": (int, float),
    "facts": dict,
    "files": dict,
}
MARKS = ("manifest.json", "ir/00-trace.ir", "00-trace.ir")  # a directory that edgecc wrote has one of these
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
UNSIGNED = ("manifest.json", "report.json", "report.html", "remarks.jsonl")


@contextmanager
def staged(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder beside `output`; rename it to `output` at the end, or remove it on any exception.

    Raises RefusedError where `output` exists and `overwrite` is false, or is not a run directory; UsageError where
    it cannot be written.
    """
    check_output(output, overwrite=overwrite)
    place = _place(output)
    made = [parent for parent in place.parents if not os.path.lexists(parent)]
    beside: Path | None = None
    try:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        except OSError as error:
            in_a_file = isinstance(error, (FileExistsError, NotADirectoryError))
            why = "a file is in the place of a folder" if in_a_file else error.strerror
            raise UsageError(f"cannot write {output}: {why}", hint="name another folder with -o") from error
        beside.chmod(0o777 & ~_umask())
        try:
            yield beside
        except Exception as error:  # writers of other packages raise anything on a full disk; what is not one goes on as it was
            unwritable = _unwritable(beside)
            if unwritable:
                raise UsageError(f"cannot write {output}: {unwritable}", hint="free some space or name another folder with -o") from error
            if isinstance(error, OSError) and error.errno in _FULL:  # the temporary folder, which may be another disk
                raise UsageError(f"cannot write {error.filename or output}: {error.strerror}", hint="free some space") from error
            raise
        check_output(output, overwrite=overwrite)
        _move(beside, place)
    finally:
        if beside is not None:
            _remove(beside)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


@contextmanager
def staged_file(file: Path) -> Iterator[Path]:
    """Yield a new file beside `file`; rename it to `file` at the end, or remove it on any exception.

    Raises UsageError where it cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=file.suffix, dir=file.parent)
        os.close(descriptor)
        beside = Path(name)
        try:
            beside.chmod(0o666 & ~_umask())
            try:
                yield beside
            except Exception as error:  # as above
                why = _unwritable(file.parent)
                if not why:
                    raise
                raise UsageError(f"cannot write {file}: {why}", hint="free some space or name another file with -o") from error
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}", hint="name another file with -o") from error


def _unwritable(directory: Path) -> str:
    """Why nothing more can be written there, `""` where it can. Native writers report a full disk in words of their own."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory) as probe:
            probe.write(bytes(1 << 16))
            probe.flush()
    except OSError as error:
        return error.strerror or "it is not writable"
    return ""


def check_file(file: Path, *, overwrite: bool) -> None:
    """Raise RefusedError where `file` may not be written; nothing is changed."""
    if os.path.lexists(file) and (file.is_dir() or not overwrite):
        raise RefusedError(f"{file} exists", hint="another -o" if file.is_dir() else "--overwrite to replace it, or another -o")


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raise RefusedError where `output` may not be written; nothing is changed."""
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise RefusedError(f"{output} exists", hint="--overwrite to replace it, or another -o")
    if not output.is_dir() or output.is_symlink() or (any(output.iterdir()) and not any((output / mark).is_file() for mark in MARKS)):
        raise RefusedError(f"{output} is not a run directory of edgecc, so it is not replaced", hint="name another folder with -o")


def _place(output: Path) -> Path:
    """`output` under a name that can be renamed: `.` and `..` have none of their own."""
    return output.resolve() if output.name in ("", "..") else output.parent.resolve() / output.name


def _move(beside: Path, output: Path) -> None:
    """Rename `beside` to `output`; what was there is removed last, and comes back where the renaming is broken off."""
    if not output.exists():
        beside.rename(output)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{output.name}.old.", dir=output.parent))
    try:
        output.rename(old / output.name)
        beside.rename(output)
    finally:
        if not output.exists() and (old / output.name).exists():
            (old / output.name).rename(output)
        _remove(old)


def _remove(folder: Path) -> None:
    """Remove a folder of our own to the end, even where a signal arrives meanwhile: it is raised after that."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def digests(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file that is the same in every run; reports with times in them are left out."""
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.relative_to(directory).as_posix() not in UNSIGNED)
    return {p.relative_to(directory).as_posix(): {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read()).hexdigest()
        )


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n")


def read_manifest(directory: Path) -> dict[str, Any]:
    """manifest.json of a run directory. Raises UsageError where there is none, or one that is not ours."""
    path = directory / "manifest.json"
    if not path.is_file():
        raise UsageError(
            f"{directory} is not a run directory: it has no manifest.json", hint="edgecc compile MODEL --target T -o DIR makes one"
        )
    try:
        manifest = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise UsageError(f"{path} has schema {found!r}, want {SCHEMA}", hint="compile the model again with this version")
    damaged = [key for key, kind in _KEYS.items() if not isinstance(manifest.get(key), kind)]
    if damaged:
        raise UsageError(f"{path} is damaged: {', '.join(damaged)} missing or of the wrong type", hint="compile the model again")
    return manifest


def check_digests(directory: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Files of the manifest that are missing or have changed since they were written."""
    wrong = []
    for name, want in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != want["bytes"] or _sha256(path) != want["sha256"]:
            wrong.append(f"{name} has changed since it was compiled")
    return wrong
