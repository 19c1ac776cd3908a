"""Position parts that add a bias to the attention scores: learned by bucket of distance, or growing with it.

B batch · H heads · T query length · S key length · N buckets
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vitral.nn.embed import Table
from vitral.nn.position import Position
from vitral.nn.step import Ready


class Bucketed(Position):
    """A learned bias for each head and bucket of distance, to keys that came before (arXiv:1910.10683 §2.1).

    The first half of the buckets hold one distance each, the others grow logarithmically up to `max_distance`; what is
    farther shares the last one. Later keys share the bucket of distance 0: a causal mask hides them.

    Args:
        n_heads: H.
        n_buckets: N, at least 2 for each side.
        max_distance: from where on all distances are one; beyond the exact half.
    """

    sides = 1

    def __init__(self, n_heads: int, n_buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.per_side = n_buckets // self.sides
        if self.per_side < 2 or max_distance <= self.per_side // 2:
            raise ValueError(f"distances up to {max_distance} do not fall into {n_buckets} buckets")
        self.max_distance = max_distance
        self.table = Table(n_buckets, n_heads)

    def prepare(self, positions: Tensor, key_positions: Tensor) -> Ready:
        """The bias [B|1, H, T, S], the same for every layer."""
        back = positions[:, :, None] - key_positions[:, None, :]  # [B|1, T, S]
        return (self.table(self.buckets(back)).permute(0, 3, 1, 2),)

    def relate(self, q: Tensor, ready: Ready) -> tuple[Tensor, Tensor | None]:
        return q, ready[0]

    def buckets(self, back: Tensor) -> Tensor:
        """How far back a key lies → its bucket's number, both [B|1, T, S]."""
        return self.by_distance(back.clamp_min(0))

    def by_distance(self, distance: Tensor) -> Tensor:
        """A distance of at least 0 → its bucket of one side; in float32, whose rounding decides at the edges."""
        exact = self.per_side // 2
        ratio = torch.log(distance.clamp_min(exact).float() / exact) / math.log(self.max_distance / exact)
        far = exact + (ratio * (self.per_side - exact)).long()
        return torch.where(distance < exact, distance, far.clamp_max(self.per_side - 1))

    def extra_repr(self) -> str:
        return f"max_distance={self.max_distance}"


class BucketedBothSides(Bucketed):
    """The same for a reader of both sides: the second half of the buckets is for keys that come later."""

    sides = 2

    def buckets(self, back: Tensor) -> Tensor:
        return self.by_distance(back.abs()) + (back < 0) * self.per_side


class ALiBi(Position):
    """A bias of -slope · distance, with a fixed slope for each head (Press et al., arXiv:2108.12409 §3).

    Slopes are 2^(-8i/H) for i = 1…H. Where H is no power of two they are those of the power below, and then every
    other one of the power above, as the authors' code has it.
    """

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        below = 2 ** (n_heads.bit_length() - 1)
        self.slopes = (slopes(below) + slopes(2 * below)[::2])[:n_heads]

    def prepare(self, positions: Tensor, key_positions: Tensor) -> Ready:
        """The bias [B|1, H, T, S] in float32."""
        distance = (positions[:, :, None] - key_positions[:, None, :]).abs().float()
        slope = torch.tensor(self.slopes, device=positions.device)
        return (-slope[:, None, None] * distance[:, None],)

    def relate(self, q: Tensor, ready: Ready) -> tuple[Tensor, Tensor | None]:
        return q, ready[0]


def slopes(n: int) -> list[float]:
    """The geometric series of n slopes that ends at 2^-8."""
    return [2.0 ** (-8 * i / n) for i in range(1, n + 1)]
