"""The header of a safetensors file, checked against the file before any tensor is touched.

A file is an 8-byte little-endian header length, a JSON header `{name: {dtype, shape, data_offsets}}`, and the tensors'
bytes back to back (https://huggingface.co/docs/safetensors). The format has no checksum, so structure is all there is
to hold on to: every rule of it is an error here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

from vitral.errors import CheckpointError

MAX_HEADER = 100_000_000
"""Bytes; the format's own limit."""
MAX_DIMS = 16

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where one tensor lies and what it is."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Byte offset from the start of the file."""
    stop: int


def read_header(path: Path, file: IO[bytes]) -> tuple[bytes, int, int]:
    """(header bytes, offset of the first tensor byte, file size); bounded before anything is read."""
    size = path.stat().st_size
    if size < 10:
        damaged(path, f"it has {size} bytes; a safetensors file has at least 10")
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        damaged(path, f"its header claims {length} bytes; the limit is {MAX_HEADER}")
    if 8 + length > size:
        damaged(path, f"its header claims {length} bytes but the file has {size}")
    if file.read(1) != b"{":
        damaged(path, "its header is not a JSON object")
    header = b"{" + file.read(length - 1)
    return header, 8 + length, size


def damaged(path: Path, what: str) -> NoReturn:
    """Raise the error for a file that breaks the format."""
    raise CheckpointError(f"{path} is not a sound safetensors checkpoint: {what}", "Download or export it again")


def parse_json(path: Path, text: bytes, kind: type = dict, broken: Callable[[Path, str], NoReturn] = damaged) -> Any:
    """A JSON object (or a list, with `kind`) read strictly: UTF-8, no duplicate keys, no NaN, no bottomless nesting.

    Raises:
        CheckpointError: naming `path`; `broken` raises it.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            broken(path, f"the key {twice!r:.80} occurs twice")
        return found

    def no_constant(word: str) -> NoReturn:
        broken(path, f"it holds {word}, which is not JSON")

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except CheckpointError:
        raise
    except UnicodeDecodeError as error:
        broken(path, f"its JSON is not UTF-8 at byte {error.start}")
    except (ValueError, RecursionError) as error:
        broken(path, f"its JSON does not parse: {str(error)[:120]}")
    if not isinstance(found, kind):
        broken(path, f"its JSON is not {'a list' if kind is list else 'an object'}")
    return found


def check_header(path: Path, text: bytes, data_start: int, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """(tensors by name, metadata), once the tensors are known to tile the rest of the file exactly."""
    header = parse_json(path, text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        damaged(path, "__metadata__ must map names to text")
    entries = {name: _check_entry(path, name, fields, data_start, size) for name, fields in header.items()}
    expected = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != expected:
            damaged(path, f"tensor {name!r:.80} {'overlaps another' if entry.start < expected else 'follows a gap'}")
        expected = entry.stop
    if expected != size:
        damaged(path, f"{size - expected} bytes follow the last tensor")
    return entries, metadata


def _check_entry(path: Path, name: str, fields: Any, data_start: int, size: int) -> Entry:
    where = f"tensor {name!r:.80}"
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        damaged(path, f"{where} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        damaged(path, f"{where} has dtype {dtype!r:.40}; known are {', '.join(DTYPES)}")
    if not _are_counts(shape) or len(shape) > MAX_DIMS:
        damaged(path, f"{where} has shape {shape!r:.80}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        damaged(path, f"{where} has data_offsets {offsets!r:.80}")
    start, stop = data_start + offsets[0], data_start + offsets[1]
    if stop > size:
        damaged(path, f"{where} ends at byte {stop} but the file has {size}: it is cut short")
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if needed != stop - start:
        damaged(path, f"{where} of shape {shape} and dtype {dtype} needs {needed} bytes but has {stop - start}")
    return Entry(dtype=dtype, shape=tuple(shape), start=start, stop=stop)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)
