"""JSON files beside a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecc.errors import UsageError
from edgecc.frontend.json_files import read_object, read_optional


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"{", "cannot be read"), (b"[]", "holds list, want an object"), (b"\xff", "cannot be read"), (b"[" * 100_000, "cannot be read")],
)
def test_what_is_no_object_is_refused_by_the_name_of_its_file(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(data)
    for read in (read_object, read_optional):
        with pytest.raises(UsageError, match=rf"config\.json {said}"):
            read(tmp_path / "config.json")


def test_only_an_optional_file_may_be_absent(tmp_path: Path) -> None:
    assert read_optional(tmp_path / "config.json") == {}
    with pytest.raises(UsageError, match=r"config\.json cannot be read"):
        read_object(tmp_path / "config.json")
