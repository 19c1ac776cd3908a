"""Pictures on their way into a model: taken out of messages, prepared, put where the model looks for them.

message ─▶ take ─▶ read_image ─▶ prepare ─┬─ soft tokens, in the places that the text keeps for them
                                          └─ a memory of tiles, which some layers look at
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitral.errors import CheckpointError, VitralError
from vitral.image import Prepare, PrepareTiles, Tiled, data_url, read_image
from vitral.nn import Dual, Model, Patches, Sight, TiledTower, looking
from vitral.text.tokenizer import Tokenizer

MOST = 16
"""Pictures in one prompt."""
TILES = 128256
"""The id that keeps a place for a picture in tiles, where the config does not say (arXiv:2407.21783 §7)."""
MARKS = {"boi": 255999, "eoi": 256000}
"""The ids before and behind a run of soft tokens, where the config does not say (arXiv:2503.19786 §2.1)."""
Messages = Sequence[Mapping[str, Any]]


class Prompt(list[int]):
    """The ids a model reads, and the prepared pictures that they keep places for, in their order."""

    def __init__(self, ids: Sequence[int], pictures: Sequence[Any] = ()) -> None:
        super().__init__(ids)
        self.pictures = tuple(pictures)


def take(messages: Messages) -> tuple[list[Mapping[str, Any]], list[Any]]:
    """The messages with a bare {"type": "image"} for each picture in them, and the pictures: paths, bytes or opened.

    A picture is a part {"type": "image", "image" | "path" | "base64": …}, or, as OpenAI's clients send it,
    {"type": "image_url", "image_url": {"url": "data:image/…;base64,…"}}. Addresses are refused: nothing is fetched.
    So are parts that are neither pictures nor text: templates would leave them out and say nothing.
    """
    found: list[Any] = []

    def bare(part: Any) -> Any:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind not in ("image", "image_url"):
            if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
                raise VitralError(
                    f"content holds a part of type {kind!r:.40}", "Give text, image or image_url", param="messages"
                )
            return part
        found.append(_picture(part, f"image {len(found) + 1}"))
        if len(found) > MOST:
            raise VitralError(f"there are more than {MOST} images", "Give fewer", param="messages")
        return {"type": "image"}

    rows = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            message = {**message, "content": [bare(part) for part in content]}
        rows.append(message)
    return rows, found


def _picture(part: Mapping[str, Any], name: str) -> Any:
    url = part.get("image_url", part.get("url"))
    url = url.get("url") if isinstance(url, Mapping) else url
    if isinstance(url, str):
        return data_url(url, name)
    if isinstance(part.get("base64"), str):
        try:
            return base64.b64decode(part["base64"], validate=True)
        except (binascii.Error, ValueError):
            raise VitralError(f"{name} is not valid base64", param="messages") from None
    held = [part[key] for key in ("image", "path") if part.get(key) is not None]
    if len(held) != 1:
        raise VitralError(f"{name} holds no picture", "Give image, path, base64 or image_url", param="messages")
    return held[0]


class Pictures:
    """How a model takes pictures.

    Args:
        model: a model that sees.
        config: its config.json. settings: its preprocessor_config.json; {} where there is none.
    """

    def __init__(
        self, model: Any, config: Mapping[str, Any], settings: Mapping[str, Any], tokenizer: Tokenizer | None
    ) -> None:
        self.tiled = isinstance(model.vision, TiledTower) if isinstance(model, Model) else False
        self.prepare: Any = (PrepareTiles if self.tiled else Prepare).of(settings, config)
        vision = getattr(model, "vision", None)
        self.each = vision.tokens if isinstance(vision, Sight) else 1
        """Places that a picture takes in the text."""
        self.token = vision.token if isinstance(vision, Sight) else int(config.get("image_token_index", TILES))
        """The id that keeps a place."""
        self.patches = next((part for part in model.modules() if isinstance(part, Patches)), None)
        self.side = vision.projector.side if isinstance(vision, Sight) else None
        """Patches along the sides of a picture, where they cannot be more or fewer."""
        self._agree(vision)
        self.writes: dict[str, str] = {}
        """What the template writes for a picture → what the model reads there."""
        if tokenizer is not None and isinstance(vision, Sight):
            self.writes = self._runs(config, tokenizer)

    @classmethod
    def of(
        cls, model: Any, config: Mapping[str, Any], settings: Mapping[str, Any], tokenizer: Tokenizer | None
    ) -> Pictures | None:
        """None for a model that sees nothing."""
        sees = isinstance(model, Dual) or isinstance(model.embed, Patches) or model.vision is not None
        return cls(model, config, settings, tokenizer) if sees else None

    def _agree(self, vision: Any) -> None:
        """Refuse settings that make pictures of a size that the model cannot take."""
        prepare = self.prepare.prepare if self.tiled else self.prepare
        size, side = prepare.crop or prepare.size, self.side
        if self.tiled:
            (tiles, n, _), patch = vision.positions.places, vision.proj_in.kernel_size[0]
            side = math.isqrt(n - 1)
            if self.prepare.most != tiles:
                raise CheckpointError(
                    f"preprocessor_config.json: 'max_image_tiles' is {self.prepare.most} and the model has {tiles}",
                    "Take the published files",
                )
        elif self.patches is not None:
            patch = self.patches.size
        if side is not None and size != (side * patch, side * patch):
            raise CheckpointError(
                f"preprocessor_config.json: 'size' is {size!r:.40} and the model sees {side * patch} × {side * patch}",
                "Take the published files",
            )

    def _runs(self, config: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, str]:
        """A picture is read as a run of soft tokens between its two marks, on lines of their own."""
        ids = [config.get(f"{end}_token_index") or config.get(f"{end}_token_id") or id for end, id in MARKS.items()]
        if not all(isinstance(id, int) for id in ids):
            raise CheckpointError(f"config.json: the marks around a picture are {ids!r:.60}", "They must be ids")
        begin, token, end = (tokenizer.token_text(id) for id in (ids[0], self.token, ids[1]))
        return {begin: f"\n\n{begin}{token * self.each}{end}\n\n"}

    def read(self, images: Any) -> list[Any]:
        """Pictures, by path, bytes or opened, as the model was trained to see them."""
        if isinstance(images, (str, bytes, bytearray, Path)) or not isinstance(images, Sequence):
            images = [images]
        return [self.prepare(read_image(image, f"image {i}")) for i, image in enumerate(images, 1)]

    def pixels(self, images: Any, device: torch.device) -> Tensor:
        """[I, C, H, W] of pictures, or of what is such a table already."""
        if isinstance(images, (Tensor, np.ndarray)):
            return self._fitting(images, device)
        return self.stacked([self.read(images)], device)

    def stacked(self, rows: Sequence[Sequence[Any]], device: torch.device) -> Tensor:
        """The prepared pictures of all rows, one after the other: [I, C, H, W]."""
        each = [picture for row in rows for picture in row]
        if not each:
            raise VitralError("there are no images", "Give at least one", param="images")
        if len({picture.shape for picture in each}) > 1:
            raise VitralError(
                "the images are of several shapes, and this model's preprocessor_config.json keeps them so",
                "Give them one by one",
                param="images",
            )
        return self._fitting(np.stack(each), device)

    def _fitting(self, table: Any, device: torch.device) -> Tensor:
        """The table as a tensor that the model can take."""
        assert self.patches is not None
        channels, size = self.patches.proj.in_channels, self.patches.size
        try:
            pixels = torch.as_tensor(table, device=device)
        except TypeError:  # an array of objects or of texts
            pixels = torch.empty(0, device=device)
        good = pixels.ndim == 4 and pixels.is_floating_point() and len(pixels) > 0 and pixels.shape[1] == channels
        grid = tuple(side // size for side in pixels.shape[2:])
        good = good and (min(grid) > 0 if self.side is None else grid == (self.side, self.side))
        if not good or not bool(pixels.isfinite().all()):
            high, wide = ("H", "W") if self.side is None else (self.side * size, self.side * size)
            raise VitralError(
                f"pixel_values has shape {list(pixels.shape)} of {pixels.dtype}",
                f"Give pictures, or finite numbers [I, {channels}, {high}, {wide}]",
                param="pixel_values",
            )
        return pixels

    def check(self, ids: Sequence[int], count: int) -> None:
        """Every picture has its places in the text and every place its picture."""
        places = sum(id == self.token for id in ids)
        if places != count * self.each:
            raise VitralError(
                f"the text keeps {places} places and {count} images take {count * self.each}",
                "Give one image for each that the text names; some templates leave out those of system messages",
                param="images",
            )

    def options(self, model: Model, ids: Tensor, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """What the step of a whole pass over ids [B, T] takes beside them: soft tokens, or a memory."""
        if not any(rows):
            return {}
        if self.tiled:
            return {"memory": self.memory(model, ids, rows)}
        return {"soft": model.show(ids, self.stacked(rows, ids.device))}

    def memory(self, model: Model, ids: Tensor, rows: Sequence[Sequence[Tiled]]) -> Any:
        """The memory of tiled pictures; ids [B, P] from position 0 on say which token looks at which picture."""
        most = max(len(row) for row in rows)
        example = next(picture for row in rows for picture in row)
        pixels = np.zeros((len(rows), most, *example.pixels.shape), dtype=np.float32)
        shape = torch.zeros(len(rows), most, dtype=torch.long)
        tiles = torch.zeros(len(rows), most, len(example.pixels), dtype=torch.bool)
        for r, row in enumerate(rows):
            for i, picture in enumerate(row):
                pixels[r, i], shape[r, i], tiles[r, i, : picture.tiles] = picture.pixels, picture.shape, True
        to = ids.device
        looks = looking(ids, self.token, tiles.to(to))
        return model.vision.memory(torch.from_numpy(pixels).to(to), shape.to(to), tiles.to(to), looks)
