"""Protocol Buffers on the wire (https://protobuf.dev/programming-guides/encoding): the few lines that reading needs.

SentencePiece models and ONNX graphs are such messages. A reader of the fields that matter takes less than a dependency,
and can hold every length against the bytes that are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types. 3 and 4 are groups, which no file of ours has."""


def fields(data: bytes | memoryview) -> Iterator[tuple[int, Any]]:
    """(field number, value) of one message: int for varints, a slice of `data` for everything else.

    Raises:
        ValueError: the bytes end early or hold a wire type that no such file has.
    """
    place = 0
    while place < len(data):
        key, place = varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, place = varint(data, place)
            yield number, value
            continue
        if wire == BYTES:
            size, place = varint(data, place)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {place}")
        if size > len(data) - place:
            raise ValueError(f"field {number} ends past the end of the file")
        yield number, data[place : place + size]
        place += size


def varint(data: bytes | memoryview, place: int) -> tuple[int, int]:
    """(the number at `place`, the place after it); seven bits a byte, the lowest first.

    Raises:
        ValueError: the bytes end inside it, or it is longer than 64 bits can need.
    """
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("a number ends past the end of the file")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, place
    raise ValueError(f"a number of more than ten bytes at byte {place}")


def signed(value: int) -> int:
    """An int32 or int64 as it is written: negative numbers as the 64-bit two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value
