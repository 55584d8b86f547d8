"""Factories are called where the user named them, and their failures keep the user's own line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from edgecc.errors import UsageError
from edgecc.frontend.factory import is_factory, make

GOOD = """
from dataclasses import dataclass
import torch
import neighbour

@dataclass
class Config:
    size: int = neighbour.SIZE

def plain():
    return torch.nn.Linear(Config().size, 2)

def with_examples():
    return plain(), (torch.ones(1, 3),)

def with_names():
    return plain(), {"input": torch.ones(1, 3)}

def with_tensor():
    return plain(), torch.ones(1, 3)

module = plain()
number = 3

def fails():
    wrong = 1
    raise ValueError("no weights here")

def fails_in_torch():
    return torch.nn.Linear(3, 2)(torch.ones(5))

def needs(argument):
    return plain()

def returns_text():
    return "model"

def exits():
    raise SystemExit(3)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("SIZE = 3\n")
    (tmp_path / "json.py").write_text(GOOD)  # a name that would hide the module of the standard library
    return tmp_path / "json.py"


@pytest.fixture(autouse=True)
def forget_neighbour():  # type: ignore[no-untyped-def]
    yield
    sys.modules.pop("neighbour", None)


@pytest.mark.parametrize("name", ["plain", "module"])
def test_a_module_alone_has_no_examples(file: Path, name: str) -> None:
    made = make(f"{file}:{name}")
    assert isinstance(made.module, torch.nn.Linear)
    assert (made.args, made.kwargs) == ((), {})


def test_examples_may_be_a_tuple_a_dict_or_a_tensor(file: Path) -> None:
    assert make(f"{file}:with_examples").args[0].shape == (1, 3)
    assert list(make(f"{file}:with_names").kwargs) == ["input"]
    assert make(f"{file}:with_tensor").args[0].shape == (1, 3)


def test_the_import_hides_no_other_module_and_leaves_the_path_as_it_was(file: Path) -> None:
    import json

    before = list(sys.path)
    make(f"{file}:plain")
    assert sys.modules["json"] is json
    assert sys.path == before


def test_a_factory_of_an_installed_module() -> None:
    assert isinstance(make("torch.nn:Identity").module, torch.nn.Identity)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plane", "did you mean 'plain'"),
        ("number", "is int, not a function"),
        ("returns_text", "returned str, want a torch.nn.Module"),
        ("fails", r"ValueError: no weights here\n  at .*json\.py:\d+: raise ValueError"),
        ("fails_in_torch", r"RuntimeError: [\s\S]*at .*json\.py:\d+: return torch\.nn\.Linear"),
        ("needs", "missing 1 required positional argument: 'argument'"),
        ("exits", "SystemExit: 3"),
    ],
)
def test_a_factory_that_makes_no_model_is_told_with_its_line(file: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make(f"{file}:{name}")


def test_a_file_that_does_not_import_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("x = 1\ny = (\n")
    with pytest.raises(UsageError, match=r"could not be imported: SyntaxError[\s\S]*bad\.py:2"):
        make(f"{tmp_path}/bad.py:factory")
    (tmp_path / "absent.py").write_text("x = 1\nimport no_such_thing\n")
    with pytest.raises(UsageError, match=r"No module named 'no_such_thing'\n  at .*absent\.py:2: import no_such_thing"):
        make(f"{tmp_path}/absent.py:factory")
    assert not [name for name in sys.modules if "_edgecc_bad" in name or "_edgecc_absent" in name]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{}/jason.py:plain", r"there is no file .*[\s\S]*did you mean 'json\.py'"),
        ("no_such_package.module:factory", "there is no module 'no_such_package'"),
        ("torch.no_such_module:factory", r"there is no module 'torch\.no_such_module'"),
        ("{}/json.py", "does not name a factory"),
    ],
)
def test_a_factory_that_is_not_there(file: Path, source: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make(source.format(file.parent))


def test_factories_are_told_from_files() -> None:
    assert is_factory("a/b.py:make") and is_factory("package.module:make")
    assert not is_factory("model.pt2") and not is_factory("a/b.py") and not is_factory("C:\\model.pt2")
