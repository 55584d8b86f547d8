"""Passes and targets of this package, of entry points, and of a user's file."""

from __future__ import annotations

import pytest

from edgecc.errors import UsageError
from edgecc.registry import Registry

OWN = '''
from dataclasses import dataclass
from edgecc import Pass

@dataclass(frozen=True)
class Mine(Pass):
    """A pass of the user's."""
    name = {name!r}
    def run(self, program, context):
        return 0
'''


def test_every_pass_is_named_after_its_file():
    registry = Registry.create()
    assert {"decompose", "canonicalize", "fold-constants", "fuse-gelu"} <= set(registry.passes)
    for name, found in registry.passes.items():
        assert found.__module__ == f"edgecc.passes.{name.replace('-', '_')}"
        assert found.__doc__


def test_a_loaded_file_adds_its_passes(tmp_path):
    (tmp_path / "own.py").write_text(OWN.format(name="mine"))
    assert Registry.create([tmp_path / "own.py"]).passes["mine"].__name__ == "Mine"


def test_a_name_that_is_taken_is_an_error_that_names_both_files(tmp_path):
    (tmp_path / "own.py").write_text(OWN.format(name="fuse-gelu"))
    with pytest.raises(UsageError, match=r"fuse_gelu\.py and in .*own\.py"):
        Registry.create([tmp_path / "own.py"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "no Pass and no Target"),
        ("1 +", "SyntaxError"),
        ("import not_there", "ModuleNotFoundError"),
        (OWN.format(name="Bad Name"), "want lower-case words"),
    ],
)
def test_a_file_that_is_no_use_is_refused(tmp_path, text, message):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        Registry.create([tmp_path / "own.py"])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        Registry.create([tmp_path / "none.py"])


def test_an_unknown_target_gets_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean 'arm_cpu'"):
        Registry.create().target("arm-cpu")


def test_an_installed_distribution_adds_passes_by_entry_point(tmp_path, monkeypatch):
    (tmp_path / "their_passes.py").write_text(OWN.format(name="theirs"))
    info = tmp_path / "their_passes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-passes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgecc.passes]\ntheirs = their_passes:Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Registry.create().passes["theirs"].__module__ == "their_passes"
