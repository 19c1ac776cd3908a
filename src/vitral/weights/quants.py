"""GGML's block formats ↔ float32, in NumPy.

A quantised row is a run of blocks: 32 (or, for the K kinds, 256) weights share scales and sometimes minima. Every kind
here is `weight = scale · q` or `scale · q - minimum` with q unpacked from 2 to 8 bits; only the packing differs.
The arithmetic follows ggml's reference (ggml-quants.c) in order and precision, so that results are equal to the bit.

Legend: n blocks. Unpackers take `[n, block bytes]` uint8 and fill `[n, block weights]` float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitral.errors import VitralError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
_PER_ROUND = 1 << 17
"""Weights unpacked at once: the intermediate arrays stay in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A block format: GGML's number for it, weights and bytes per block, and how to unpack it."""

    id: int
    weights: int
    bytes: int
    unpack: Callable[[Bytes, Floats], None] | None = None
    """None for plain numbers, which need no unpacking."""
    dtype: str = "f4"
    """NumPy dtype of plain numbers."""


def _half(blocks: Bytes, at: int) -> Floats:
    """The little-endian float16 at byte `at` of every block, as float32 [n, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes, width: int = 16) -> Bytes:
    """[n, m] bytes → [n, 2m]: each run of `width` bytes gives its low halves, then its high halves."""
    runs = packed.reshape(len(packed), -1, 1, width)
    return np.concatenate([runs & 15, runs >> 4], axis=2).reshape(len(packed), -1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """[n, 4] bytes → [n, 32]: bit j of the 32-bit number, moved to where a fifth bit belongs (16)."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _bf16(blocks: Bytes, out: Floats) -> None:
    out.view(np.uint32)[:] = blocks.view("<u2").astype(np.uint32) << 16


def _q4_0(blocks: Bytes, out: Floats) -> None:
    np.multiply(_nibbles(blocks[:, 2:]).view(np.int8) - np.int8(8), _half(blocks, 0), out=out, dtype=np.float32)


def _q4_1(blocks: Bytes, out: Floats) -> None:
    np.multiply(_nibbles(blocks[:, 4:]), _half(blocks, 0), out=out, dtype=np.float32)
    out += _half(blocks, 2)


def _q5_0(blocks: Bytes, out: Floats) -> None:
    q = (_nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])).view(np.int8) - np.int8(16)
    np.multiply(q, _half(blocks, 0), out=out, dtype=np.float32)


def _q5_1(blocks: Bytes, out: Floats) -> None:
    q = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    np.multiply(q, _half(blocks, 0), out=out, dtype=np.float32)
    out += _half(blocks, 2)


def _q8_0(blocks: Bytes, out: Floats) -> None:
    np.multiply(blocks[:, 2:].view(np.int8), _half(blocks, 0), out=out, dtype=np.float32)


def _scaled(q: NDArray[np.integer], scale: Floats, minimum: Floats | None, out: Floats) -> None:
    """out = scale · q - minimum, one scale (and minimum) [n, groups] for each run of 256 / groups weights."""
    n, groups = scale.shape
    shape = (n, groups, -1)
    np.multiply(q.reshape(shape), scale[:, :, None], out=out.reshape(shape), dtype=np.float32)
    if minimum is not None:
        np.subtract(out.reshape(shape), minimum[:, :, None], out=out.reshape(shape))


def _planes(packed: Bytes, run: int, bits: int, count: int) -> Bytes:
    """Fields of `bits` bits: each run of bytes gives `count` planes, lowest bits first → [n, bytes · count]."""
    shifts = np.arange(0, bits * count, bits, dtype=np.uint8)[:, None]
    planes = (packed.reshape(len(packed), -1, 1, run) >> shifts) & np.uint8((1 << bits) - 1)
    return planes.reshape(len(packed), -1)


def _six_bit_pairs(packed: Bytes) -> tuple[Floats, Floats]:
    """12 bytes → 8 six-bit scales and 8 six-bit minima, each [n, 8] (Q4_K, Q5_K)."""
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scale = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=1)
    minimum = np.concatenate([middle & 63, (high >> 4) | ((middle >> 6) << 4)], axis=1)
    return scale.astype(np.float32), minimum.astype(np.float32)


def _q2_k(blocks: Bytes, out: Floats) -> None:
    scales = blocks[:, 0:16]
    scale = _half(blocks, 80) * (scales & 15).astype(np.float32)
    minimum = _half(blocks, 82) * (scales >> 4).astype(np.float32)
    _scaled(_planes(blocks[:, 16:80], 32, 2, 4), scale, minimum, out)


def _q3_k(blocks: Bytes, out: Floats) -> None:
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    six = _planes(low, 8, 4, 2) | (_planes(high, 4, 2, 4) << 4)
    scale = _half(blocks, 108) * (six.view(np.int8) - np.int8(32)).astype(np.float32)
    # The mask bit is set where nothing is to be subtracted.
    third = (_planes(blocks[:, 0:32], 32, 1, 8) ^ 1) << 2
    q = _planes(blocks[:, 32:96], 32, 2, 4).view(np.int8) - third.view(np.int8)
    _scaled(q, scale, None, out)


