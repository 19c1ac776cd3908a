"""Safetensors checkpoints: one file, or a folder of shards with an index; read and written.

The header is checked strictly on opening (`safetensors_header.py`); tensors are read through a memory map, so that a
checkpoint costs no memory before it is used.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

import torch
from safetensors.torch import save_file

from vitral.errors import CheckpointError
from vitral.weights.files import file_inside, replacing
from vitral.weights.safetensors_header import (
    DTYPES,
    MAX_HEADER,
    Entry,
    check_header,
    damaged,
    parse_json,
    read_header,
)

INDEX_SUFFIX = ".safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")


@runtime_checkable
class TensorSource(Protocol):
    """Named tensors in a file or folder, read one at a time."""

    metadata: Mapping[str, Any]

    def names(self) -> list[str]:
        """Every tensor's name, in file order."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without reading the tensor."""
        ...

    def dtype(self, name: str) -> str:
        """The dtype of what `read` returns, as safetensors writes it (`F32`, `BF16`, …)."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """The tensor on the CPU. It may share memory with the file: copy it before changing it."""
        ...


class SafetensorsFile:
    """One safetensors file, checked on opening and read through a memory map.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                header, data_start, size = read_header(self.path, file)
                self._entries, self.metadata = check_header(self.path, header, data_start, size)
                # A private (copy-on-write) map: tensors cost no memory until used, and cannot write to the file.
                self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def dtype(self, name: str) -> str:
        return self._entry(name).dtype

    def read(self, name: str) -> torch.Tensor:
        entry = self._entry(name)
        dtype = DTYPES[entry.dtype]
        if entry.start == entry.stop:
            return torch.empty(entry.shape, dtype=dtype)
        if entry.start % dtype.itemsize:  # the format allows it, the processor may not: copy to an aligned place
            flat = torch.frombuffer(bytearray(self._map[entry.start : entry.stop]), dtype=dtype)
        else:
            count = (entry.stop - entry.start) // dtype.itemsize
            flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=entry.start)
        return flat.view(entry.shape)

    def _entry(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}") from None


