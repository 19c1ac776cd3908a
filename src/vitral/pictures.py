"""Pictures on their way into a model: taken out of messages, prepared, put where the model looks for them.

message ─▶ take ─▶ read_image ─▶ prepare ─┬─ soft tokens, in the places that the text keeps for them
                                          └─ a memory of tiles, which some layers look at
"""

from __future__ import annotations

import base64
import binascii
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
    """
    found: list[Any] = []

    def bare(part: Any) -> Any:
        if not isinstance(part, Mapping) or part.get("type") not in ("image", "image_url"):
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

    def _runs(self, config: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, str]:
        """A picture is read as a run of soft tokens between its two marks, on lines of their own."""
        ids = [config.get(f"{end}_token_index") or config.get(f"{end}_token_id") or id for end, id in MARKS.items()]
        if not all(isinstance(id, int) for id in ids):
            raise CheckpointError(f"config.json: the marks around a picture are {ids!r:.60}", "They must be ids")
        begin, token, end = (tokenizer.token_text(id) for id in (ids[0], self.token, ids[1]))
        return {begin: f"\n\n{begin}{token * self.each}{end}\n\n"}

    def read(self, images: Sequence[Any]) -> list[Any]:
        """Pictures, by path, bytes or opened, as the model was trained to see them."""
        if isinstance(images, (str, bytes, Path)) or not isinstance(images, Sequence):
            images = [images]
        return [self.prepare(read_image(image, f"image {i}")) for i, image in enumerate(images, 1)]

    def pixels(self, images: Any, device: torch.device) -> Tensor:
        """[I, C, H, W] of pictures, or of what is such a table already."""
        if not isinstance(images, (Tensor, np.ndarray)):
            images = np.stack(self.read(images))
        pixels = torch.as_tensor(images, device=device)
        if pixels.ndim != 4 or not pixels.is_floating_point() or not bool(pixels.isfinite().all()):
            raise VitralError(
                f"pixel_values has shape {list(pixels.shape)} of {pixels.dtype}",
                "Give pictures, or finite numbers [I, C, H, W]",
                param="pixel_values",
            )
        return pixels

    def check(self, ids: Sequence[int], count: int) -> None:
        """Every picture has its places in the text and every place its picture."""
        places = sum(id == self.token for id in ids)
        if places != count * self.each:
            raise VitralError(
                f"the text keeps {places} places and {count} images take {count * self.each}",
                "Give one image for each that the messages name",
                param="images",
            )

    def options(self, model: Model, ids: Tensor, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """What the step of a whole pass over ids [B, T] takes beside them: soft tokens, or a memory."""
        if not any(rows):
            return {}
        if self.tiled:
            return {"memory": self.memory(model, ids, rows)}
        return {"soft": model.show(ids, self.stacked(rows, ids.device))}

    @staticmethod
    def stacked(rows: Sequence[Sequence[Any]], device: torch.device) -> Tensor:
        """The pictures of all rows, one after the other: [I, C, H, W]."""
        return torch.from_numpy(np.stack([picture for row in rows for picture in row])).to(device)

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
