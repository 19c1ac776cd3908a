"""Checkpoints in 8-bit floats, read as ordinary ones: each block of a matrix is multiplied by its scale as it is read.

    name [m, n] in float8 · name_scale_inv [⌈m/128⌉, ⌈n/128⌉] ─▶ name [m, n] in float32

The quantisation of arXiv:2412.19437 §3.3. Nothing is kept in 8 bits here, so `quantization_config` is dropped from the
config: it would no longer be true of the model, nor of a copy that is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vitral.errors import CheckpointError
from vitral.weights.safetensors import TensorSource

SCALE = "_scale_inv"
_FLOAT8 = ("F8_E4M3", "F8_E5M2")
# What the keys of quantization_config may say besides the block; others change nothing about stored numbers.
_KNOWN: dict[str, tuple[Any, ...]] = {
    "quant_method": ("fp8",),
    "fmt": ("e4m3", None),
    "activation_scheme": ("dynamic", None),  # "static" folders hold scales of the activations besides
    "scale_fmt": ("ue8m0", "float", None),
    "dequantize": (True, False, None),
}


def dequantised(config: Mapping[str, Any], source: TensorSource) -> tuple[Mapping[str, Any], TensorSource]:
    """The config and the tensors without their quantisation; both as they are where it is none, or one of other kind.

    Raises:
        CheckpointError: 8-bit floats in a form that is not read, or scales that do not fit their matrices.
    """
    said = config.get("quantization_config")
    if not isinstance(said, Mapping) or said.get("quant_method") != "fp8":
        return config, source
    remedy = "Give weights in bfloat16, or a GGUF file"
    for key, allowed in _KNOWN.items():
        if said.get(key) not in allowed:
            raise CheckpointError(f"config.json: quantization_config says {key!r} is {said[key]!r:.40}", remedy)
    for key in said.keys() - {*_KNOWN, "weight_block_size", "modules_to_not_convert"}:
        raise CheckpointError(f"config.json: quantization_config has the key {key!r:.40}, which we do not know", remedy)
    block = said.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2 or not all(type(side) is int and side > 0 for side in block):
        raise CheckpointError(
            f"config.json: quantization_config says 'weight_block_size' is {block!r:.40}",
            f"It must be two whole numbers, such as [128, 128]. {remedy}",
        )
    rest = {key: value for key, value in config.items() if key != "quantization_config"}
    return rest, Dequantised(source, (block[0], block[1]))


class Dequantised:
    """A source whose 8-bit matrices come as float32, and whose scales are not seen.

    Raises:
        CheckpointError: a matrix without its scales, scales without a matrix, or of a shape that does not cover it.
    """

    def __init__(self, source: TensorSource, block: tuple[int, int]) -> None:
        self.source, self.block = source, block
        self.metadata = source.metadata
        here = source.names()
        scales = {name.removesuffix(SCALE) for name in here if name.endswith(SCALE)}
        small = {name for name in here if source.dtype(name) in _FLOAT8}
        for name in sorted(scales ^ small):
            lacks = f"is in 8 bits and has no {name + SCALE!r}" if name in small else "has scales and is not in 8 bits"
            raise CheckpointError(f"{name!r} {lacks}", "The folder is not complete")
        for name in small:
            self._check(name)
        self._small = small

    def _check(self, name: str) -> None:
        shape, scales = self.source.shape(name), self.source.shape(name + SCALE)
        blocks = tuple(-(-side // step) for side, step in zip(shape, self.block, strict=False))
        if len(shape) != 2 or scales != blocks:
            raise CheckpointError(
                f"{name!r} {list(shape)} has scales {list(scales)}; blocks of {list(self.block)} need {list(blocks)}",
                "The config and the tensors must describe the same model",
            )

    def names(self) -> list[str]:
        return [name for name in self.source.names() if not name.endswith(SCALE)]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(name)

    def dtype(self, name: str) -> str:
        return "F32" if name in self._small else self.source.dtype(name)

    def read(self, name: str) -> torch.Tensor:
        tensor = self.source.read(name)
        if name not in self._small:
            return tensor
        wide, (m, n) = tensor.float(), self.block
        scale = self.source.read(name + SCALE).float()
        for at, row in enumerate(scale):  # a strip of blocks at a time: the scales are never laid out in full
            wide[at * m : (at + 1) * m] *= row.repeat_interleave(n)[: wide.shape[1]]
        return wide
