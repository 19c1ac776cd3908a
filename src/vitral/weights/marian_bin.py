"""Marian's own binary files (https://github.com/marian-nmt/marian-dev, `binary.cpp`, version 1): items with their data.

    version, count │ count × (name length, type, rank, data length) │ names │ shapes │ padding │ data …

Whole numbers are little-endian and unsigned, of 8 bytes; the sizes in a shape have 4. Every count and length is held
against the file. Matrices may be 8-bit (`intgemm8`, the kind that is not tiled for one processor): behind the numbers
stands their multiplier, by which they are to be divided, and they lie as they are multiplied with, so that all but the
table of tokens have rows and columns changed over. The options of the training run are an item, `special:model.yml`.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from vitral.errors import CheckpointError

VERSION = 1
MAX_ITEMS = 1 << 14
MAX_NAME = 1 << 10
MAX_RANK = 4
MAX_OPTIONS = 1 << 16
OPTIONS = "special:model.yml"
TABLE = "Wemb"
FLOAT, CHARACTERS, INTGEMM8 = 0x404, 0x101, 0x4101
_ALIGNED = 256
"""Data of every item is a multiple of this many bytes."""
_HEAD = struct.Struct("<QQQQ")


@dataclass(frozen=True, kw_only=True)
class Item:
    """Where one item lies and what it is."""

    kind: int
    shape: tuple[int, ...]
    start: int
    nbytes: int


class MarianFile:
    """One file: `.items` by name, `.options` of the training run, and `read` for the tensors.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path} cannot be read: {error}", "Download it again") from error
        self.items = self._read_items()
        self.options: dict[str, str] = self._read_options()

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32, by its shape in Marian: a matrix is in × out, the table of tokens words × width."""
        item = self._item(name)
        count = math.prod(item.shape)
        if item.kind == FLOAT:
            return np.frombuffer(self._map, "<f4", count, item.start).reshape(item.shape).copy()
        if item.kind != INTGEMM8 or len(item.shape) != 2:
            self._fail(f"{name!r:.80} is of a kind that is not read here ({item.kind:#x}, {list(item.shape)})")
        (multiplier,) = struct.unpack_from("<f", self._map, item.start + count)
        if not math.isfinite(multiplier) or multiplier <= 0:
            self._fail(f"{name!r:.80} has the multiplier {multiplier}")
        values = np.frombuffer(self._map, "i1", count, item.start)
        values = values.reshape(item.shape) if name == TABLE else values.reshape(item.shape[::-1]).T
        return values.astype(np.float32) / np.float32(multiplier)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without reading the tensor."""
        return self._item(name).shape

    def _item(self, name: str) -> Item:
        if name not in self.items:
            self._fail(f"it holds no {name!r:.80}")
        return self.items[name]

    def _read_items(self) -> dict[str, Item]:
        version, count = struct.unpack("<QQ", self._take(0, 16))
        if version != VERSION or not 0 < count <= MAX_ITEMS:
            self._fail(f"it begins with version {version} and {count} items")
        at = 16
        heads = []
        for _ in range(count):
            heads.append(_HEAD.unpack(self._take(at, _HEAD.size)))
            at += _HEAD.size
        names: list[str] = []
        for length, *_ in heads:
            if not 1 < length <= MAX_NAME:
                self._fail(f"a name has {length} bytes")
            names.append(self._text(self._take(at, length).rstrip(b"\0")))
            at += length
        shapes = []
        for _, _, rank, _ in heads:
            if rank > MAX_RANK:
                self._fail(f"a tensor has {rank} dimensions")
            shapes.append(struct.unpack(f"<{rank}I", self._take(at, 4 * rank)))
            at += 4 * rank
        at += 8 + struct.unpack("<Q", self._take(at, 8))[0]
        items: dict[str, Item] = {}
        for name, shape, (_, kind, _, nbytes) in zip(names, shapes, heads, strict=True):
            needed = math.prod(shape) * (4 if kind == FLOAT else 1) + (4 if kind == INTGEMM8 else 0)
            if name in items or not needed <= nbytes < needed + _ALIGNED or at + nbytes > len(self._map):
                self._fail(f"{name!r:.80} comes twice, or its {nbytes} bytes at {at} do not fit {list(shape)}")
            items[name] = Item(kind=kind, shape=shape, start=at, nbytes=nbytes)
            at += nbytes
        if at != len(self._map):
            self._fail(f"it has {len(self._map)} bytes and its items end at {at}")
        return items

    def _read_options(self) -> dict[str, str]:
        """The flat options `key: value`; a list is what its brackets hold, or "" where its rows stand below."""
        item = self._item(OPTIONS)
        if item.kind != CHARACTERS or item.nbytes > MAX_OPTIONS:
            self._fail(f"its {OPTIONS} is no short text")
        lines = self._text(self._take(item.start, item.nbytes).rstrip(b"\0")).splitlines()
        pairs = (line.partition(":") for line in lines if line[:1].isalpha())
        return {key: value.strip().strip('"') for key, _, value in pairs}

    def _take(self, at: int, count: int) -> bytes:
        if count > len(self._map) - at:
            self._fail(f"it ends after {len(self._map)} bytes: it is cut short")
        return self._map[at : at + count]

    def _text(self, data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            self._fail("a text in it is not UTF-8")

    def _fail(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self.path} is not a Marian file to be read here: {what}", "Download it again")


def recurrent_decoder(path: Path) -> str:
    """The kind of a Marian model's recurrent decoder (`ssru`); "" where there is none, or no such file."""
    try:
        with path.open("rb") as file:
            if file.read(8) != struct.pack("<Q", VERSION):
                return ""
        options = MarianFile(path).options
    except (OSError, CheckpointError):
        return ""
    return options.get("dec-cell", "unknown") if options.get("transformer-decoder-autoreg") == "rnn" else ""
