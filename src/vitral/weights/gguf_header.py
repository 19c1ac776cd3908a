"""The head of a GGUF file: counts, metadata and tensor descriptions, checked against the file while they are read.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic, version, counts; key-value metadata; one
description per tensor; padding; the tensors, each at a multiple of the alignment. Little-endian, versions 2 and 3.
Every count, length and offset is held against the file's size before memory is taken for it.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from vitral.errors import CheckpointError
from vitral.weights.quants import KINDS, OTHER_KINDS

MAGIC = b"GGUF"
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_DIMS = 4
MAX_NAME = 1 << 16
MAX_STRING = 1 << 25
MAX_ITEMS = 1 << 21
"""Array items in the whole metadata; the largest vocabularies in use need about 1.3 million."""
MAX_NESTING = 4
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32

SCALARS: dict[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
"""GGUF's value types as struct formats; 8 is a string, 9 an array."""
STRING, ARRAY, BOOL = 8, 9, 7
_KIND_BY_ID = {kind.id: name for name, kind in KINDS.items()}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Where one tensor lies and what it is."""

    kind: str
    shape: tuple[int, ...]
    """Torch order: the last dimension is contiguous (GGUF writes it first)."""
    offset: int
    """Bytes from the start of the tensor section."""
    nbytes: int


class Reader:
    """Reads values in order from a buffer, never past its end."""

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self._path = path
        self._buffer = buffer
        self._size = len(buffer)
        self._at = 0
        self._items = 0

    def head(self) -> tuple[int, int]:
        """(number of tensors, number of metadata keys)."""
        if self._take(4, "the magic number") != MAGIC:
            raise CheckpointError(f"{self._path} is not a GGUF file", "Its first four bytes must be GGUF")
        version = self._number("<I", "the version")
        if version and not version & 0xFFFF:
            self._fail("it is big-endian, which is not supported", "Convert it with gguf-convert-endian")
        if version not in (2, 3):
            self._fail(f"its version is {version}; 2 and 3 are supported", "Convert the model again with llama.cpp")
        n_tensors, n_keys = self._number("<Q", "the tensor count"), self._number("<Q", "the key count")
        # The smallest key takes 8 + 4 + 1 bytes, the smallest tensor description 8 + 4 + 8 + 4 + 8.
        self._count("tensors", n_tensors, MAX_TENSORS, 32)
        self._count("metadata keys", n_keys, MAX_KEYS, 13)
        return n_tensors, n_keys

    def metadata(self, n_keys: int) -> dict[str, Any]:
        """The next `n_keys` key-value pairs."""
        found: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._text(MAX_NAME, "a metadata key")
            if key in found:
                self._fail(f"metadata key {key!r:.80} occurs twice")
            found[key] = self._value(self._number("<I", f"the type of {key!r:.80}"), f"the value of {key!r:.80}", 0)
        return found

    def tensors(self, n_tensors: int) -> dict[str, Tensor]:
        """The next `n_tensors` descriptions."""
        found: dict[str, Tensor] = {}
        for _ in range(n_tensors):
            name = self._text(MAX_NAME, "a tensor name")
            if name in found:
                self._fail(f"tensor {name!r:.80} occurs twice")
            found[name] = self._description(f"tensor {name!r:.80}")
        return found

    def check_data(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> int:
        """The offset of the tensor section, once its tensors are known to tile it and to end with the file."""
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            self._fail(f"general.alignment is {alignment!r:.40}; it must be a power of two up to {MAX_ALIGNMENT}")
        if metadata.get("split.count", 1) not in (0, 1):
            self._fail("it is one part of a split model", "Join the parts with llama-gguf-split --merge")
        start = padded(self._at, alignment)
        available = self._size - start
        end = 0
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
            if tensor.offset % alignment:
                self._fail(f"tensor {name!r:.80} starts at {tensor.offset}, not a multiple of {alignment}")
            if tensor.offset != padded(end, alignment):
                self._fail(f"tensor {name!r:.80} {'overlaps another' if tensor.offset < end else 'follows a gap'}")
            end = tensor.offset + tensor.nbytes
            if end > available:
                self._fail(f"tensor {name!r:.80} ends {end - available} bytes past the file's end: it is cut short")
        if tensors and available > padded(end, alignment):
            self._fail(f"{available - padded(end, alignment)} bytes follow the last tensor")
        return start

    def _description(self, where: str) -> Tensor:
        n_dims = self._number("<I", f"the number of dimensions of {where}")
        if not 1 <= n_dims <= MAX_DIMS:
            self._fail(f"{where} has {n_dims} dimensions; 1 to {MAX_DIMS} are possible")
        dims = [self._number("<Q", f"the shape of {where}") for _ in range(n_dims)]
        kind_id = self._number("<I", f"the kind of {where}")
        offset = self._number("<Q", f"the offset of {where}")
        kind = _KIND_BY_ID.get(kind_id)
        if kind is None:
            name = OTHER_KINDS.get(kind_id, f"number {kind_id}")
            self._fail(f"{where} is of kind {name}, which is not supported", f"Supported: {', '.join(KINDS)}")
        how, count = KINDS[kind], math.prod(dims)
        if not all(0 < dim < 2**63 for dim in dims) or dims[0] % how.weights:
            self._fail(f"{where} of kind {kind} has dimensions {dims}")
        nbytes = count // how.weights * how.bytes
        if nbytes > self._size or offset > self._size:
            self._fail(f"{where} claims {nbytes} bytes at {offset} but the file has {self._size}: it is cut short")
        return Tensor(kind=kind, shape=tuple(reversed(dims)), offset=offset, nbytes=nbytes)

    def _value(self, kind: int, what: str, depth: int) -> Any:
        if kind == STRING:
            return self._text(MAX_STRING, what)
        if kind == ARRAY:
            return self._array(what, depth + 1)
        if kind == BOOL:
            byte = self._take(1, what)[0]
            if byte > 1:
                self._fail(f"{what} is a truth value of {byte}")
            return bool(byte)
        if kind not in SCALARS:
            self._fail(f"{what} has the unknown type {kind}")
        return self._number(SCALARS[kind], what)

    def _array(self, what: str, depth: int) -> list[Any]:
        if depth > MAX_NESTING:
            self._fail(f"{what} nests arrays more than {MAX_NESTING} deep")
        kind, count = self._number("<I", what), self._number("<Q", what)
        if kind not in SCALARS and kind not in (STRING, ARRAY):
            self._fail(f"{what} is an array of the unknown type {kind}")
        smallest = 8 if kind == STRING else 12 if kind == ARRAY else struct.calcsize(SCALARS[kind])
        self._count(f"items in {what}", count, MAX_ITEMS, smallest)
        self._items += count * (4 if kind == ARRAY else 1)  # a list weighs about four numbers
        if self._items > MAX_ITEMS:
            self._fail(f"its metadata arrays hold more than {MAX_ITEMS} items together")
        if kind in SCALARS and kind != BOOL:
            return np.frombuffer(self._take(count * smallest, what), dtype=SCALARS[kind]).tolist()
        return [self._value(kind, what, depth) for _ in range(count)]

    def _text(self, limit: int, what: str) -> str:
        length = self._number("<Q", f"the length of {what}")
        if length > limit:
            self._fail(f"{what} claims {length} bytes; the limit is {limit}")
        try:
            return self._take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            self._fail(f"{what} is not UTF-8")

    def _number(self, form: str, what: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form), what))[0]

    def _take(self, count: int, what: str) -> bytes:
        if count > self._size - self._at:
            self._fail(f"it ends inside {what}: it is cut short")
        self._at += count
        return self._buffer[self._at - count : self._at]

    def _count(self, what: str, count: int, limit: int, smallest: int) -> None:
        if count > limit:
            self._fail(f"it claims {count} {what}; the limit is {limit}")
        if count * smallest > self._size - self._at:
            self._fail(f"it claims {count} {what} but has only {self._size - self._at} bytes left")

    def _fail(self, what: str, remedy: str = "Download or export it again") -> NoReturn:
        raise CheckpointError(f"{self._path} is not a sound GGUF file: {what}", remedy)


def padded(at: int, alignment: int) -> int:
    """The next multiple of `alignment` from `at` on."""
    return (at + alignment - 1) // alignment * alignment
