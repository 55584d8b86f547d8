"""The run directory appears whole or not at all."""

from __future__ import annotations

import pytest

from edgecc import artifact
from edgecc.errors import RefusedError, UsageError


def test_nothing_is_there_before_the_end_and_everything_after(tmp_path):
    with artifact.staged(tmp_path / "out", overwrite=False) as beside:
        (beside / "model").write_text("x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "model").read_text() == "x"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_any_exception_leaves_nothing(tmp_path, error):
    with pytest.raises(error), artifact.staged(tmp_path / "out", overwrite=False) as beside:
        (beside / "model").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_without_overwrite(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(RefusedError, match="exists"), artifact.staged(tmp_path / "out", overwrite=False):
        pass


def test_a_run_directory_is_replaced_with_overwrite_and_kept_on_failure(tmp_path):
    with artifact.staged(tmp_path / "out", overwrite=False) as beside:
        (beside / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="stop"), artifact.staged(tmp_path / "out", overwrite=True):
        raise ValueError("stop")
    assert (tmp_path / "out" / "manifest.json").exists()
    with artifact.staged(tmp_path / "out", overwrite=True) as beside:
        (beside / "new").write_text("y")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]


@pytest.mark.parametrize(
    "make", [lambda p: p.write_text("x"), lambda p: (p.mkdir(), (p / "thesis.tex").write_text("x")), lambda p: p.symlink_to(p.parent)]
)
def test_what_is_not_a_run_directory_is_never_replaced(tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(RefusedError, match="not a run directory"):
        artifact.check_output(tmp_path / "out", overwrite=True)


def test_a_parent_that_is_a_file_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot write"), artifact.staged(tmp_path / "file" / "out", overwrite=False):
        pass


def test_changed_and_missing_files_are_named(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    manifest = {"files": artifact.digests(tmp_path)}
    assert artifact.check_digests(tmp_path, manifest) == []
    (tmp_path / "a").write_text("z")
    (tmp_path / "b").unlink()
    assert artifact.check_digests(tmp_path, manifest) == ["a has changed since it was compiled", "b is missing"]


@pytest.mark.parametrize(
    ("text", "message"), [(None, "not a run directory"), ("{", "is not JSON"), ("[]", "has schema"), ('{"schema": 99}', "has schema 99")]
)
def test_a_manifest_that_is_not_ours_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        artifact.read_manifest(tmp_path)
