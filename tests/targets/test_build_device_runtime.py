"""The device's TVM runtime: what is kept of the wheels, and when it is there. Nothing here downloads."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgecc.errors import UsageError
from edgecc.targets.tvm_cpu.device_runtime import default_root, download_command, fetch, fetch_line, find_runtime, unpack


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def whole(root: Path, tmp_path: Path) -> Path:
    unpack(wheel(tmp_path / "tvm.whl", "tvm/lib/libtvm_runtime.so", "tvm/lib/libtvm_compiler.so", "tvm/base.py"), root)
    unpack(wheel(tmp_path / "ffi.whl", "tvm_ffi/lib/libtvm_ffi.so", "tvm_ffi/include/tvm/ffi/any.h", "tvm_ffi/include/../../evil.h"), root)
    return root


def test_only_the_runtime_and_its_headers_are_kept(tmp_path: Path) -> None:
    root = whole(tmp_path / "root", tmp_path)
    kept = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert kept == ["include/tvm/ffi/any.h", "lib/libtvm_ffi.so", "lib/libtvm_runtime.so"]


def test_a_path_out_of_the_folder_is_not_written(tmp_path: Path) -> None:
    whole(tmp_path / "root", tmp_path)
    assert not list(tmp_path.rglob("evil.h"))


def test_it_is_found_when_it_is_whole_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert find_runtime("aarch64", root) is None
    unpack(wheel(tmp_path / "tvm.whl", "tvm/lib/libtvm_runtime.so"), root)
    assert find_runtime("aarch64", root) is None
    found = find_runtime("aarch64", whole(root, tmp_path))
    assert found is not None
    assert found.lib == root / "lib"


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    root = whole(tmp_path / "root", tmp_path)
    assert fetch("aarch64", root).root == root


def test_each_architecture_has_a_place_of_its_own() -> None:
    assert default_root("aarch64") != default_root("x86_64")
    assert default_root("aarch64").is_relative_to(Path.home())


def test_the_versions_that_are_downloaded_are_exact() -> None:
    assert download_command("aarch64")[-2:] == ["apache-tvm==0.27.0.post1", "apache-tvm-ffi==0.1.14.post0"]


def test_an_architecture_without_wheels_is_answered_with_what_to_do() -> None:
    assert "from source" in fetch_line("armv7l")
    with pytest.raises(UsageError, match="no wheels of the TVM runtime for 'arch64'"):
        download_command("arch64")


def test_the_command_refuses_an_unknown_architecture() -> None:
    command = [sys.executable, "-m", "edgecc.targets.tvm_cpu.device_runtime", "mips"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
