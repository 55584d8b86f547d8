"""The passes that quantize, as pipeline text, for a scheme by name and what a target has of it."""

from __future__ import annotations

from collections.abc import Sequence

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError
from edgecc.quantization.scheme import FLOAT, scheme
from edgecc.quantization.support import QuantSupport

#: Where passes besides the usual ones stand: before fake-quant nodes are inserted, before they are calibrated, and after that.
PLACES = (
    ("equalize-layers", "smooth-quant", "activation-aware-scaling"),
    ("compensate-rounding",),
    ("correct-bias", "assign-precision", "train-fake-quant"),
)


def passes(name: str, support: QuantSupport, layers: Sequence[tuple[str, str]], added: Sequence[str], method: str, target: str) -> str:
    """`insert-fake-quant{...}, calibrate{...}, finalize-quant` with the passes `added` where they belong.

    `layers`: pairs of a regular expression and a scheme. `method`: of calibration, `""` for the default. Raises UsageError for
    unknown names, and for schemes that the target lacks.
    """
    for each in (name, *(s for _, s in layers)):
        support.check(scheme(each), target)
    static = any(s.activation and not s.activation.dynamic for s in map(scheme, (name, *(s for _, s in layers))))
    own = [text for text in support.added if static and _name(text) not in map(_name, added)]
    groups = _placed([*own, *added])
    symmetric = "true" if support.symmetric else "false"
    options = [f"scheme={_quoted(name)}", f"placement={_quoted(support.placement)}", f"symmetric={symmetric}"]
    if layers:
        options.append("layers=[" + ", ".join(f"[{_quoted(p)}, {_quoted(s)}]" for p, s in layers) + "]")
    ranges = [f"symmetric={symmetric}", *([f"method={_quoted(method)}"] if method else [])]
    before, between, after = groups
    insertion, calibration = f"insert-fake-quant{{{','.join(options)}}}", f"calibrate{{{','.join(ranges)}}}"
    return ", ".join([*before, insertion, *between, calibration, *after, "finalize-quant"])


def _placed(added: Sequence[str]) -> list[list[str]]:
    """The added passes by their places, in the order of PLACES."""
    found: list[list[str]] = []
    left = list(added)
    for names in PLACES:
        chosen = [text for name in names for text in left if _name(text) == name]
        found.append(chosen)
        left = [text for text in left if text not in chosen]
    if left:
        known = [name for names in PLACES for name in names]
        raise UsageError(f"{_name(left[0])!r} is no pass that goes with quantization", hint=nearest(_name(left[0]), known))
    return found


def _name(text: str) -> str:
    return text.partition("{")[0].strip()


def _quoted(text: str) -> str:
    """A literal of pipeline text. Raises UsageError for text with both kinds of quotes."""
    if "'" not in text:
        return f"'{text}'"
    if '"' in text:
        raise UsageError(f"{text!r} holds both kinds of quotes", hint="write . for one of them")
    return f'"{text}"'


def precision(name: str) -> str:
    """What the scheme sets the target's precision option to, `""` where it quantizes; UsageError where it does nothing."""
    found = scheme(name)
    if found.name in (FLOAT.name, "fp32"):
        raise UsageError(f"--quant {name} quantizes nothing", hint="leave --quant out")
    return found.precision
