"""A model → files that other programs open: a Hugging Face folder, or a GGUF file.

A folder is written beside its place and moved there whole, so that there is never half a model.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitral.errors import VitralError
from vitral.families.common.config import is_body
from vitral.weights.files import sync_folder, user_path, writing
from vitral.weights.gguf import write_gguf
from vitral.weights.gguf_config import gguf_metadata, gguf_tensors
from vitral.weights.names import depths, export, tensors_of
from vitral.weights.safetensors import write_safetensors

MAX_SHARD_BYTES = 5_000_000_000


def published_tensors(model: nn.Module, names: Any) -> Iterator[tuple[str, Tensor]]:
    """The parameters under their published names, one by one; a shared parameter comes once."""
    parameters = tensors_of(model)
    for entry in export(names, parameters, depths=depths(parameters)):
        yield entry.file, entry.pack([parameters[name].detach().cpu() for name in entry.parameters])


def published_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config as it is published: without our own marks, and with the dtype of the weights beside it."""
    return {**{k: v for k, v in config.items() if not k.startswith("_vitral") and k != "torch_dtype"}, "dtype": dtype}


def save_folder(
    folder: str | Path,
    *,
    model: nn.Module,
    names: Any,
    config: Mapping[str, Any],
    dtype: str,
    also: Callable[[Path], None] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write a Hugging Face folder. The folder must not exist, or be empty.

    Args:
        also: writes further files (tokenizer, template, generation config) into the folder it is given.
    """
    folder = user_path(folder)
    with writing(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise VitralError(f"{str(folder)!r} exists and is not empty", "Name a new folder, or remove that one")
        place = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            place.chmod(0o755)
            text = json.dumps(published_config(config, dtype), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
            (place / "config.json").write_text(text, encoding="utf-8")
            if is_body(config):
                names = replace(names, prefix="")
            write_safetensors(place, dict(published_tensors(model, names)), max_shard_bytes=max_shard_bytes)
            if also is not None:
                also(place)
            sync_folder(place)
            if folder.exists():
                folder.rmdir()
            place.rename(folder)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
    return folder


def save_gguf(
    path: str | Path,
    *,
    model: nn.Module,
    names: Any,
    config: Mapping[str, Any],
    tokenizer_fields: Mapping[str, Any],
    kind: str = "F32",
    pooling: tuple[str, int | None] | None = None,
    about: Mapping[str, str] | None = None,
) -> Path:
    """Write a GGUF file that llama.cpp opens. It must not exist, and be called `*.gguf`.

    Args:
        kind: F32, F16 or Q8_0.
        pooling: (mode, longest text) of a model that embeds texts, see `gguf_metadata`.
        about: `general.*` keys that say whose model it is, without the prefix: name, license.

    Raises:
        VitralError: the place, or what the model has or lacks that the format cannot say.
    """
    path = user_path(path)
    if path.suffix.lower() != ".gguf":
        raise VitralError(f"{str(path)!r:.300} does not end in .gguf", "Programs tell GGUF files by that ending")
    config = published_config(config, "float32")
    metadata = gguf_metadata(config, tokenizer_fields, pooling)
    metadata |= {f"general.{key}": value for key, value in (about or {}).items()}
    _check_heads(model, config["model_type"])
    with writing(path):
        if path.exists():
            raise VitralError(f"{str(path)!r} exists", "Name a new file, or remove that one")
        write_gguf(path, metadata, gguf_tensors(config, published_tensors(model, names)), kind)
    return path


def _check_heads(model: nn.Module, model_type: str) -> None:
    """Refuse a model whose heads a GGUF file would add or lose, and so come back as another model."""
    head, classifier = getattr(model, "head", None), getattr(model, "classifier", None)
    if model_type != "bert" and head is None:
        raise VitralError(
            "The model is the body of a decoder with no head; a GGUF file would be read as one that generates, with "
            "its embedding for a head",
            "Export to the Hugging Face format instead (--to hf)",
        )
    if model_type == "bert" and (head is not None or classifier is not None):
        raise VitralError(
            "A GGUF file keeps the body of an encoder only, and this one has heads (masked token, next sentence)",
            "Export to the Hugging Face format instead (--to hf), or in Python set model.head = model.classifier = "
            "None first",
        )
