"""Read which globals a pickle would import, from its opcodes alone: nothing is unpickled.

A pickle runs code through the callables that it names, so its names decide. `GLOBAL` and `INST` carry their name in
the opcode. `STACK_GLOBAL` takes it from the stack: it counts as resolved only where the two values on top are string
literals or memo entries known to be one, pushed right before it. Everything else (the extension registry,
computed names) is reported as unresolved, and a caller that wants safety refuses it.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Sequence
from dataclasses import dataclass

_PUSH = frozenset(["STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"])
_PUT = frozenset(["PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"])
_GET = frozenset(["GET", "BINGET", "LONG_BINGET"])
_STILL = frozenset(["FRAME", "PROTO"])
_STORAGES = "Double Float Half BFloat16 Long Int Short Char Byte Bool ComplexDouble ComplexFloat"
_DTYPES = """
    float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool complex64 complex128
    float8_e4m3fn float8_e5m2 quint8 qint8 qint32
"""

#: Names that rebuild tensors and plain containers, and do nothing else. `torch.storage._load_from_bytes` is not among them: it unpickles.
WEIGHT_GLOBALS = frozenset(
    {"collections.OrderedDict", "collections.Counter", "_codecs.encode", "torch.Size", "torch.Tensor", "torch.device"}
    | {"torch.nn.parameter.Parameter", "torch.storage.UntypedStorage", "torch.storage.TypedStorage"}
    | {f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "parameter", "parameter_with_state", "qtensor", "sparse_tensor")}
    | {f"torch.{kind}Storage" for kind in _STORAGES.split()}
    | {f"torch.{kind}" for kind in _DTYPES.split()}
    | {"torch.per_tensor_affine", "torch.per_channel_affine", "torch.serialization._get_layout", "torch.strided"}
)


@dataclass(frozen=True)
class Scan:
    """What a pickle names. `unresolved` says in words what could not be told from the opcodes. `length` in bytes."""

    names: tuple[str, ...]
    unresolved: tuple[str, ...]
    length: int

    @property
    def holds_only_weights(self) -> bool:
        return not self.unresolved and not self.suspicious

    @property
    def suspicious(self) -> tuple[str, ...]:
        """Names outside WEIGHT_GLOBALS."""
        return tuple(n for n in self.names if n not in WEIGHT_GLOBALS)

    @property
    def dangers(self) -> tuple[str, ...]:
        """What stands against reading the pickle as weights, in words."""
        return self.suspicious + self.unresolved


def scan_pickle(data: bytes) -> Scan:
    """Scan the pickle at the start of `data`, up to its STOP. Raises ValueError for bytes that are not a pickle."""
    names: dict[str, None] = {}
    unresolved: dict[str, None] = {}
    memo: dict[int, str | None] = {}
    top: list[str | None] = []
    stream = io.BytesIO(data)
    try:
        for opcode, argument, position in pickletools.genops(stream):
            if opcode.name in ("GLOBAL", "INST"):
                names.setdefault(str(argument).replace(" ", ".", 1))
            elif opcode.name == "STACK_GLOBAL":
                if len(top) >= 2 and top[-1] is not None and top[-2] is not None:
                    names.setdefault(f"{top[-2]}.{top[-1]}")
                else:
                    unresolved.setdefault(f"a name computed while unpickling (STACK_GLOBAL at byte {position})")
            elif opcode.name.startswith("EXT"):
                unresolved.setdefault(f"an entry of the extension registry ({opcode.name} at byte {position})")
            top = _top_of_stack(opcode.name, argument, top, memo)
    except (ValueError, UnicodeDecodeError, IndexError, EOFError, OverflowError, MemoryError) as error:
        raise ValueError(f"not a pickle, or a damaged one: {error}") from error
    return Scan(tuple(names), tuple(unresolved), stream.tell())


def scan_stream(data: bytes, limit: int = 4) -> Scan:
    """Scan up to `limit` pickles that follow each other, as in a `torch.save` file before torch 1.6.

    Raises ValueError if the first one is damaged; what follows the pickles may be raw bytes.
    """
    scans: list[Scan] = [scan_pickle(data)]
    position = scans[0].length
    while len(scans) < limit and position < len(data):
        try:
            scans.append(scan_pickle(data[position:]))
        except ValueError:
            break
        position += scans[-1].length
    return _joined(scans, position)


def _joined(scans: Sequence[Scan], length: int) -> Scan:
    return Scan(
        tuple(dict.fromkeys(n for s in scans for n in s.names)),
        tuple(dict.fromkeys(u for s in scans for u in s.unresolved)),
        length,
    )


def _top_of_stack(opcode: str, argument: object, top: list[str | None], memo: dict[int, str | None]) -> list[str | None]:
    """The known strings on top of the stack after one opcode; empty where nothing is known."""
    if opcode in _PUSH:
        return [*top, str(argument)]
    if opcode in _GET:
        return [*top, memo.get(int(str(argument)))]
    if opcode in _PUT:
        memo[len(memo) if opcode == "MEMOIZE" else int(str(argument))] = top[-1] if top else None
        return top
    return top if opcode in _STILL else []
