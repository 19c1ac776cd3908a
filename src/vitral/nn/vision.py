"""Pixels → vectors, and many vectors → one.

B batch · C channels · H, W pixels · N patches (and the token before them, where there is one) · d width

    pixels [B, C, H, W] ─ proj ─ patches ─(token)─(+ grid)─ norm ─▶ [B, N, d]
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitral.nn.attention import Cross, Mixer
from vitral.nn.embed import Table
from vitral.nn.model import Model
from vitral.nn.step import Memory, Soft, Step


class ClassToken(nn.Module):
    """A learned vector put before all others, to gather what they say: [B, N, d] → [B, 1 + N, d] (arXiv:2010.11929)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(d) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.vector.expand(len(x), 1, -1), x), 1)


class Grid(nn.Module):
    """A learned vector for each of `first` tokens, and then for each cell of a square grid of patches, row by row.

    For a grid of another shape the cells are interpolated in two dimensions, bicubically (arXiv:2010.11929 §3.2).
    """

    def __init__(self, *, side: int, d: int, first: int = 0) -> None:
        super().__init__()
        self.side = side
        self.first = first
        self.table = Table(first + side * side, d)

    def forward(self, rows: int, columns: int) -> Tensor:
        """[first + rows·columns, d]."""
        table = self.table(torch.arange(self.first + self.side**2, device=self.table.weight.device))
        if (rows, columns) == (self.side, self.side):
            return table
        cells = table[self.first :].view(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        cells = F.interpolate(cells, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat((table[: self.first], cells.permute(0, 2, 3, 1).flatten(0, 2)))


class Patches(nn.Module):
    """Squares of pixels as vectors; a border that fills no square is dropped. Stands where a text model has `Embed`.

    Args:
        size: pixels along the side of a patch.
        positions: where a patch lies.
        token: what stands before the patches.
        norm: what comes last.
    """

    def __init__(
        self,
        *,
        size: int,
        channels: int,
        d: int,
        positions: Grid,
        bias: bool = True,
        token: ClassToken | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.proj = nn.Conv2d(channels, d, kernel_size=size, stride=size, bias=bias)
        self.token = token or nn.Identity()
        self.positions = positions
        self.norm = norm or nn.Identity()

    def forward(self, pixels: Tensor, step: Step, segments: Tensor | None = None) -> Tensor:
        x = self.proj(pixels.to(self.dtype))  # [B, d, rows, columns]
        rows, columns = x.shape[-2:]
        x = self.token(x.flatten(2).transpose(1, 2))
        return self.norm(x + self.positions(rows, columns))

    def length(self, pixels: Tensor) -> int:
        """N."""
        return self.positions.first + (pixels.shape[-2] // self.size) * (pixels.shape[-1] // self.size)

    @property
    def dtype(self) -> torch.dtype:
        """Of what comes out."""
        return self.proj.weight.dtype


class First(nn.Module):
    """norm(first vector): [B, N, d] → [B, d]."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = norm or nn.Identity()

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.norm(x[:, 0])


class Probe(nn.Module):
    """One learned query that attends to all vectors, and an FFN behind it: [B, N, d] → [B, d] (arXiv:1810.00825 §3.2,
    without its first residual).
    """

    def __init__(self, *, d: int, attention: Cross, norm: nn.Module, ffn: Mixer) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(d) * 0.02)
        self.attention = attention
        self.norm = norm
        self.ffn = ffn

    def forward(self, x: Tensor, step: Step) -> Tensor:
        y = self.attention(self.vector.expand(len(x), 1, -1), replace(step, memory=Memory.of(x), cache=None))
        return (y + self.ffn(self.norm(y), step))[:, 0]


class Pooled(nn.Module):
    """A grid of vectors, made coarser and as wide as tokens: [B, N, d] → [B, tokens, d_model] (arXiv:2503.19786 §2.1).

    Args:
        side: √N; squares of it are averaged until `tokens` are left.
    """

    def __init__(self, *, side: int, tokens: int, d: int, d_model: int, norm: nn.Module) -> None:
        super().__init__()
        coarse = round(tokens**0.5)
        if coarse**2 != tokens or side % coarse:
            raise ValueError(f"{side}×{side} patches cannot be averaged to {tokens} in squares")
        self.side = side
        self.tokens = tokens
        self.square = side // coarse
        self.norm = norm
        self.proj = nn.Linear(d, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.transpose(1, 2).unflatten(-1, (self.side, self.side))
        coarse = F.avg_pool2d(grid, self.square).flatten(2).transpose(1, 2)
        return self.proj(self.norm(coarse))


class Sight(nn.Module):
    """A tower whose vectors stand among the tokens: pixels [I, C, H, W] → [I, S, d_model], S for each picture.

    Args:
        projector: the tower's hidden states → vectors as wide as tokens, `tokens` of them a picture.
        token: the id whose places they take; those of one picture see each other.
    """

    def __init__(self, *, tower: Model, projector: Pooled, token: int) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector
        self.token = token

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projector(self.tower(pixels))

    @property
    def tokens(self) -> int:
        """S, the places that a picture takes in a text."""
        return self.projector.tokens

    def soft(self, ids: Tensor, pixels: Tensor) -> Soft:
        """The vectors of all pictures, in their order, where ids [B, T] hold the token."""
        return Soft.of(ids == self.token, self(pixels).flatten(0, 1), together=True)
