"""`edgecc run --prompt`: continue a text with an artifact, printing it as it is computed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from edgecc.cli.command import Answer, Document
from edgecc.cli.process import write
from edgecc.errors import UsageError

if TYPE_CHECKING:
    from edgecc.cli.session import Session
    from edgecc.cli.terminal import Terminal
    from edgecc.targeting.base import Target
    from edgecc.targeting.generation import GenerationRequest, Piece

#: Flags that say how to generate, by attribute, and what each is where it is not given.
_DEFAULTS: Mapping[str, Any] = {"max_tokens": 128, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}


def declare(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("generation, for targets whose runtime continues a text")
    group.add_argument("--prompt", metavar="TEXT", help="print what follows this text, token by token")
    group.add_argument("--prompt-ids", type=_ids, metavar="1,2,3", help="the prompt as token ids, for a model without a tokenizer")
    group.add_argument("--max-tokens", type=int, metavar="N", help="stop after N tokens (128), or where the text ends")
    group.add_argument("--temperature", type=float, metavar="T", help="draw tokens by chance, from --seed; 0 takes the likeliest (0)")
    group.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens; 0 from all (0)")
    group.add_argument("--top-p", type=float, metavar="P", help="draw from the fewest likeliest tokens of together probability P (1)")


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of token ids, want numbers such as 1,2,3") from None


def wanted(args: argparse.Namespace) -> bool:
    """Whether a prompt was given. Raises UsageError for flags that do not go together."""
    prompts = [args.prompt is not None, args.prompt_ids is not None]
    if not any(prompts):
        stray = [_flag(name) for name in _DEFAULTS if getattr(args, name) is not None]
        if stray:
            raise UsageError(f"{', '.join(stray)} without a prompt", hint="--prompt TEXT, or --prompt-ids 1,2,3")
        return False
    if all(prompts):
        raise UsageError("--prompt goes with no --prompt-ids", hint="give one of them")
    others = [flag for flag, given in (("--input", args.input), ("-o", args.output)) if given]
    if others:
        raise UsageError(f"a prompt goes with no {' and no '.join(others)}", hint="--json prints the text and its token ids")
    return True


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def request(args: argparse.Namespace) -> GenerationRequest:
    """What the flags ask for. Raises UsageError."""
    from edgecc.targeting.generation import GenerationRequest, Sampling

    limit, *sampling = (default if getattr(args, name) is None else getattr(args, name) for name, default in _DEFAULTS.items())
    return GenerationRequest(args.prompt if args.prompt_ids is None else args.prompt_ids, limit, Sampling(*sampling), args.threads)


def run(args: argparse.Namespace, session: Session, target: Target, manifest: Mapping[str, Any]) -> Answer:
    asked = request(args)
    if args.dry_run:
        return Answer({"text": None, "tokens": [], "stop": None})
    session.terminal.progress.step("loading the model")
    pieces: list[Piece] = []
    with closing(target.generate(args.directory, manifest, asked)) as generated:
        for piece in generated:
            pieces.append(piece)
            _stream(session.terminal, f"{piece.token} " if piece.text is None else piece.text)
    texts = [piece.text for piece in pieces if piece.text is not None]
    text = "".join(texts) if texts else None
    return Answer({"text": text, "tokens": [piece.token for piece in pieces], "stop": pieces[-1].stop if pieces else ""})


def _stream(terminal: Terminal, text: str) -> None:
    """Print at once; with `--json` the document has it all."""
    terminal.progress.close()
    if not terminal.json:
        write(terminal.out, text)


def show(document: Document, terminal: Terminal) -> None:
    """End the text that has been printed, and say in the log why it ends."""
    if document["stop"] is None:
        terminal.print("dry run   the prompt was not run")
        return
    terminal.print()
    why = {"end": "the model ended the text", "limit": "that many were asked for", "context": "no more fit the model's context"}
    terminal.log(f"{len(document['tokens'])} tokens: {why.get(document['stop'], document['stop'])}", level=1)
