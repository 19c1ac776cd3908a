"""Normalisation parts: x [..., d] → [..., d].

Statistics are taken in at least float32 (`promote_types`, so float64 stays float64) and the result is cast back once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * weight + bias (Ba et al., arXiv:1607.06450)."""

    def __init__(self, d: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d))
        self.bias = nn.Parameter(torch.zeros(d)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        kind = torch.promote_types(x.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(kind)
        return F.layer_norm(x.to(kind), self.weight.shape, self.weight.to(kind), bias, self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps:g}"


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * (offset + weight) (Zhang & Sennrich, arXiv:1910.07467).

    `offset` is 1 where the published weight is stored around zero.
    """

    def __init__(self, d: int, eps: float = 1e-6, offset: float = 0.0) -> None:
        super().__init__()
        self.eps = eps
        self.offset = offset
        self.weight = nn.Parameter(torch.full((d,), 1.0 - offset))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        weight = self.weight.to(wide.dtype)
        return (wide * (weight + self.offset if self.offset else weight)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps:g}" + (f", offset={self.offset:g}" if self.offset else "")


class OverHeads(nn.Module):
    """A norm over all heads at once: [B, T, H, D] is normalised as [B, T, H·D] (arXiv:2501.00656 §2)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(-2)).view(x.shape)
