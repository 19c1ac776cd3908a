"""Feed-forward mixers: each token on its own, [B, T, d] → [B, T, d]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitral.nn.attention import Mixer
from vitral.nn.step import Step


class GELU(nn.Module):
    """x · Φ(x) (Hendrycks & Gimpel, arXiv:1606.08415), by the error function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class GELUTanh(nn.Module):
    """GELU by its tanh approximation; up to 4.7e-4 away from the exact one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the coarser approximation of the same paper."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class SiLU(nn.Module):
    """x · sigmoid(x), also called swish (arXiv:1702.03118)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class ReLU(nn.Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Plain(Mixer):
    """down(act(up(x))) (Vaswani et al. 2017, eq. 2)."""

    writes = "down"

    def __init__(self, *, d_model: int, d_ff: int, act: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.act = act
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.down(self.act(self.up(x)))


class Gated(Mixer):
    """down(act(gate(x)) * up(x)): SwiGLU and its kin (Shazeer, arXiv:2002.05202)."""

    writes = "down"

    def __init__(self, *, d_model: int, d_ff: int, act: nn.Module, bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.act = act
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))
