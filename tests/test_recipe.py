"""Recipes: TOML in and out, and clear words about what is wrong in one."""

from __future__ import annotations

import pytest

from edgecc.errors import UsageError
from edgecc.options import CompileOptions
from edgecc.recipe import Recipe, read

FULL = Recipe(
    model='odd "name".pt2',
    factory="net.py:build",
    inputs=("x:f32[1, 3]",),
    target="arm_cpu",
    load=("own.py",),
    target_options={"cpu": "cortex-a72", "threads": 2},
    options=CompileOptions(seed=7, verify="structure", tolerance=1e-3, insert=(("fuse", "a{b='c'}"),), disable=("x", "y"), dump_ir=True),
)


def test_a_written_recipe_reads_back_equal(tmp_path):
    (tmp_path / "r.toml").write_text(FULL.to_toml())
    assert read(tmp_path / "r.toml") == FULL


def test_an_integer_does_for_a_float():
    assert Recipe().with_key("options.tolerance", 1).options.tolerance == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targt = 'x'", "did you mean 'target'"),
        ("[options]\nsed = 1", r"did you mean 'options\.seed'"),
        ("[options]\nseed = 'one'", "want int"),
        ("[options]\nseed = true", "want int"),
        ("options = 3", "unknown recipe key 'options'"),
        ("target = [", "is not TOML"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(tmp_path, text, message):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "r.toml")


def test_a_missing_recipe_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / "none.toml")
