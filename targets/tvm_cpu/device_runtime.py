"""The TVM runtime of a device: where its libraries lie, and `python -m edgecc.targets.tvm_cpu.device_runtime ARCH` to fetch them.

The libraries come out of the wheels of TVM for the device, at the version that compiled the model. Nothing else
in edgecc downloads anything.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgecc.diagnostics import nearest
from edgecc.errors import EdgeccError, MissingToolError, UsageError
from edgecc.targets.tvm_cpu.versions import FFI, TVM

WHEELS = {"aarch64": "manylinux_2_28_aarch64", "x86_64": "manylinux_2_28_x86_64"}  # pip's platform by architecture
_LIBRARIES = {"tvm/lib/libtvm_runtime.so", "tvm/lib/libtvm_runtime_extra.so", "tvm_ffi/lib/libtvm_ffi.so"}
_HEADERS = "tvm_ffi/include/"


@dataclass(frozen=True)
class DeviceRuntime:
    """`root/lib` has the libraries, `root/include` the headers of tvm_ffi."""

    root: Path

    @property
    def lib(self) -> Path:
        return self.root / "lib"

    @property
    def include(self) -> Path:
        return self.root / "include"


def cache_root() -> Path:
    """Where edgecc keeps what it fetches and builds for this user."""
    return (Path.home() / "Library" / "Caches" if sys.platform == "darwin" else Path.home() / ".cache") / "edgecc"


def default_root(arch: str) -> Path:
    """Where the runtime of an architecture is kept for this user."""
    return cache_root() / f"tvm-{arch}" / TVM


def find_runtime(arch: str, root: Path | None = None) -> DeviceRuntime | None:
    """The runtime in `root`, or where `fetch` puts it; None where it is not there or not whole."""
    runtime = DeviceRuntime(root or default_root(arch))
    whole = (runtime.lib / "libtvm_ffi.so").is_file() and (runtime.lib / "libtvm_runtime.so").is_file() and runtime.include.is_dir()
    return runtime if whole else None


def fetch_line(arch: str) -> str:
    """The command that fetches the runtime, or what to do where there are no wheels of it."""
    if arch in WHEELS:
        return f"python -m edgecc.targets.tvm_cpu.device_runtime {arch}"
    return f"build libtvm_runtime.so of TVM {TVM} for {arch} from source (there is no wheel), and set device_runtime=FOLDER"


def download_command(arch: str) -> list[str]:
    """The arguments of pip that download the two wheels of an architecture. Raises UsageError where there are none."""
    if arch not in WHEELS:
        raise UsageError(f"there are no wheels of the TVM runtime for {arch!r}", hint=nearest(arch, WHEELS))
    options = ["--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--platform", WHEELS[arch]]
    return ["download", *options, f"apache-tvm=={TVM}", f"apache-tvm-ffi=={FFI}"]


def fetch(arch: str, root: Path | None = None) -> DeviceRuntime:
    """Download the wheels with pip and keep their libraries and headers in `root`, whole or not at all.

    Raises MissingToolError with pip's message where it fails.
    """
    found = find_runtime(arch, root)
    if found:
        return found
    root = root or default_root(arch)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        command = [sys.executable, "-m", "pip", *download_command(arch), "--dest", folder]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise MissingToolError(
                f"pip could not download the TVM runtime for {arch}:\n{done.stderr.strip()[-2000:]}", hint=" ".join(command)
            )
        unpacked = Path(folder) / "unpacked"
        for wheel in sorted(Path(folder).glob("*.whl")):
            unpack(wheel, unpacked)
        shutil.rmtree(root, ignore_errors=True)
        unpacked.replace(root)
    return DeviceRuntime(root)


def unpack(wheel: Path, root: Path) -> None:
    """Copy the runtime's libraries and headers out of a wheel to `root/lib` and `root/include`."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name in _LIBRARIES:
                place = root / "lib" / PurePosixPath(name).name
            elif name.startswith(_HEADERS) and name.endswith(".h") and ".." not in name:
                place = root / "include" / name.removeprefix(_HEADERS)
            else:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, place.open("wb") as copy:
                shutil.copyfileobj(source, copy)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edgecc.targets.tvm_cpu.device_runtime", description="Fetch the TVM runtime of a device."
    )
    parser.add_argument("arch", choices=sorted(WHEELS))
    parser.add_argument("--to", type=Path, help="folder to keep it in (default: the user's cache)")
    parsed = parser.parse_args(arguments)
    try:
        runtime = fetch(parsed.arch, parsed.to)
    except EdgeccError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(f"{runtime.root}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
