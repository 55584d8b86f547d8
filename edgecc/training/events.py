"""Event files that TensorBoard reads, written without TensorBoard.

A file is a sequence of TFRecords: length u64, masked CRC of it u32, data, masked CRC of that u32, all little-endian. The data is a
protocol-buffer `Event`: 1 wall_time double, 2 step int64, 3 file_version string, 5 summary; a `Summary` holds values (1), each with
a tag (1, string) and a simple_value (2, float). tensorflow/core/lib/io/record_writer.h and tensorflow/core/util/event.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_POLYNOMIAL = 0x82F63B78


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC. RFC 3720, appendix B.4."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def record(data: bytes) -> bytes:
    """One TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def version(seconds: float) -> bytes:
    """The event that a file begins with. `seconds`: since 1970."""
    return b"\x09" + struct.pack("<d", seconds) + _delimited(3, b"brain.Event:2")


def scalars(seconds: float, step: int, values: Mapping[str, float]) -> bytes:
    """An event with values by tag."""
    summary = b"".join(_delimited(1, _delimited(1, tag.encode()) + b"\x15" + struct.pack("<f", value)) for tag, value in values.items())
    return b"\x09" + struct.pack("<d", seconds) + b"\x10" + _varint(step) + _delimited(5, summary)


def _delimited(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
