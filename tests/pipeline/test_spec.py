"""Pipeline text: it parses, prints back, and says where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from edgecc.errors import UsageError
from edgecc.pipeline.base import Pass
from edgecc.pipeline.spec import Phase, Pipeline, parse


@dataclass(frozen=True)
class Shrink(Pass):
    name = "shrink"
    rank: int = 8
    energy: float = 0.9
    only: str = ""
    exact: bool = False
    names: tuple = ()

    def run(self, program, context):
        return 0


@dataclass(frozen=True)
class Grow(Pass):
    name = "grow-it"

    def run(self, program, context):
        return 0


KNOWN = {"shrink": Shrink, "grow-it": Grow}


@pytest.mark.parametrize(
    "text",
    [
        "shrink",
        "normalize: shrink, grow-it | fuse: grow-it",
        "fuse: shrink{rank=4}",
        "shrink{rank=4,energy=0.5,only='encoder.0',exact=true}, grow-it",
        "fuse: shrink{names=('a', 'b')}".replace("('a', 'b')", "['a', 'b']"),
        "fuse:",
    ],
)
def test_printing_a_parsed_pipeline_parses_to_the_same(text):
    pipeline = parse(text, KNOWN)
    assert parse(str(pipeline), KNOWN) == pipeline


def test_options_become_fields():
    (found,) = parse("shrink{ rank = 4, energy=1, only=conv.weight, names=[a, 'b c'] }", KNOWN).passes()
    assert found == Shrink(4, 1, "conv.weight", False, ("a", "b c"))


def test_defaults_are_not_printed():
    assert str(parse("fuse: shrink{rank=8}", KNOWN)) == "fuse: shrink"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shrnk", "did you mean 'shrink'"),
        ("shrink{rnk=3}", "did you mean 'rank'"),
        ("shrink{rank='x'}", "want int"),
        ("shrink{rank=true}", "want int"),
        ("shrink{rank=4", "found 'the end'"),
        ("shrink grow-it", "position 6: found 'grow-it'"),
        ("fuse: ,shrink", "found ',shrink'"),
        ("shrink{rank=}", "found '}'"),
        ("a: b: shrink", "unknown pass 'b'"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(UsageError, match=message):
        parse(text, KNOWN)


def test_a_disabled_pass_goes_everywhere():
    assert str(parse("normalize: grow-it, shrink | fuse: grow-it", KNOWN).without("grow-it")) == "normalize: shrink | fuse:"


def test_disabling_a_pass_that_is_not_there_is_an_error():
    with pytest.raises(UsageError, match="no pass 'shrnk' to disable"):
        parse("shrink", KNOWN).without("shrnk")


def test_inserting_into_a_phase_appends_and_makes_a_known_phase_at_its_place():
    pipeline = parse("normalize: grow-it | legalize: grow-it", KNOWN)
    assert str(pipeline.with_inserted("normalize", (Shrink(),))) == "normalize: grow-it, shrink | legalize: grow-it"
    assert str(pipeline.with_inserted("compress", (Shrink(),))) == "normalize: grow-it | compress: shrink | legalize: grow-it"
    with pytest.raises(UsageError, match="unknown phase 'compres'"):
        pipeline.with_inserted("compres", (Shrink(),))


def test_an_empty_pipeline_has_no_passes():
    assert parse("", KNOWN) == Pipeline(()) and Phase("", ()).passes == ()
