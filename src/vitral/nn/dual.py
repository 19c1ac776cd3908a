"""Two towers that meet in one space: a picture and a text are near where they mean the same.

pixels [I, C, H, W] ─ image tower ─ pooler ─ proj ─ unit ─┐
                                                          ├─ cos · exp(scale) + bias ─▶ logits [T, I]
ids [T, S] ───────── text tower ── reader ── proj ─ unit ─┘
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitral.nn.model import Model


class Last(nn.Module):
    """The last vector, be it padding, for texts padded to one length: x [B, T, d], ids → [B, d] (arXiv:2303.15343)."""

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return x[:, -1]


class AtHighest(nn.Module):
    """The vector at the highest id, which is the end of text in the vocabulary of arXiv:2103.00020 §2.4."""

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return x[torch.arange(len(x), device=x.device), ids.argmax(-1)]


class AtToken(nn.Module):
    """The vector at the first token of that id (the first of all where there is none)."""

    def __init__(self, id: int) -> None:
        super().__init__()
        self.id = id

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return x[torch.arange(len(x), device=x.device), (ids == self.id).int().argmax(-1)]


class Dual(nn.Module):
    """An image tower and a text tower (arXiv:2103.00020 §2.3; with a bias and sigmoids, arXiv:2303.15343 §3.2).

    Args:
        image: pixels → hidden states, with a pooler.
        text: ids → hidden states.
        reader: hidden states and ids → one vector a text.
        image_proj, text_proj: to the shared space; None where the towers end in it.
        scale: start of the logarithm of the temperature's inverse; `bias` is added to every logit.
    """

    def __init__(
        self,
        *,
        image: Model,
        text: Model,
        reader: nn.Module,
        image_proj: nn.Module | None = None,
        text_proj: nn.Module | None = None,
        scale: float = 2.6592,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.reader = reader
        self.image_proj = image_proj or nn.Identity()
        self.text_proj = text_proj or nn.Identity()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(bias))

    def look(self, pixels: Tensor) -> Tensor:
        """Unit vectors [B, p] of pictures [B, C, H, W]."""
        step = self.image.step(pixels)
        pooler: Any = self.image.pooler
        return F.normalize(self.image_proj(pooler(self.image(pixels, step), step)), dim=-1)

    def read(self, ids: Tensor) -> Tensor:
        """Unit vectors [B, p] of texts [B, T]. No mask: padding behind the end does no harm, or is part of the text."""
        return F.normalize(self.text_proj(self.reader(self.text(ids), ids)), dim=-1)

    def forward(self, ids: Tensor, pixels: Tensor) -> Tensor:
        """Logits [texts, pictures]: softmax over either axis, or sigmoid, says which belong together."""
        logits = self.read(ids) @ self.look(pixels).T * self.scale.exp()
        return logits if self.bias is None else logits + self.bias

    @property
    def context(self) -> int:
        """Most tokens of a text."""
        return self.text.context

    @property
    def dtype(self) -> torch.dtype:
        return self.text.dtype

    @property
    def generates(self) -> bool:
        return False
