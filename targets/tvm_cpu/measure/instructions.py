"""The kind of an A64 instruction from its encoding. Arm Architecture Reference Manual for A-profile, section C4.1."""

from __future__ import annotations

from functools import cache

# (mask, value, kind): the first that fits. Vector multiply-adds, dot products and matrix products stand before the rest.
_PATTERNS = (
    (0xBF20FC00, 0x0E20CC00, "fma"),  # FMLA, FMLS (vector)
    (0xBF80B400, 0x0F801000, "fma"),  # FMLA, FMLS (by element)
    (0xBF60FC00, 0x0E400C00, "fma"),  # FMLA, FMLS (vector, half precision)
    (0xBFC0B400, 0x0F001000, "fma"),  # FMLA, FMLS (by element, half precision)
    (0x9FE0FC00, 0x0E809400, "dot"),  # SDOT, UDOT (vector)
    (0x9FC0F400, 0x0F80E000, "dot"),  # SDOT, UDOT (by element)
    (0xBFE0FC00, 0x0E809C00, "dot"),  # USDOT (vector)
    (0x9FE0F400, 0x0E80A400, "matmul"),  # SMMLA, UMMLA, USMMLA
    (0x1E000000, 0x04000000, "sve"),
    (0xFC000000, 0x94000000, "call"),  # BL
    (0xFFFFFC1F, 0xD63F0000, "call"),  # BLR
    (0x1C000000, 0x14000000, "branch"),
    (0x1C000000, 0x10000000, "integer"),  # immediate
    (0x0E000000, 0x0A000000, "integer"),  # register
    (0x0E000000, 0x0E000000, "vector"),  # floating point and vectors, scalar ones too
)


@cache
def kind_of(word: int) -> str:
    """`word` is the 32-bit encoding: fma, dot, matmul, vector, load, store (of vectors), load_integer, store_integer,
    integer, branch, call, sve or other.
    """
    for mask, value, kind in _PATTERNS:
        if word & mask == value:
            return kind
    if word & 0x0A000000 != 0x08000000:
        return "other"
    vector = bool(word >> 26 & 1)
    return _direction(word, vector) + ("" if vector else "_integer")


def _direction(word: int, vector: bool) -> str:
    literal = word & 0x3B000000 == 0x18000000
    one_register = word >> 27 & 7 == 7
    loads = word >> 22 & 3 != 0 if one_register and not vector else word >> 22 & 1
    return "load" if literal or loads else "store"
