"""Lint: what a target says of a finished file without running it. `edgecc lint` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["E", "W"]


@dataclass(frozen=True)
class Finding:
    """One rule that one node breaks. `E` refuses the file, `W` warns. `node` is `""` where the whole file is meant."""

    rule: str
    severity: Severity
    title: str
    node: str
    operator: str
    found: str
    fix: str
    source: str


@dataclass(frozen=True)
class LintReport:
    """Findings in the order of the rules. `commands`, the first of them above all, confirm the verdict on a real device."""

    file: str
    runtime: str
    profile: str
    findings: tuple[Finding, ...]
    rules_checked: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def errors(self) -> int:
        return sum(f.severity == "E" for f in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors

    @property
    def verdict(self) -> str:
        """What the rules say, and that nothing was run; never that the file is ready."""
        count = len(self.rules_checked)
        broken = list(dict.fromkeys(f.rule for f in self.findings))
        refusing = list(dict.fromkeys(f.rule for f in self.findings if f.severity == "E"))
        rules = f"{count} rule{'s' * (count != 1)} of profile {self.profile}"
        if refusing:
            said = f"fails {len(refusing)} of {rules} ({', '.join(refusing)})"
        elif broken:
            said = f"passes {count - len(broken)} of {rules} and warns by {len(broken)} ({', '.join(broken)})"
        else:
            said = f"passes {rules}"
        return f"{said}; {self.runtime} itself was not run: confirm with  {self.commands[0]}"

    def as_dict(self) -> Mapping[str, Any]:
        return {
            "file": self.file,
            "runtime": self.runtime,
            "profile": self.profile,
            "findings": [asdict(f) for f in self.findings],
            "errors": self.errors,
            "warnings": self.warnings,
            "rules_checked": list(self.rules_checked),
            "verdict": self.verdict,
            "commands": list(self.commands),
        }
