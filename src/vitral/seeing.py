"""What a language model that sees can do besides writing: name a picture, compare pictures with texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitral.errors import VitralError
from vitral.nn import Dual, Model, Patches
from vitral.pictures import Pictures


def kind(model: Model | Dual) -> str:
    """What a model is good for: see `LanguageModel.kind`."""
    if isinstance(model, Dual):
        return "two towers"
    if isinstance(model.embed, Patches):
        return "image"
    return "encoder-decoder" if model.encoder is not None else "decoder" if model.generates else "encoder"


class Seeing:
    """The part of `LanguageModel` that takes pictures."""

    name: str
    kind: str
    model: Any
    config: dict[str, Any]
    pictures: Pictures | None

    def logits(self, *, pixel_values: Any) -> Tensor:
        raise NotImplementedError

    def embed(self, texts: Sequence[str], *, truncate: bool = False) -> NDArray[np.float32]:
        raise NotImplementedError

    def _sees(self) -> Pictures:
        if self.pictures is None:
            raise VitralError(f"{self.name} sees no pictures", "Use a model of a vision family", param="images")
        return self.pictures

    def classify(self, image: Any, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes of a picture (path, bytes or opened), with their probabilities."""
        if not isinstance(self.model, Model) or self.model.classifier is None or self.kind != "image":
            remedy = "Use match() with texts" if isinstance(self.model, Dual) else "Use a model of images with classes"
            raise VitralError(f"{self.name} has no classes for a picture", remedy, param="images")
        if not isinstance(top, int) or top < 1:
            raise VitralError(f"top is {top!r:.40}", "Give a whole number from 1", param="top")
        logits = self.logits(pixel_values=[image])
        labels = self.config.get("id2label") or {}
        best = logits[0].softmax(-1).topk(min(top, logits.shape[-1]))
        return [
            (str(labels.get(str(i), i)), p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def embed_images(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Unit vectors float32 [N, d] of pictures, in the space of `embed`'s texts."""
        if not isinstance(self.model, Dual):
            raise VitralError(f"{self.name} puts no pictures among texts", "Use a model of two towers", param="images")
        pixels = self._sees().pixels(images, self.model.scale.device)
        with torch.no_grad():
            return self.model.look(pixels).float().cpu().numpy()

    def match(self, images: Sequence[Any], texts: Sequence[str]) -> NDArray[np.float32]:
        """How well each picture goes with each text, float32 [images, texts]: which of the texts it is (softmax), or,
        for a model trained with sigmoids, whether it is that text.
        """
        if not len(texts):
            raise VitralError("there are no texts", "Give at least one", param="texts")
        pictures, words = self.embed_images(images), self.embed(texts)
        assert isinstance(self.model, Dual)
        with torch.no_grad():
            logits = torch.from_numpy(pictures @ words.T) * self.model.scale.float().exp().cpu()
            if self.model.bias is None:
                return logits.softmax(-1).numpy()
            return (logits + self.model.bias.float().cpu()).sigmoid().numpy()
