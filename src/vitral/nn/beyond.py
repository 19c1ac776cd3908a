"""Attending beyond the length a model was trained on: rotary frequencies that grow in steps, queries that sharpen.

B batch · H heads · T query length · S key length · D head size
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitral.nn.position import Position, Scaling
from vitral.nn.step import Ready


@dataclass(frozen=True, kw_only=True)
class SteppedNTK(Scaling):
    """theta grows each time the length doubles beyond the training context (arXiv:2309.16609 §2.3, as published code
    has it): by α^(dim / (dim - 2)), where α is 3 up to twice the context, 7 up to four times, then 15 …

    The length is each row's own, so far. Keys already in a cache keep the rotation they were stored with.
    """

    original: int

    def at_length(self, theta: float, dim: int, length: Tensor) -> Tensor | None:
        doublings = torch.log2(length.double() / self.original) + 1
        alpha = (2 ** doublings.ceil() - 1).clamp_min(1).float()  # [B|1]
        base = theta * alpha ** (dim / (dim - 2))
        exponent = torch.arange(0, dim, 2, dtype=torch.float32, device=length.device) / dim
        return (1.0 / base[:, None] ** exponent)[:, None, :]  # [B|1, 1, dim/2]


class LogN(Position):
    """Another position part, with queries beyond the training context multiplied by log(n) / log(context), n tokens
    into the text: so the softmax over more keys keeps its entropy (arXiv:2309.16609 §2.3).

    Args:
        inner: what works the positions in; shared by the same layers.
        original: the training context.
    """

    def __init__(self, inner: Position, *, original: int) -> None:
        super().__init__()
        if original < 2:
            raise ValueError(f"log(n) / log({original}) is no factor")
        self.inner = inner
        self.original = original

    def prepare(self, positions: Tensor, key_positions: Tensor) -> Ready:
        """What the inner part prepared, and the factors [B|1, 1, T, 1] in float32 after it."""
        n = (positions + 1).clamp_min(self.original)
        factor = (n.double().log() / math.log(self.original)).float()
        return *self.inner.prepare(positions, key_positions), factor[:, None, :, None]

    def encode(self, x: Tensor, ready: Ready) -> Tensor:
        return self.inner.encode(x, ready[:-1])

    def relate(self, q: Tensor, ready: Ready) -> tuple[Tensor, Tensor | None]:
        return self.inner.relate(q * ready[-1].to(q.dtype), ready[:-1])

    def extra_repr(self) -> str:
        return f"original={self.original}"
