"""Ids → vectors: token table, absolute positions, segments.

B batch · T length · V vocabulary · d width
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitral.nn.step import Step


class Table(nn.Module):
    """A vector for each id: [B, T] → [B, T, d]. The same numbers read the other way are a tied head.

    `std` is the spread to begin training with, where it is not that of all matrices.
    """

    def __init__(self, n: int, d: int, std: float | None = None) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.randn(n, d) * (0.02 if std is None else std))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)

    def scores(self, x: Tensor) -> Tensor:
        """x [..., d] against every row: [..., V] (Press & Wolf, arXiv:1608.05859)."""
        return F.linear(x, self.weight)

    def extra_repr(self) -> str:
        return "×".join(str(n) for n in self.weight.shape)


class Learned(nn.Module):
    """A learned vector for each position: [B|1, T] → [B|1, T, d]. Row `offset` is position 0."""

    def __init__(self, n: int, d: int, offset: int = 0) -> None:
        super().__init__()
        self.offset = offset
        self.table = Table(n, d)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table(positions + self.offset if self.offset else positions)


class Sinusoid(nn.Module):
    """sin and cos of the position at wavelengths from 2π to 10000·2π (Vaswani et al. 2017 §3.5).

    Interleaved as the paper has it (sin at even indices, cos at odd ones); `halves=True` puts all sines first, as
    several published implementations do. Computed in float64, as the tables of published files were, given in float32.
    """

    def __init__(self, d: int, halves: bool = False, base: float = 10000.0) -> None:
        super().__init__()
        self.d = d
        self.halves = halves
        self.base = base

    def forward(self, positions: Tensor) -> Tensor:
        pairs = (self.d + 1) // 2
        exponent = torch.arange(pairs, dtype=torch.float64, device=positions.device) * (2 / self.d)
        angle = positions[..., None].double() * torch.exp(-math.log(self.base) * exponent)
        waves = (angle.sin().float(), angle.cos().float())
        table = torch.cat(waves, -1) if self.halves else torch.stack(waves, -1).flatten(-2)
        return table[..., : self.d]


class Concat(nn.Module):
    """Tokens and positions side by side: [..., d1] and [..., d2] → [..., d1 + d2]."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat((x, y.expand(*x.shape[:-1], -1)), -1)


class Embed(nn.Module):
    """norm(tokens·scale + positions + segments), each but the tokens optional: ids [B, T] → [B, T, d].

    `join` says how positions meet tokens: added (None), or `Concat`. `scale` is a number of the model's own dtype, as
    published models apply it (sqrt(3072) in bfloat16 is 55.5).
    """

    def __init__(
        self,
        tokens: Table,
        *,
        positions: nn.Module | None = None,
        segments: Table | None = None,
        scale: float | None = None,
        norm: nn.Module | None = None,
        join: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.join = join
        self.positions = positions
        self.segments = segments
        self.scale = scale
        self.norm = norm or nn.Identity()

    def forward(self, ids: Tensor, step: Step, segments: Tensor | None = None) -> Tensor:
        soft = step.soft
        x = self.tokens(ids if soft is None else ids.masked_fill(soft.at, 0))
        if self.scale is not None:
            x = x * torch.tensor(self.scale, dtype=x.dtype, device=x.device)
        if soft is not None:
            x = soft.into(x)
        if self.segments is not None:
            x = x + self.segments(torch.zeros_like(ids) if segments is None else segments)
        if self.positions is not None:
            where = self.positions(step.positions).to(x.dtype)
            x = x + where if self.join is None else self.join(x, where)
        return self.norm(x)

    def length(self, ids: Tensor) -> int:
        """T."""
        return ids.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of what comes out."""
        return self.tokens.weight.dtype
