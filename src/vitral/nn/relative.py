"""Relative positions by content: how far away a key is, weighed by what the query asks (arXiv:1901.02860 §3.3).

B batch · H heads · T query length · S key length · D head size · d width
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitral.nn.embed import Sinusoid
from vitral.nn.position import Position
from vitral.nn.step import Ready


class Relative(Position):
    """score(i, j) = (q_i + u)·k_j + (q_i + v)·(W_r R_{i-j}), scaled, where R is the sinusoid of a distance.

    u and v are what every query asks, whatever its content and wherever it stands. W_r, u and v belong to one layer
    (§3.3 writes W_r so, and leaves open whether layers share u and v).

    Args:
        d_model: d, the width of R.
        n_heads: H; keys have as many heads as queries.
        head_dim: D.
        scale: of the scores, as the attention has it; None is D^-0.5.
    """

    per_layer = True

    def __init__(self, *, d_model: int, n_heads: int, head_dim: int, scale: float | None = None) -> None:
        super().__init__()
        self.scale = head_dim**-0.5 if scale is None else scale
        self.waves = Sinusoid(d_model)
        self.r = nn.Linear(d_model, n_heads * head_dim, bias=False)
        self.u = nn.Parameter(torch.zeros(n_heads, head_dim))
        self.v = nn.Parameter(torch.zeros(n_heads, head_dim))

    def prepare(self, positions: Tensor, key_positions: Tensor) -> Ready:
        """The distance of each pair [B|1, 1, T, S] (0 where the key lies ahead, or is none), and R [n, d] of all
        distances from 0 to the longest."""
        distance = positions[:, :, None] - key_positions.clamp_min(0)[:, None, :]
        distance = distance.clamp_min(0)[:, None]
        far = torch.arange(int(distance.max()) + 1, device=distance.device)
        return distance, self.waves(far).to(self.r.weight.dtype)

    def relate(self, q: Tensor, ready: Ready) -> tuple[Tensor, Tensor]:
        """q + u, and the second term [B, H, T, S] in post-scale units."""
        distance, waves = ready
        asked = q + self.v[:, None]
        H, T, D = asked.shape[1:]
        if waves.shape[1] > H * T:  # few queries: turn them by W_r, and not every distance
            asked = asked @ self.r.weight.unflatten(0, (H, D))  # [B, H, T, d]
            by_distance = asked @ waves.t()
        else:
            by_distance = asked @ self.r(waves).unflatten(-1, (H, D)).permute(1, 2, 0)  # [B, H, T, n]
        bias = by_distance.gather(-1, distance.expand(*asked.shape[:3], -1))
        return q + self.u[:, None], bias * self.scale

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"
