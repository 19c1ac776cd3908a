"""Mixture of experts: many feed-forward networks, of which each token meets a few.

B batch · T length · N = B·T tokens · E experts · k experts a token meets · d width

             ┌─ router ── weights, ids ──┐
x [B, T, d] ─┤                           ├─▶ Σ over the k chosen of weight · expert(x)
             └────────── experts ────────┘

Tokens are sorted by expert, so that each expert runs once on all that are its own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitral.nn.attention import Mixer
from vitral.nn.cache import Allocate
from vitral.nn.router import Limited, Router
from vitral.nn.step import Step


class Experts(nn.Module):
    """E feed-forward networks side by side; the base holds how they are run, a subclass what one of them is."""

    writes = "down"

    def __init__(self, *, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """x [..., d] through the experts `ids` [..., k], summed by `weights` [..., k]; the id E adds nothing."""
        k, d = ids.shape[-1], x.shape[-1]
        flat = ids.flatten()  # [N·k], token by token
        order = flat.argsort(stable=True)
        sizes = flat.bincount(minlength=self.n + 1).tolist()
        rows = x.reshape(-1, d).index_select(0, order // k)
        *segments, nobody = rows.split(sizes)
        found = torch.cat([*self.run(segments), torch.zeros_like(nobody)])  # [N·k, d], sorted by expert
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        found = found.index_select(0, place).view(*ids.shape, d)
        return (found * weights[..., None].to(found.dtype)).sum(-2)

    def run(self, segments: list[Tensor]) -> list[Tensor]:
        """Each expert on its own tokens [n_e, d]; those without any are left out."""
        raise NotImplementedError


class PlainExperts(Experts):
    """Experts down(act(up(x))), without biases: `up` [E, d_ff, d], `down` [E, d, d_ff]."""

    def __init__(self, *, n: int, d_model: int, d_ff: int, act: nn.Module) -> None:
        super().__init__(n=n)
        self.up = nn.Parameter(torch.randn(n, d_ff, d_model) * 0.02)
        self.down = nn.Parameter(torch.randn(n, d_model, d_ff) * 0.02)
        self.act = act

    def run(self, segments: list[Tensor]) -> list[Tensor]:
        # unbind, not [e]: the gradient of an index is as large as all experts together
        parts = zip(segments, self.up.unbind(), self.down.unbind(), strict=True)
        return [F.linear(self.act(F.linear(x, up)), down) for x, up, down in parts if len(x)]


class GatedExperts(Experts):
    """Experts down(act(gate(x)) * up(x)), without biases: `gate`, `up` [E, d_ff, d], `down` [E, d, d_ff]."""

    def __init__(self, *, n: int, d_model: int, d_ff: int, act: nn.Module) -> None:
        super().__init__(n=n)
        self.gate = nn.Parameter(torch.randn(n, d_ff, d_model) * 0.02)
        self.up = nn.Parameter(torch.randn(n, d_ff, d_model) * 0.02)
        self.down = nn.Parameter(torch.randn(n, d_model, d_ff) * 0.02)
        self.act = act

    def run(self, segments: list[Tensor]) -> list[Tensor]:
        parts = zip(segments, self.gate.unbind(), self.up.unbind(), self.down.unbind(), strict=True)
        return [F.linear(self.act(F.linear(x, gate)) * F.linear(x, up), down) for x, gate, up, down in parts if len(x)]


class MoE(Mixer):
    """Each token through the experts its router chose (Shazeer et al., arXiv:1701.06538 §2): [B, T, d] → [B, T, d].

    An expert that all tokens meet stands beside it: `Parallel(moe=…, shared=…)`.
    """

    def __init__(self, *, router: Router | Limited, experts: Experts) -> None:
        super().__init__()
        if router.n_experts != experts.n:
            raise ValueError(f"a router of {router.n_experts} experts cannot lead to {experts.n}")
        self.router = router
        self.experts = experts

    def forward(self, x: Tensor, step: Step) -> Tensor:
        routing = self.router(x, step)
        return self.experts(x, routing.weights, routing.ids)

    def new_cache(self, allocate: Allocate) -> Any:
        return self.router.new_cache(allocate)

    def idle_parameters(self) -> int:
        """Parameters that one token does not meet: those of the E - k experts not chosen."""
        each = sum(p.numel() for p in self.experts.parameters()) // self.experts.n
        return each * (self.experts.n - self.router.top_k)