def _q4_k(blocks: Bytes, out: Floats) -> None:
    scale, minimum = _six_bit_pairs(blocks[:, 4:16])
    q = _nibbles(blocks[:, 16:], width=32)
    _scaled(q, _half(blocks, 0) * scale, _half(blocks, 2) * minimum, out)


def _q5_k(blocks: Bytes, out: Floats) -> None:
    scale, minimum = _six_bit_pairs(blocks[:, 4:16])
    q = _nibbles(blocks[:, 48:], width=32) | (_planes(blocks[:, 16:48], 32, 1, 8) << 4)
    _scaled(q, _half(blocks, 0) * scale, _half(blocks, 2) * minimum, out)


def _q6_k(blocks: Bytes, out: Floats) -> None:
    q = _nibbles(blocks[:, 0:128], width=64) | (_planes(blocks[:, 128:192], 32, 2, 4) << 4)
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    _scaled(q.view(np.int8) - np.int8(32), scale, None, out)


KINDS: dict[str, Kind] = {
    "F32": Kind(id=0, weights=1, bytes=4),
    "F16": Kind(id=1, weights=1, bytes=2, dtype="f2"),
    "BF16": Kind(id=30, weights=1, bytes=2, unpack=_bf16),
    "F64": Kind(id=28, weights=1, bytes=8, dtype="f8"),
    "I8": Kind(id=24, weights=1, bytes=1, dtype="i1"),
    "I16": Kind(id=25, weights=1, bytes=2, dtype="i2"),
    "I32": Kind(id=26, weights=1, bytes=4, dtype="i4"),
    "I64": Kind(id=27, weights=1, bytes=8, dtype="i8"),
    "Q4_0": Kind(id=2, weights=32, bytes=18, unpack=_q4_0),
    "Q4_1": Kind(id=3, weights=32, bytes=20, unpack=_q4_1),
    "Q5_0": Kind(id=6, weights=32, bytes=22, unpack=_q5_0),
    "Q5_1": Kind(id=7, weights=32, bytes=24, unpack=_q5_1),
    "Q8_0": Kind(id=8, weights=32, bytes=34, unpack=_q8_0),
    "Q2_K": Kind(id=10, weights=256, bytes=84, unpack=_q2_k),
    "Q3_K": Kind(id=11, weights=256, bytes=110, unpack=_q3_k),
    "Q4_K": Kind(id=12, weights=256, bytes=144, unpack=_q4_k),
    "Q5_K": Kind(id=13, weights=256, bytes=176, unpack=_q5_k),
    "Q6_K": Kind(id=14, weights=256, bytes=210, unpack=_q6_k),
}

OTHER_KINDS: dict[int, str] = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
"""Kinds we know by name only, so that an error can say which one a file holds."""


def dequantise(kind: str, raw: Bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    """Bytes of a tensor → its numbers in a fresh array: float32, or the file's own integer type for I8 … I64.

    Args:
        kind: a key of `KINDS`.
        raw: uint8, the tensor's bytes in any shape; as many as `shape` needs.
        shape: the tensor's shape, last dimension contiguous.

    Raises:
        VitralError: the kind is not one we read, or the byte count does not fit the shape.
    """
    if kind not in KINDS:
        raise VitralError(f"GGUF tensors of kind {kind} are not supported", f"Supported: {', '.join(KINDS)}")
    how = KINDS[kind]
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.ascontiguousarray(raw).reshape(-1)
    if raw.size * how.weights != count * how.bytes or (shape and shape[-1] % how.weights):
        raise VitralError(f"{raw.size} bytes of {kind} do not make a tensor of shape {shape}")
    # Damaged scales may be NaN or infinite: that is the file's content, for whoever reads it to judge.
    with np.errstate(invalid="ignore", over="ignore"):
        if how.unpack is None:
            to = np.dtype(how.dtype if how.dtype.startswith("i") else "f4")
            return raw.view("<" + how.dtype).astype(to).reshape(shape)
        blocks = raw.reshape(-1, how.bytes)
        out = np.empty((len(blocks), how.weights), dtype=np.float32)
        step = _PER_ROUND // how.weights
        for start in range(0, len(blocks), step):
            how.unpack(blocks[start : start + step], out[start : start + step])
    return out.reshape(shape)


def quantise_q8_0(values: Floats) -> Bytes:
    """float32 [..., k · 32] → Q8_0 bytes [..., k · 34], rounding half away from zero as ggml does."""
    if values.shape[-1] % 32:
        raise VitralError(f"A row of {values.shape[-1]} numbers cannot be Q8_0", "Its length must be a multiple of 32")
    blocks = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = blocks * inverse
    size = np.abs(scaled)
    floor = np.floor(size)
    rounded = np.copysign(floor + (size - floor >= np.float32(0.5)), scaled)
    out = np.empty((len(blocks), 34), dtype=np.uint8)
    out[:, :2] = scale.astype("<f2").view(np.uint8)
    out[:, 2:] = rounded.astype(np.int8).view(np.uint8)
    return out.reshape(*values.shape[:-1], -1)
