"""Writes ONNX files for the tests: just enough Protocol Buffers, independent of the reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

TYPES = {"float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def text(field: int, value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def tensor(name: str, values: Any, *, how: str = "raw") -> bytes:
    """A TensorProto; `how` is raw, packed or single (numbers one by one)."""
    values = np.asarray(values)
    out = b"".join(number(1, size) for size in values.shape)
    out += number(2, TYPES[values.dtype.name]) + text(8, name)
    if how == "raw":
        return out + text(9, np.ascontiguousarray(values).tobytes())
    if values.dtype == np.float32:
        return out + text(4, values.tobytes())
    field = 7 if values.dtype == np.int64 else 5
    bits = values.view(np.uint16) if values.dtype == np.float16 else values
    numbers = [varint(int(value)) for value in bits.reshape(-1)]
    if how == "packed":
        return out + text(field, b"".join(numbers))
    return out + b"".join(varint(field << 3) + each for each in numbers)


def attribute(name: str, value: Any) -> bytes:
    if isinstance(value, int):
        return text(1, name) + number(3, value) + number(20, 2)
    if isinstance(value, float):
        return text(1, name) + varint(2 << 3 | 5) + np.float32(value).tobytes() + number(20, 1)
    if isinstance(value, bytes):
        return text(1, name) + text(5, value) + number(20, 4)
    return text(1, name) + b"".join(number(8, each) for each in value) + number(20, 7)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> bytes:
    out = b"".join(text(1, each) for each in inputs) + b"".join(text(2, each) for each in outputs)
    out += text(3, name or f"/{op}") + text(4, op)
    return out + b"".join(text(5, attribute(key, value)) for key, value in attributes.items())


def model(nodes: Sequence[bytes], tensors: Sequence[bytes] = (), *, also: bytes = b"") -> bytes:
    graph = b"".join(text(1, each) for each in nodes) + b"".join(text(5, each) for each in tensors)
    return number(1, 8) + text(7, graph + text(2, "main")) + also


def quantised_product(scope: str, x: str, w: str, y: str) -> list[bytes]:
    """The nodes that ONNX Runtime's dynamic quantisation makes of `y = x · w`."""
    return [
        node("DynamicQuantizeLinear", [x], [f"{x}.q", f"{x}.s", f"{x}.z"], f"{scope}/quantise"),
        node("Mul", [f"{x}.s", f"{w}_scale"], [f"{y}.scales"], f"{scope}/scales_mul"),
        node("MatMulInteger", [f"{x}.q", f"{w}_quantized", f"{x}.z", f"{w}_zero_point"], [f"{y}.i"], f"{scope}/MatMul"),
        node("Cast", [f"{y}.i"], [f"{y}.f"], f"{scope}/cast", to=1),
        node("Mul", [f"{y}.f", f"{y}.scales"], [y], f"{scope}/output_scale_mul"),
    ]
