"""The attention kernels: (q, k, v, mask, bias, scale) → out.

    B batch · H heads · K key-value heads · T query length · S key length · D head size

    q [B, H, T, D]  k, v [B, K, S, D]  →  [B, H, T, D]      H = K · group; head h reads key-value head h // group

`Eager` is the formula; `Fused` gives the same through PyTorch's fused attention where that is faster.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Point(nn.Module):
    """A place worth seeing: gives back what it is given, so that it can be watched by name from outside."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Eager(nn.Module):
    """softmax(q kᵀ · scale + bias + mask) v, one step at a time (Vaswani et al. 2017, eq. 1).

    Args:
        softcap: scores become softcap · tanh(scores / softcap) before the mask (arXiv:2408.00118 §2).

    The softmax runs in at least float32. `pattern` is the attention pattern [B, H, T, S]. Keys are never repeated for
    their group: the group's queries are laid one after the other instead.
    """

    def __init__(self, softcap: float | None = None) -> None:
        super().__init__()
        self.softcap = softcap
        self.pattern = Point()

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, scale: float
    ) -> Tensor:
        B, H, T, D = q.shape
        K, S = k.shape[1], k.shape[2]
        scores = (q * scale).reshape(B, K, -1, D) @ k.transpose(-1, -2)  # [B, K, group·T, S]
        scores = scores.view(B, H, T, S).to(torch.promote_types(q.dtype, torch.float32))
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            scores = scores + mask
        weights = self.pattern(torch.softmax(scores, dim=-1).to(v.dtype))
        return (weights.view(B, K, -1, S) @ v).view(B, H, T, -1)

    def eager(self) -> Eager:
        """This kernel in the form that shows its pattern: itself."""
        return self


class Fused(Eager):
    """The same attention by `scaled_dot_product_attention`, without the pattern ever in memory.

    Up to `few` queries go through the formula: there the two cost the same on a CPU, and the formula gives the
    published implementations' numbers bit for bit. Nothing is recorded at `pattern` by the fused path: recording
    swaps in `eager()`.
    """

    few = 256

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, scale: float
    ) -> Tensor:
        B, H, T, D = q.shape
        K = k.shape[1]
        if self.softcap is not None or self.few >= T:
            return super().forward(q, k, v, mask, bias, scale)
        if bias is not None:
            mask = bias.to(q.dtype) if mask is None else bias.to(q.dtype) + mask
        if mask is not None and H != K:  # the group's queries lie one after the other, and so must their masks
            heads = 1 if mask.shape[1] == 1 else K
            mask = mask.expand(-1, heads * (H // K), -1, -1).reshape(mask.shape[0], heads, -1, mask.shape[-1])
        out = F.scaled_dot_product_attention(q.reshape(B, K, -1, D), k, v, attn_mask=mask, scale=scale)
        return out.view(B, H, T, -1)

    def eager(self) -> Eager:
        return Eager(self.softcap)
