"""Files → a model with its numbers in place.

    folder | file.gguf ─▶ Checkpoint(config, tensors) ─▶ family.spec(config) ─▶ build on meta ─▶ fill ─▶ Model

The model is built without memory and each tensor is put in its place once, so that loading never holds two copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from vitral.errors import CheckpointError, NotFoundError
from vitral.families import names_of, of_config
from vitral.nn import Model, Spec
from vitral.weights.files import user_path
from vitral.weights.fp8 import dequantised
from vitral.weights.gguf import GGUFFile
from vitral.weights.gguf_config import HfView
from vitral.weights.marian_bin import recurrent_decoder
from vitral.weights.names import depths, match, tensors_of
from vitral.weights.onnx_t5 import FILES, OnnxT5
from vitral.weights.safetensors import SafetensorsFolder, TensorSource
from vitral.weights.safetensors_header import parse_json

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A published model as it lies on disk, opened and checked but not read.

    Args:
        path: the folder, or the GGUF file.
        config: `config.json`, or what the GGUF metadata says in its terms.
        tensors: the source of the weights, under the names of the Hugging Face files.
        metadata: the GGUF metadata; empty for a folder.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: TensorSource
    metadata: Mapping[str, Any]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model folder, or a GGUF file (also one that lies alone in a folder). `~` is the home folder.

    A folder of `encoder.onnx` and `decoder.onnx` without config.json is read as an exported T5.
    """
    path = user_path(path)
    if not path.exists():
        raise NotFoundError(f"there is no file or folder {str(path)!r:.300}", "Give a model folder or a GGUF file")
    if path.is_dir() and not (path / "config.json").exists():
        if all((path / name).exists() for name in FILES):
            exported = OnnxT5(path)
            return Checkpoint(path=path, config=exported.config, tensors=exported, metadata={})
        alone = sorted(path.glob("*.gguf"))
        if len(alone) != 1:
            many = f" and {len(alone)} GGUF files" if alone else ""
            raise CheckpointError(f"{path} has no config.json{many}", "Give a model folder, or one GGUF file by name")
        path = alone[0]
    if path.is_file():
        if path.suffix.lower() == ".bin" and (decoder := recurrent_decoder(path)):
            remedy = "vitral.weights.marian_encoder loads its encoder alone"
            raise CheckpointError(f"{path.name} is a Marian model: its decoder is recurrent ({decoder})", remedy)
        if path.suffix.lower() != ".gguf":
            raise CheckpointError(f"{path.name} is not a GGUF file", "Give a GGUF file, or the folder of a model")
        view = HfView(GGUFFile(path))
        return Checkpoint(path=path, config=view.config, tensors=view, metadata=view.metadata)
    config, tensors = dequantised(read_json(path / "config.json"), SafetensorsFolder(path))
    return Checkpoint(path=path, config=config, tensors=tensors, metadata={})


def read_json(path: Path, default: Any = None, *, kind: type = dict) -> Any:
    """A JSON object (with `kind=list` a list) from a model folder; `default` where there is no such file.

    Raises:
        CheckpointError: the file is broken, or cannot be read; also where it is missing and no default is given.
    """
    if default is not None and not path.exists():
        return default
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_json(path, text, kind, _broken)


def _broken(path: Path, what: str) -> NoReturn:
    raise CheckpointError(f"{path} is a broken JSON file: {what}", "Download or write it again")


def read_spec(checkpoint: Checkpoint) -> tuple[Any, dict[str, Any], Spec]:
    """The family, the config with what the tensors add to it, and the spec."""
    family = of_config(checkpoint.config)
    config = dict(checkpoint.config)
    if hasattr(family, "complete"):
        config = family.complete(config, checkpoint.tensors.names())
    return family, config, family.spec(config)


def load_model(
    checkpoint: Checkpoint, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Model, Spec, dict[str, Any], Any]:
    """Build the model that the config describes and fill it.

    Returns:
        (model in eval mode, its spec, the completed config, the family module).

    Raises:
        CheckpointError: a tensor too many or too few, or of another shape; a config that describes no possible model.
    """
    family, config, spec = read_spec(checkpoint)
    try:
        model: Model = spec.build(device="meta", dtype=dtype)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path.name}: the config describes no possible model: {error}") from error
    fill(model, checkpoint.tensors, names_of(family, config), folder=checkpoint.path.name, device=device, dtype=dtype)
    return model.eval(), spec, config, family


def fill(
    model: nn.Module,
    source: TensorSource,
    names: Any,
    *,
    folder: str,
    device: str | torch.device,
    dtype: torch.dtype,
) -> None:
    """Put every tensor of a source where it belongs, each exactly once; shapes are all checked before any is read."""
    parameters = tensors_of(model)
    found = match(names, source.names(), parameters, depths=depths(parameters), folder=folder)
    for entry in found.entries:
        shape = entry.shape([tuple(parameters[name].shape) for name in entry.parameters])
        if source.shape(entry.file) != shape:
            raise CheckpointError(
                f"{folder}: {entry.file!r} has shape {list(source.shape(entry.file))}, "
                f"the config makes it {list(shape)}",
                "The config and the tensors must describe the same model",
            )
    for repeat, original in found.repeats:
        if source.shape(repeat) != source.shape(original) or not torch.equal(
            source.read(repeat), source.read(original)
        ):
            raise CheckpointError(f"{folder}: {repeat!r} differs from {original!r}, to which the config ties it")
    for entry in found.entries:
        tensor = source.read(entry.file)
        if not tensor.is_floating_point():
            raise CheckpointError(f"{folder}: {entry.file!r} holds {tensor.dtype}, not floating-point numbers")
        for name, part in zip(entry.parameters, entry.unpack(tensor), strict=True):
            put(model, name, part, entry.index, device=device, dtype=dtype)


def put(
    model: nn.Module, name: str, part: Tensor, index: int | None, *, device: str | torch.device, dtype: torch.dtype
) -> None:
    """Replace a parameter or buffer by a copy of `part`; with an index, that place along its first axis."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    old = getattr(module, leaf)
    if not isinstance(old, nn.Parameter):
        dtype = old.dtype  # state that its part keeps in a dtype of its own
    if index is not None and not old.is_meta:
        old.data[index].copy_(part)
        return
    if index is None:
        new = part.to(device=device, dtype=dtype, copy=True).contiguous()
    else:
        new = torch.empty(old.shape, device=device, dtype=dtype)
        new[index].copy_(part)
    setattr(module, leaf, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
