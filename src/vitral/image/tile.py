"""Pictures cut into tiles: the canvas of tiles that fits best, the picture scaled into it, black around it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitral.errors import CheckpointError
from vitral.image.prepare import Prepare

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Tiled:
    """A picture in tiles.

    Args:
        pixels: float32 [most, 3, H, W]; zeros where there is no tile.
        shape: number of the way it was cut, from 1.
        tiles: how many there are.
    """

    pixels: NDArray[np.float32]
    shape: int
    tiles: int


@dataclass(frozen=True, kw_only=True)
class PrepareTiles:
    """RGB picture → `Tiled` (arXiv:2407.21783 §7; the published processor).

    Args:
        prepare: filter, factor, mean and std; its size is a tile's.
        most: tiles a picture may be cut into.
    """

    prepare: Prepare
    most: int = 4

    @classmethod
    def of(cls, settings: Mapping[str, Any], model: Mapping[str, Any]) -> PrepareTiles:
        """What a preprocessor_config.json says, see `Prepare.of`."""
        most = settings.get("max_image_tiles", model.get("vision_config", {}).get("max_num_tiles", 4))
        prepare = Prepare.of(settings, model)
        if not isinstance(most, int) or not 1 <= most <= 64:
            raise CheckpointError(f"preprocessor_config.json: 'max_image_tiles' is {most!r:.40}", "Give 1 to 64")
        if not isinstance(prepare.size, tuple) or prepare.size[0] != prepare.size[1]:
            raise CheckpointError(f"preprocessor_config.json: 'size' is {prepare.size!r:.60}", "Tiles are square")
        return cls(prepare=prepare, most=most)

    def __call__(self, image: Image) -> Tiled:
        assert isinstance(self.prepare.size, tuple)
        side = self.prepare.size[0]
        rows, columns = self.canvas(image.height, image.width, side)
        height, width = fitted(image.height, image.width, (rows * side, columns * side), side)
        small = np.array(image.resize((width, height), resample=self.prepare.resample))
        black = np.zeros((rows * side, columns * side, 3), dtype=np.uint8)
        black[:height, :width] = small
        numbers = self.prepare.numbers(black.transpose(2, 0, 1))
        tiles = numbers.reshape(3, rows, side, columns, side).transpose(1, 3, 0, 2, 4).reshape(-1, 3, side, side)
        pixels = np.zeros((self.most, 3, side, side), dtype=np.float32)
        pixels[: len(tiles)] = tiles
        return Tiled(pixels=pixels, shape=self.shapes().index((rows, columns)) + 1, tiles=len(tiles))

    def shapes(self) -> list[tuple[int, int]]:
        """Every (rows, columns) of at most `most` tiles, in the order of their numbers."""
        sides = range(1, self.most + 1)
        return [(rows, columns) for rows in sides for columns in sides if rows * columns <= self.most]

    def canvas(self, height: int, width: int, side: int) -> tuple[int, int]:
        """The (rows, columns) in which the picture is enlarged least, or else shrunk least; of those the fewest."""
        scales = {shape: min(shape[0] * side / height, shape[1] * side / width) for shape in self.shapes()}
        larger = [scale for scale in scales.values() if scale >= 1]
        best = min(larger) if larger else max(scales.values())
        return min((shape for shape, scale in scales.items() if scale == best), key=math.prod)


def fitted(height: int, width: int, canvas: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) of the picture in the canvas: in proportion, no side enlarged beyond a tile's."""
    most_high, most_wide = (min(max(has, side), room) for has, room in zip((height, width), canvas, strict=True))
    if most_wide / width < most_high / height:
        return min(math.floor(height * (most_wide / width)) or 1, most_high), most_wide
    return most_high, min(math.floor(width * (most_high / height)) or 1, most_wide)
