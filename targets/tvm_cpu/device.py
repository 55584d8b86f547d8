"""The `device/` folder of an artifact: the runner's source, its build files and, where a compiler is there, the runner itself.

A model that needs no runtime has another runner than one for TVM's virtual machine; they share runner.h.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import tempfile
from pathlib import Path
from string import Template

from edgecc.errors import MissingToolError
from edgecc.targets.tvm_cpu.device_runtime import WHEELS, cache_root, download_command, fetch_line, find_runtime
from edgecc.targets.tvm_cpu.interface import Interface
from edgecc.targets.tvm_cpu.linker import find_toolchain
from edgecc.targets.tvm_cpu.machines import Machine, Triple
from edgecc.targets.tvm_cpu.standalone import library
from edgecc.targets.tvm_cpu.versions import TVM

SOURCES = Path(__file__).parent / "runner"

# The runner of a virtual machine searches its libraries in lib/ beside itself. Both are named even if it calls into one
# only: the other registers the virtual machine when it is loaded.
_VM_LIBRARIES = ("-Wl,--no-as-needed", "-ltvm_ffi", "-ltvm_runtime", "-ldl", "-Wl,-rpath,$ORIGIN/lib")
_FLAGS = ("-std=c++17", "-O2", "-s", "-Wl,--build-id=none")


def write_device_folder(folder: Path, machine: Machine, interface: Interface, runtime: str, threads: int, root: Path | None) -> str:
    """Write `folder`; return `""` where it holds a runner program, else why not. `runtime`: that of the model, `c` or `vm`."""
    folder.mkdir(parents=True)
    of = "" if runtime == "c" else "_vm"
    shutil.copyfile(SOURCES / f"runner{of}.cc", folder / "runner.cc")
    shutil.copyfile(SOURCES / "runner.h", folder / "runner.h")
    shutil.copyfile(SOURCES / f"CMakeLists{of}.txt", folder / "CMakeLists.txt")
    (folder / "README.txt").write_text(_readme(f"README{of}.txt", machine, interface, threads))
    try:
        shutil.copy(runner_program(machine.triple, root, runtime=runtime), folder / "runner")
    except MissingToolError as error:
        return error.message
    return ""


def runner_program(triple: Triple, root: Path | None = None, path: str | None = None, *, runtime: str = "vm") -> Path:
    """The runner built for a platform, kept in the user's cache, or beside the device runtime that it needs.

    `root`: the device runtime, where it is not in the user's cache; `path`: where compilers are searched for;
    `runtime`: that of the models it runs, `c` or `vm`.
    Raises MissingToolError for a missing runtime or compiler.
    """
    device = find_runtime(triple.arch, root)
    if runtime == "vm" and (device is None or triple.stubs):
        raise MissingToolError(f"the TVM runtime for {triple.name} is not here", hint=fetch_line(triple.arch))
    libraries: tuple[str, ...] = ("-ldl",)
    tools = find_toolchain(triple, path)
    if tools is None or not tools.cxx or triple.stubs:
        raise MissingToolError(f"no C++ compiler for {triple.name} was found", hint=triple.install)
    if runtime == "vm":
        assert device is not None
        place, include, sources = device.root, device.include, ("runner_vm.cc", "runner.h")
        libraries = (f"-L{device.lib.resolve()}", *_VM_LIBRARIES)
        key = " ".join((*_FLAGS, *_VM_LIBRARIES))
    else:
        place, include, sources = cache_root() / "runners", library.SOURCES, ("runner.cc", "runner.h")
        key = " ".join((*_FLAGS, *libraries, (include / "edgecc_model.h").read_text()))
    parts = [tools.name.encode(), triple.name.encode(), key.encode(), *((SOURCES / name).read_bytes() for name in sources)]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
    program = place / f"runner-{digest[:16]}"
    if not program.exists():
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place) as folder:
                tools.run([*tools.cxx, *_build_arguments(sources[0], include), *libraries], folder)
                (Path(folder) / "runner").replace(program)
        except OSError as error:
            raise MissingToolError(f"the runner cannot be kept in {place}: {error.strerror}") from error
    return program


def _build_arguments(source: str, include: Path) -> list[str]:
    """The TVM headers name themselves in error messages: map their folder, so that the program names no path of this machine."""
    include = include.resolve()
    places = [f"-ffile-prefix-map={include}=include", f"-ffile-prefix-map={SOURCES.resolve()}=.", "-isystem", str(include)]
    return [*_FLAGS, *places, str(SOURCES.resolve() / source), "-o", "runner"]


def _readme(name: str, machine: Machine, interface: Interface, threads: int) -> str:
    return Template((SOURCES / name).read_text()).substitute(
        cpu=machine.cpu.name,
        triple=machine.triple.name,
        fetch="\n".join(f"    {line}" for line in _fetch_lines(machine.triple)),
        cxx=f"{machine.triple.gnu}-g++" if machine.triple.gnu else "clang++",
        ports="\n".join(port_lines(interface)),
        inputs=" ".join(shlex.quote(f"{p.name}={p.name}.npy") for p in interface.inputs),
        threads=threads,
    )


def port_lines(interface: Interface) -> list[str]:
    """Inputs, outputs and bounds for a person to read, a line each."""
    ports = [*(f"    in   {p}" for p in interface.inputs), *(f"    out  {p}" for p in interface.outputs)]
    return ports + [f"    {name} is {lower}..{'' if upper is None else upper}" for name, (lower, upper) in interface.dims.items()]


def _fetch_lines(triple: Triple) -> list[str]:
    """The lines that put the TVM runtime of a platform into lib/ and include/."""
    if triple.arch not in WHEELS or triple.stubs:
        return [
            f"# there is no wheel of the TVM runtime for {triple.name}: build libtvm_runtime.so and libtvm_ffi.so of",
            f"# TVM {TVM} from source",
        ]
    return [
        shlex.join(["pip", *download_command(triple.arch), "--dest", "wheels"]),
        "unzip -oj wheels/apache_tvm-*.whl tvm/lib/libtvm_runtime.so tvm/lib/libtvm_runtime_extra.so -d lib",
        "unzip -oj wheels/apache_tvm_ffi-*.whl tvm_ffi/lib/libtvm_ffi.so -d lib",
        "unzip -oq wheels/apache_tvm_ffi-*.whl 'tvm_ffi/include/*' && mv tvm_ffi/include include",
    ]
