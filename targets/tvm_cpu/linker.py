"""Compile C and link objects to a library or a program for another platform: GNU tools, or the zig wheel."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecc.errors import MissingToolError
from edgecc.targets.tvm_cpu.machines import Triple

# No build id and no symbols: nothing in the file depends on where or when it was linked. No start files: a model
# has no constructors, and theirs would tie it to one C library.
_SHARED = ("-shared", "-nostartfiles", "-s", "-Wl,--build-id=none", "-Wl,--gc-sections")

# The same code from every compiler: none of their own checks, and atomics that need no library.
_C = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-fno-stack-protector", "-fno-sanitize=undefined", "-g0")
_C_OF = {"aarch64": ("-mno-outline-atomics",)}


@dataclass(frozen=True)
class Toolchain:
    """A compiler driver for one platform. `name` is what reports say; `cxx` the same for C++; `ar` makes archives."""

    name: str
    cc: tuple[str, ...]
    cxx: tuple[str, ...]
    triple: Triple
    ar: tuple[str, ...] = ()

    def compile_c(self, source: str, folder: Path) -> None:
        """Compile a C or assembly file in `folder` to an object beside it. Raises MissingToolError."""
        flags = [*_C, *_C_OF.get(self.triple.arch, ())] if source.endswith(".c") else []
        self.run([*self.cc, *flags, "-c", source, "-o", str(Path(source).with_suffix(".o"))], str(folder))

    def archive(self, objects: Sequence[Path], output: Path) -> None:
        """Write the static library `output`, the same bytes from the same objects. Raises MissingToolError."""
        with tempfile.TemporaryDirectory() as folder:
            self.run([*self.ar, "rcsD", "library.a", *(str(o.resolve()) for o in objects)], folder)
            shutil.copyfile(Path(folder) / "library.a", output)

    def link_shared(self, objects: Sequence[Path], output: Path, exports: str = "") -> None:
        """Link `objects` to the library `output`, the same bytes from the same objects. Raises MissingToolError.

        `exports`: the only symbols that others see, `;` after each, all where it is empty.
        """
        with tempfile.TemporaryDirectory() as folder:
            stubs = [self._stub(name, Path(folder)) for name in self.triple.stubs]
            libraries = ["-nostdlib", "-Wl,--no-as-needed", *stubs] if stubs else ["-lm", "-lpthread"]
            if exports:
                (Path(folder) / "exports").write_text(f"{{ global: {exports} local: *; }};")
                libraries.append("-Wl,--version-script=exports")
            self.run([*self.cc, *_SHARED, "-o", str(output.resolve()), *(str(o.resolve()) for o in objects), *libraries], folder)

    def _stub(self, name: str, folder: Path) -> str:
        """An empty library of this name: linking against it makes the device look there for what is undefined."""
        source = folder / "empty.c"
        source.write_text("")
        self.run([*self.cc, "-shared", "-nostdlib", f"-Wl,-soname,{name}", "-o", name, source.name], str(folder))
        return name

    def run(self, command: Sequence[str], folder: str) -> None:
        """Run the driver in `folder`. Raises MissingToolError with its message where it fails, OSError for a full disk."""
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode and os.strerror(errno.ENOSPC) in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)
        if done.returncode:
            raise MissingToolError(
                f"{self.name} could not link for {self.triple.name}:\n{done.stderr.strip()[-2000:]}", hint=self.triple.install
            )


def find_toolchain(triple: Triple, path: str | None = None) -> Toolchain | None:
    """The toolchain for a platform on the search path `path` (the process's own if None), or zig; None without either."""
    prefixes = [f"{triple.gnu}-"] if triple.gnu else []
    if platform.system() == "Linux" and platform.machine() == triple.arch and not triple.stubs:
        prefixes.append("")
    for prefix in prefixes:
        cc = shutil.which(f"{prefix}gcc", path=path)
        if cc:
            cxx = shutil.which(f"{prefix}g++", path=path)
            return Toolchain(f"{prefix}gcc {_version(cc)}", (cc,), (cxx,) if cxx else (), triple, (f"{prefix}ar",))
    return zig_toolchain(triple)


def zig_toolchain(triple: Triple) -> Toolchain | None:
    """zig's own clang and linker from the wheel `ziglang`, None where it is not installed."""
    if importlib.util.find_spec("ziglang") is None:
        return None
    zig = (sys.executable, "-m", "ziglang")
    flags = ("-target", triple.zig)
    version = subprocess.run([*zig, "version"], capture_output=True, text=True, check=False).stdout.strip()
    return Toolchain(f"zig {version}", (*zig, "cc", *flags), (*zig, "c++", *flags), triple, (*zig, "ar"))


def toolchain(triple: Triple, path: str | None = None) -> Toolchain:
    """As `find_toolchain`. Raises MissingToolError with the install line where there is none."""
    found = find_toolchain(triple, path)
    if found is None:
        raise MissingToolError(f"no linker for {triple.name} was found", hint=triple.install)
    return found


def _version(cc: str) -> str:
    return subprocess.run([cc, "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()
