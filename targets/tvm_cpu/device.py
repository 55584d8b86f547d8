"""The `device/` folder of an artifact: the runner's source, its build files and, where a compiler is there, the runner itself."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import tempfile
from pathlib import Path
from string import Template

from edgecc.errors import MissingToolError
from edgecc.targets.tvm_cpu.device_runtime import WHEELS, DeviceRuntime, download_command, fetch_line, find_runtime
from edgecc.targets.tvm_cpu.interface import Interface
from edgecc.targets.tvm_cpu.linker import find_toolchain
from edgecc.targets.tvm_cpu.machines import Machine, Triple
from edgecc.targets.tvm_cpu.versions import TVM

SOURCES = Path(__file__).parent / "runner"

# The runner searches its libraries in lib/ beside itself. Both are named even if it calls into one only: the other
# registers the virtual machine when it is loaded.
_LIBRARIES = ("-Wl,--no-as-needed", "-ltvm_ffi", "-ltvm_runtime", "-ldl", "-Wl,-rpath,$ORIGIN/lib")
_FLAGS = ("-std=c++17", "-O2", "-s", "-Wl,--build-id=none")


def write_device_folder(folder: Path, machine: Machine, interface: Interface, threads: int, root: Path | None) -> str:
    """Write `folder`; return `""` where it holds a runner program, else why not."""
    folder.mkdir(parents=True)
    for name in ("runner.cc", "CMakeLists.txt"):
        shutil.copyfile(SOURCES / name, folder / name)
    (folder / "README.txt").write_text(_readme(machine, interface, threads))
    try:
        shutil.copy(runner_program(machine.triple, root), folder / "runner")
    except MissingToolError as error:
        return error.message
    return ""


def runner_program(triple: Triple, root: Path | None = None, path: str | None = None) -> Path:
    """The runner built for a platform, kept beside the device runtime and built the first time.

    `root`: the device runtime, where it is not in the user's cache; `path`: where compilers are searched for.
    Raises MissingToolError for a missing runtime or compiler.
    """
    runtime = find_runtime(triple.arch, root)
    if runtime is None or triple.stubs:
        raise MissingToolError(f"the TVM runtime for {triple.name} is not here", hint=fetch_line(triple.arch))
    tools = find_toolchain(triple, path)
    if tools is None or not tools.cxx:
        raise MissingToolError(f"no C++ compiler for {triple.name} was found", hint=triple.install)
    source = (SOURCES / "runner.cc").read_bytes()
    key = hashlib.sha256(b"\0".join([source, tools.name.encode(), " ".join((*_FLAGS, *_LIBRARIES)).encode()])).hexdigest()[:16]
    program = runtime.root / f"runner-{key}"
    if not program.exists():
        try:
            with tempfile.TemporaryDirectory(dir=runtime.root) as folder:
                tools.run([*tools.cxx, *_build_arguments(runtime)], folder)
                (Path(folder) / "runner").replace(program)
        except OSError as error:
            raise MissingToolError(f"the runner cannot be kept in {runtime.root}: {error.strerror}") from error
    return program


def _build_arguments(runtime: DeviceRuntime) -> list[str]:
    """The TVM headers name themselves in error messages: map their folder, so that the program names no path of this machine."""
    include, lib = runtime.include.resolve(), runtime.lib.resolve()
    places = [f"-ffile-prefix-map={include}=include", f"-ffile-prefix-map={SOURCES.resolve()}=.", "-isystem", str(include)]
    return [*_FLAGS, *places, str(SOURCES.resolve() / "runner.cc"), "-o", "runner", f"-L{lib}", *_LIBRARIES]


def _readme(machine: Machine, interface: Interface, threads: int) -> str:
    ports = [*(f"    in   {p}" for p in interface.inputs), *(f"    out  {p}" for p in interface.outputs)]
    bounds = [f"    {name} is {lower}..{'' if upper is None else upper}" for name, (lower, upper) in interface.dims.items()]
    return Template((SOURCES / "README.txt").read_text()).substitute(
        cpu=machine.cpu.name,
        triple=machine.triple.name,
        fetch="\n".join(f"    {line}" for line in _fetch_lines(machine.triple)),
        cxx=f"{machine.triple.gnu}-g++" if machine.triple.gnu else "clang++",
        ports="\n".join(ports + bounds),
        inputs=" ".join(shlex.quote(f"{p.name}={p.name}.npy") for p in interface.inputs),
        threads=threads,
    )


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
