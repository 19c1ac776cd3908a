"""GGUF files (llama.cpp's format): read through a memory map after a strict check, and written.

`GGUFFile` is a `TensorSource` under GGUF's own names; `gguf_config.HfView` shows it under Hugging Face names.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from vitral.errors import CheckpointError, VitralError
from vitral.weights.files import mapped, replacing
from vitral.weights.gguf_header import ARRAY, BOOL, DEFAULT_ALIGNMENT, MAGIC, SCALARS, STRING, Reader, Tensor, padded
from vitral.weights.quants import KINDS, Bytes, dequantise, quantise_q8_0

VERSION = 3
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7}
"""The kinds we write, with llama.cpp's number for a file that is mostly of that kind."""
_ALWAYS_F32 = ("position_embd.weight", "token_types.weight", "rope_freqs.weight")
"""Tensors that llama.cpp adds to activations as they are."""


class GGUFFile:
    """One GGUF file: `.metadata` as Python values, and a `TensorSource` whose tensors come out dequantised.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._map = mapped(self.path)  # F32 tensors share it
        reader = Reader(self.path, self._map)
        n_tensors, n_keys = reader.head()
        self.metadata: dict[str, Any] = reader.metadata(n_keys)
        self._tensors = reader.tensors(n_tensors)
        self._data = reader.check_data(self._tensors, self.metadata)

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name).shape

    def kind(self, name: str) -> str:
        """How the tensor is stored: `F32`, `Q4_1`, …"""
        return self._tensor(name).kind

    def dtype(self, name: str) -> str:
        """The dtype `read` returns: `F32`, or the file's own for whole numbers."""
        kind = self.kind(name)
        return kind if kind.startswith("I") else "F32"

    def read(self, name: str) -> torch.Tensor:
        """The tensor, dequantised to float32 (whole numbers as they are)."""
        tensor = self._tensor(name)
        raw = self.raw(name)
        if tensor.kind == "F32" and not raw.ctypes.data % 4:
            return torch.from_numpy(raw.view("<f4").reshape(tensor.shape))
        return torch.from_numpy(dequantise(tensor.kind, raw, tensor.shape))

    def raw(self, name: str) -> Bytes:
        """The tensor's bytes as they lie in the file, uint8 [nbytes], mapped and not copied."""
        tensor = self._tensor(name)
        return np.frombuffer(self._map, dtype=np.uint8, count=tensor.nbytes, offset=self._data + tensor.offset)

    def _tensor(self, name: str) -> Tensor:
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}") from None


def write_gguf(
    path: str | Path,
    metadata: Mapping[str, Any],
    tensors: Iterable[tuple[str, torch.Tensor]],
    kind: str = "F32",
) -> Path:
    """Write a GGUF file in one step: it appears whole or not at all.

    Tensors come one at a time and may be made on the way; only one is held. Vectors, biases and the tables that
    llama.cpp adds as they are stay F32; rows that Q8_0 cannot cut into blocks become F16.

    Args:
        metadata: key → bool, int, float, str, bytes (written as an array of U8) or a list of one of them.
        kind: `F32`, `F16` or `Q8_0`.

    Raises:
        VitralError: an unknown kind, or a value or tensor that GGUF cannot hold.
    """
    if kind not in FILE_TYPES:
        raise VitralError(f"GGUF files of kind {kind!r} are not written", f"Give one of {', '.join(FILE_TYPES)}")
    path = Path(path)
    fields = {"general.file_type": FILE_TYPES[kind], **metadata}
    with replacing(path) as temporary, temporary.open("wb") as file:
        bulk = temporary.with_name(temporary.name + ".data")
        try:
            with bulk.open("w+b") as data:
                descriptions = _write_data(data, tensors, kind)
                head = struct.pack("<4sIQQ", MAGIC, VERSION, len(descriptions), len(fields))
                head += b"".join(_text(key) + _typed(key, value) for key, value in fields.items())
                head += b"".join(descriptions)
                file.write(head.ljust(padded(len(head), DEFAULT_ALIGNMENT), b"\0"))
                data.seek(0)
                shutil.copyfileobj(data, file, 1 << 20)
        finally:
            bulk.unlink(missing_ok=True)
    return path


def _write_data(file: IO[bytes], tensors: Iterable[tuple[str, torch.Tensor]], kind: str) -> list[bytes]:
    """Write the tensors' bytes; returns their descriptions."""
    descriptions: list[bytes] = []
    seen: set[str] = set()
    for name, tensor in tensors:
        if name in seen or not 1 <= tensor.dim() <= 4 or 0 in tensor.shape:
            what = "comes twice" if name in seen else f"has shape {tuple(tensor.shape)}"
            raise VitralError(f"The tensor {name!r:.80} {what}, which GGUF cannot hold")
        seen.add(name)
        values = tensor.detach().cpu().to(torch.float32).contiguous().numpy()
        stored, raw = _encode(name, values, kind)
        dims = values.shape[::-1]
        where = struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, KINDS[stored].id, file.tell())
        descriptions.append(_text(name) + where)
        file.write(raw)
        file.write(b"\0" * (padded(len(raw), DEFAULT_ALIGNMENT) - len(raw)))
    return descriptions


def _encode(name: str, values: np.ndarray, kind: str) -> tuple[str, bytes]:
    if kind == "F32" or values.ndim == 1 or not name.endswith(".weight") or name in _ALWAYS_F32:
        return "F32", values.astype("<f4").tobytes()
    if kind == "Q8_0" and values.shape[-1] % KINDS["Q8_0"].weights == 0:
        return "Q8_0", quantise_q8_0(values).tobytes()
    largest = float(np.abs(values).max())
    if largest > 65504.0:
        raise VitralError(f"The tensor {name!r:.80} holds {largest:g}, too large for F16", "Write the file as F32")
    return "F16", values.astype("<f2").tobytes()


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return struct.pack("<Q", len(encoded)) + encoded


def _typed(key: str, value: Any) -> bytes:
    """A metadata value with its type in front, as llama.cpp's converter chooses types."""
    if isinstance(value, (bytes, bytearray)):
        return struct.pack("<IIQ", ARRAY, 0, len(value)) + bytes(value)
    if not isinstance(value, (list, tuple)):
        kind = _type_of(key, value)
        return struct.pack("<I", kind) + _plain(kind, value)
    kinds = {_type_of(key, item) for item in value}
    if kinds <= {4, 5}:  # llama.cpp reads arrays of whole numbers as I32
        kinds = {5}
    if len(kinds) != 1:
        raise VitralError(f"The metadata list {key} mixes kinds of values", "GGUF arrays hold one kind")
    kind = kinds.pop()
    return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(_plain(kind, item) for item in value)


def _type_of(key: str, value: Any) -> int:
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return (4 if value < 2**32 else 10) if value >= 0 else (5 if value >= -(2**31) else 11)
    if isinstance(value, float):
        return 6
    if isinstance(value, str):
        return STRING
    raise VitralError(f"The metadata value {key} = {value!r:.40} cannot be written to GGUF")


def _plain(kind: int, value: Any) -> bytes:
    return _text(value) if kind == STRING else struct.pack(SCALARS[kind], value)
