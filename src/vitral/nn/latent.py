"""Multi-head latent attention: one short latent a token is cached, and every head's keys and values come from it.

    B batch · T query length · S key length · H heads · r latent rank
    n part of a head without position · p part that turns with it · v value size

    x ─┬─ q ──────────────▶ [B, H, T, n | p]
       └─ down ─┬─ norm ──▶ latent [B, 1, S, r] ─ up ─▶ keys [B, H, S, n] and values [B, H, S, v]
                └─ turned ▶ shared key [B, 1, S, p]

(arXiv:2405.04434 §2.1, arXiv:2412.19437 §2.1.1.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitral.nn.attention import Positioned
from vitral.nn.cache import Allocate, KeyValue
from vitral.nn.kernel import Fused
from vitral.nn.mask import Causal
from vitral.nn.position import Rotary
from vitral.nn.step import Step


class LowRank(nn.Module):
    """up(norm(down(x))): a projection through few numbers, [..., d] → [..., out]."""

    def __init__(self, *, d: int, rank: int, out: int, norm: nn.Module, bias: bool = False) -> None:
        super().__init__()
        self.down = nn.Linear(d, rank, bias=bias)
        self.norm = norm
        self.up = nn.Linear(rank, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.norm(self.down(x)))


@dataclass(frozen=True, eq=False)
class Latents(KeyValue):
    """The cache of one layer: k holds latents [B, 1, S + 1, r], v the shared turned keys [B, 1, S + 1, p].

    `expand` [r, H, n + v] is what the layer's `up` does to a latent, for the absorbed form. It belongs to the weights,
    as all that is cached does, and not to the rows.
    """

    expand: Tensor | None = None

    def rows(self, rows: Tensor) -> Latents:
        return self._around(super().rows(rows))

    def grown(self, slots: int) -> Latents:
        return self._around(super().grown(slots))

    def _around(self, held: KeyValue) -> Latents:
        return Latents(held.kind, held.k, held.v, self.expand)


class Latent(Positioned):
    """Multi-head latent attention in two forms that give the same numbers.

    The plain form expands every latent into keys and values. The absorbed form moves the expansion to the other side,
    q · (K c) = (Kᵀ q) · c, so that queries meet the latents themselves and S latents are never expanded: cheaper for
    few queries and many keys.

    Args:
        d_model: width of x.
        n_heads: H. rank: r. key_dim: n. value_dim: v. p is the `dim` of `position`.
        position: turns the p numbers of a query and of the shared key.
        q: d_model → H · (n + p), of full or of low rank.
        norm: of the latent.
        bias: of the projection down and of the one out.
        scale: of the scores; None is (n + p)^-0.5.
        kernel: how the pattern is made and applied.
        absorb: the longest T for which a step with a cache takes the absorbed form; 0 is never, None is up to where
            the two cost the same. Without a cache there are as many queries as keys, and the plain form is cheaper.
    """

    writes = "o"

    def __init__(
        self,
        *,
        d_model: int,
        n_heads: int,
        rank: int,
        key_dim: int,
        value_dim: int,
        position: Rotary,
        q: nn.Module,
        norm: nn.Module,
        bias: bool = False,
        scale: float | None = None,
        kernel: nn.Module | None = None,
        absorb: int | None = None,
    ) -> None:
        super().__init__()
        self.rank, self.key_dim, self.value_dim = rank, key_dim, value_dim
        self.kind = Causal()
        self.scale = (key_dim + position.dim) ** -0.5 if scale is None else scale
        self.absorb = break_even(rank, key_dim + value_dim) if absorb is None else absorb
        self.position: Rotary
        object.__setattr__(self, "position", position)  # held by the stack under one name; here only a reference
        self.q = q
        self.down = nn.Linear(d_model, rank + position.dim, bias=bias)
        self.norm = norm
        self.up = nn.Linear(rank, n_heads * (key_dim + value_dim), bias=False)
        self.kernel = kernel or Fused()
        self.o = nn.Linear(n_heads * value_dim, d_model, bias=bias)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        ready = self.ready(step)
        p = self.position.dim
        q, turning = self.split(self.q(x), self.key_dim, p)  # [B, H, T, n], [B, H, T, p]
        latent, key = self.down(x)[:, None].split((self.rank, p), -1)  # [B, 1, T, r], [B, 1, T, p]
        latent, key = self.norm(latent), self.position.encode(key, ready)
        q = torch.cat((q, self.position.encode(turning, ready)), -1)  # [B, H, T, n + p]
        view, expand = step.view(self.kind), None
        if step.cache is not None:
            latent, key = step.cache.update(latent, key, view)  # [B, 1, S, r], [B, 1, S, p]
            expand = step.cache.expand if x.shape[1] <= self.absorb else None
        if expand is None:
            out = self.plain(q, latent, key, view.mask)
        else:
            out = self.absorbed(q, latent, key, view.mask, expand.to(q.dtype))  # [B, H, T, v]
        return self.o(out.transpose(1, 2).flatten(-2))

    def plain(self, q: Tensor, latent: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Every head with keys and values of its own, made from the latents."""
        k, v = self.split(self.up(latent[:, 0]), self.key_dim, self.value_dim)  # [B, H, S, n], [B, H, S, v]
        k = torch.cat((k, key.expand(-1, k.shape[1], -1, -1)), -1)
        return self.kernel(q, k, v, mask, None, self.scale)

    def absorbed(self, q: Tensor, latent: Tensor, key: Tensor, mask: Tensor | None, expand: Tensor) -> Tensor:
        """Every head on the one latent: as multi-query attention with keys [latent | key] and values `latent`."""
        to_k, to_v = expand.split((self.key_dim, self.value_dim), -1)  # [r, H, n], [r, H, v]
        q, turned = q.split((self.key_dim, key.shape[-1]), -1)
        q = torch.cat((q @ to_k.permute(1, 2, 0), turned), -1)  # [B, H, T, r + p]
        out = self.kernel(q, torch.cat((latent, key), -1), latent, mask, None, self.scale)  # [B, H, T, r]
        return out @ to_v.transpose(0, 1)

    def split(self, x: Tensor, first: int, second: int) -> tuple[Tensor, Tensor]:
        """[B, T, heads · (first + second)] → [B, heads, T, first] and [B, heads, T, second]."""
        a, b = x.unflatten(-1, (-1, first + second)).transpose(1, 2).split((first, second), -1)
        return a, b

    def new_cache(self, allocate: Allocate) -> Any:
        held = allocate(self.kind, 1, self.rank, self.position.dim)
        return Latents(held.kind, held.k, held.v, self.expansion() if self.absorb else None)

    def expansion(self) -> Tensor:
        """What `up` does to a latent as a matrix [r, H, n + v]: its answer to the identity, whatever it is made of."""
        like = next(self.parameters())
        with torch.no_grad():
            eye = torch.eye(self.rank, dtype=like.dtype, device=like.device)
            return self.up(eye).unflatten(-1, (-1, self.key_dim + self.value_dim))


def break_even(rank: int, size: int) -> int:
    """Queries at which both forms cost the same over many keys, for heads with `size` key and value numbers.

    A head's plain form costs rank · size a key to expand and size a query and key; the absorbed one 2 · rank a query
    and key.
    """
    return rank * size // (2 * rank - size) if 2 * rank > size else 2**31
