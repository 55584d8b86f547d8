"""Pipeline text: `normalize: decompose, canonicalize | fuse: fuse-gelu, my-pass{rank=8, name='x'}` to passes and back.

pipeline := phase ('|' phase)*
phase    := [name ':'] pass (',' pass)*
pass     := name ['{' option '=' literal (',' option '=' literal)* '}']
literal  := number | true | false | none | quoted text | bare word | '[' literal, ... ']'
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError
from edgecc.pipeline.base import Pass

PHASES = ("normalize", "fuse", "compress", "legalize")


@dataclass(frozen=True)
class Phase:
    """Passes that run in order under one name; `""` for text without a phase."""

    name: str
    passes: tuple[Pass, ...]

    def __str__(self) -> str:
        text = ", ".join(map(str, self.passes))
        return f"{self.name}: {text}".rstrip() if self.name else text


@dataclass(frozen=True)
class Pipeline:
    """An ordered list of phases. `str(parse(text))` parses to an equal pipeline."""

    phases: tuple[Phase, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.phases))

    def passes(self) -> list[Pass]:
        return [p for phase in self.phases for p in phase.passes]

    def without(self, name: str) -> Pipeline:
        """Drop every occurrence of a pass. Raises UsageError where there is none."""
        present = {p.name for p in self.passes()}
        if name not in present:
            raise UsageError(f"the pipeline has no pass {name!r} to disable", hint=nearest(name, present))
        return Pipeline(tuple(Phase(phase.name, tuple(p for p in phase.passes if p.name != name)) for phase in self.phases))

    def with_inserted(self, phase: str, added: tuple[Pass, ...]) -> Pipeline:
        """Append passes to a phase; a known phase that the pipeline lacks is made at its place in PHASES."""
        names = [p.name for p in self.phases]
        if phase in names:
            return Pipeline(tuple(Phase(p.name, p.passes + added) if p.name == phase else p for p in self.phases))
        if phase not in PHASES:
            raise UsageError(f"unknown phase {phase!r}", hint=nearest(phase, [*PHASES, *names]))
        place = sum(name in PHASES[: PHASES.index(phase)] for name in names)
        return Pipeline((*self.phases[:place], Phase(phase, added), *self.phases[place:]))


def parse(text: str, known: Mapping[str, type[Pass]]) -> Pipeline:
    """Read pipeline text. `known` maps pass names to classes.

    Raises UsageError with the position for bad syntax, and for an unknown pass, option or option type.
    """
    return _Parser(text, known).pipeline()


_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][\w-]*(?:\.[\w-]+)*)|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<mark>[{}\[\]=:,|]))"
)
_WORDS = {"true": True, "false": False, "none": None}


class _Parser:
    def __init__(self, text: str, known: Mapping[str, type[Pass]]) -> None:
        self.text, self.known, self.position = text, known, 0

    def pipeline(self) -> Pipeline:
        phases = [self._phase()]
        while self._accept("|"):
            phases.append(self._phase())
        if self.text[self.position :].strip():
            self._fail("',' or '|' or the end")
        return Pipeline(tuple(p for p in phases if p.passes or p.name))

    def _phase(self) -> Phase:
        start = self.position
        name = self._peek("name")
        if name is not None:
            self._take("name")
            if self._accept(":"):
                return Phase(name, self._passes() if self._peek("name") else ())
            self.position = start
        return Phase("", self._passes()) if name is not None else Phase("", ())

    def _passes(self) -> tuple[Pass, ...]:
        passes = [self._pass()]
        while self._accept(","):
            passes.append(self._pass())
        return tuple(passes)

    def _pass(self) -> Pass:
        name = self._take("name")
        if name not in self.known:
            raise UsageError(f"unknown pass {name!r} in pipeline {self.text!r}", hint=nearest(name, self.known))
        options: dict[str, object] = {}
        if self._accept("{"):
            while not self._accept("}"):
                key = self._take("name")
                self._expect("=")
                options[key] = self._literal()
                if not self._accept(","):
                    self._expect("}")
                    break
        return _build(self.known[name], options)

    def _literal(self) -> object:
        if self._accept("["):
            items = []
            while not self._accept("]"):
                items.append(self._literal())
                if not self._accept(","):
                    self._expect("]")
                    break
            return tuple(items)
        if self._peek("number") is not None:
            return ast.literal_eval(self._take("number"))
        if self._peek("quoted") is not None:
            return self._take("quoted")[1:-1]
        word = self._take("name")
        return _WORDS.get(word, word)

    def _peek(self, kind: str) -> str | None:
        found = _TOKEN.match(self.text, self.position)
        return found[kind] if found else None

    def _take(self, kind: str) -> str:
        found = _TOKEN.match(self.text, self.position)
        if not found or found[kind] is None:
            self._fail(f"a {kind}")
        assert found
        self.position = found.end()
        return found[kind]

    def _accept(self, mark: str) -> bool:
        if self._peek("mark") != mark:
            return False
        self._take("mark")
        return True

    def _expect(self, mark: str) -> None:
        if not self._accept(mark):
            self._fail(repr(mark))

    def _fail(self, wanted: str) -> None:
        found = self.text[self.position :].strip()[:12] or "the end"
        raise UsageError(
            f"pipeline text {self.text!r}, position {self.position}: found {found!r}, want {wanted}",
            hint="normalize: canonicalize | fuse: fuse-gelu",
        )


def _build(kind: type[Pass], options: Mapping[str, object]) -> Pass:
    declared = {f.name: f for f in fields(kind)}
    for key, value in options.items():
        if key not in declared:
            raise UsageError(f"pass {kind.name!r} has no option {key!r}", hint=nearest(key, declared))
        default = declared[key].default
        wanted = type(default)
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            continue
        if default is not None and value is not None and type(value) is not wanted:
            raise UsageError(f"option {key!r} of pass {kind.name!r} is {value!r}, want {wanted.__name__} such as {default!r}")
    return kind(**options)