class SafetensorsFolder:
    """A Hugging Face folder's weights: `model.safetensors`, or shards under a `*.safetensors.index.json`,
    or one safetensors file of another name.

    Raises:
        CheckpointError: nothing readable there, pickle files alone, an ambiguous choice, or an index that does not
            agree with its shards tensor by tensor.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CheckpointError(f"{self.folder} is not a folder", "Give a model folder")
        self._files: dict[str, SafetensorsFile] = {}
        single, index = self._choose()
        if single is not None:
            files = [SafetensorsFile(single)]
            self.metadata: Mapping[str, Any] = files[0].metadata
        else:
            assert index is not None
            files, self.metadata = self._open_shards(index)
        for file in files:
            self._files.update(dict.fromkeys(file.names(), file))

    def names(self) -> list[str]:
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file(name).shape(name)

    def dtype(self, name: str) -> str:
        return self._file(name).dtype(name)

    def read(self, name: str) -> torch.Tensor:
        return self._file(name).read(name)

    def _file(self, name: str) -> SafetensorsFile:
        try:
            return self._files[name]
        except KeyError:
            raise CheckpointError(f"{self.folder} holds no tensor {name!r}") from None

    def _choose(self) -> tuple[Path | None, Path | None]:
        """The single file, or else the index, as `transformers` chooses."""
        present = sorted(entry.name for entry in self.folder.iterdir())
        files = [name for name in present if name.endswith(".safetensors") and not name.startswith(".")]
        indices = [name for name in present if name.endswith(INDEX_SUFFIX) and not name.startswith(".")]
        if "model.safetensors" in files:
            return file_inside(self.folder, "model.safetensors"), None
        if "model" + INDEX_SUFFIX in indices:
            return None, file_inside(self.folder, "model" + INDEX_SUFFIX)
        if len(indices) == 1:
            return None, file_inside(self.folder, indices[0])
        if len(files) == 1 and not indices:
            return file_inside(self.folder, files[0]), None
        if files or indices:
            found = ", ".join((indices or files)[:4])
            raise CheckpointError(
                f"{self.folder} holds several safetensors files and nothing says which to read ({found})",
                f"Name one model.safetensors or add the model{INDEX_SUFFIX} that lists them",
            )
        return self._refuse(present)

    def _refuse(self, present: list[str]) -> NoReturn:
        pickles = [name for name in present if name.endswith(_PICKLES)]
        if pickles:
            raise CheckpointError(
                f"{self.folder} holds its weights as {pickles[0]}, a kind of file that can run code when opened; "
                "only safetensors and GGUF are read",
                'Convert it in a sandbox: python -c "from transformers import AutoModel as M; '
                f"M.from_pretrained('{self.folder}').save_pretrained('converted')\"",
            )
        raise CheckpointError(f"{self.folder} holds no weights", "It needs model.safetensors or a .gguf file")

    def _open_shards(self, path: Path) -> tuple[list[SafetensorsFile], dict[str, Any]]:
        size = path.stat().st_size
        if size > MAX_HEADER:
            damaged(path, f"it has {size} bytes; the limit is {MAX_HEADER}")
        index = parse_json(path, path.read_bytes())
        where, metadata = index.get("weight_map"), index.get("metadata", {})
        if not isinstance(where, dict) or not where or not all(isinstance(v, str) for v in where.values()):
            damaged(path, "weight_map must map tensor names to file names")
        if not isinstance(metadata, dict):
            damaged(path, "metadata must be an object")
        shards = []
        for name in sorted(set(where.values())):
            if not name.endswith(".safetensors"):
                damaged(path, f"{name!r:.80} is not a safetensors file")
            shard = SafetensorsFile(file_inside(self.folder, name))
            listed = {tensor for tensor, home in where.items() if home == name}
            held = set(shard.names())
            for tensors, what in ((listed - held, "is listed for {} but not in it"), (held - listed, "is in {} only")):
                if tensors:
                    damaged(path, f"tensor {min(tensors)!r:.80} {what.format(name)}")
            shards.append(shard)
        return shards, metadata


def write_safetensors(
    folder: str | Path,
    tensors: Mapping[str, torch.Tensor],
    max_shard_bytes: int = MAX_SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write `model.safetensors` into an existing folder, or shards with an index when it would pass `max_shard_bytes`.

    What stood there before is replaced. At no moment does the folder hold a mixture that reads without an error: the
    old index goes before the first shard changes, the new one comes last.

    Returns:
        The files written, the index last.
    """
    folder = Path(folder)
    note = {"format": "pt", **(metadata or {})}
    shards = list(_shards(tensors, max_shard_bytes))
    index = folder / f"model{INDEX_SUFFIX}"
    if len(shards) == 1:
        path = folder / "model.safetensors"
        _write_file(path, tensors, shards[0], note)
        index.unlink(missing_ok=True)
        _remove_shards(folder, keep=())
        return [path]
    index.unlink(missing_ok=True)
    names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, tensors, shard, note)
    where = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with replacing(index) as path:
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": where}, indent=2)
        path.write_text(text + "\n", encoding="utf-8")
    (folder / "model.safetensors").unlink(missing_ok=True)
    _remove_shards(folder, keep=names)
    return [*(folder / name for name in names), index]


def _shards(tensors: Mapping[str, torch.Tensor], limit: int) -> Iterator[list[str]]:
    """Names in order, cut where the next tensor would pass the limit; a tensor larger than it stands alone."""
    shard: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        needed = tensor.numel() * tensor.element_size()
        if shard and size + needed > limit:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += needed
    yield shard


def _write_file(path: Path, tensors: Mapping[str, torch.Tensor], names: list[str], metadata: dict[str, str]) -> None:
    seen: set[int] = set()
    ready = {}
    for name in names:
        tensor = tensors[name].detach().cpu().contiguous()
        # The library refuses tensors that share memory: each file entry has bytes of its own.
        if tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        ready[name] = tensor
    with replacing(path) as temporary:
        save_file(ready, temporary, metadata=metadata)


def _remove_shards(folder: Path, keep: Collection[str]) -> None:
    for path in folder.glob("model-?????-of-?????.safetensors"):
        if path.name not in keep:
            path.unlink()
