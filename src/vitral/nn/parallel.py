"""Mixers beside one another, and a mixer that weighs another.

x ──┬─ first ──┬─(+)─▶          x ──┬─ mixer ──────┬─(·)─▶
    └─ second ─┘                    └─ σ(gate(x)) ─┘
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitral.nn.attention import Mixer
from vitral.nn.cache import Allocate
from vitral.nn.step import Step


class Parallel(Mixer):
    """The sum of several mixers of one input: attention beside a feed-forward (arXiv:2204.02311 §2), or an expert that
    all tokens meet beside those that are chosen. Parallel(attn=…, ffn=…).
    """

    def __init__(self, **branches: Mixer) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        first, *others = (branch(x, step.at(name)) for name, branch in self._modules.items())  # type: ignore[misc]
        for other in others:
            first = first + other
        return first

    def new_cache(self, allocate: Allocate) -> Any:
        return {name: branch.new_cache(allocate) for name, branch in self._modules.items()}  # type: ignore


class Weighed(Mixer):
    """sigmoid(gate(x)) · mixer(x): one number a token says how much of the mixer it takes."""

    def __init__(self, mixer: Mixer, *, d_model: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, 1, bias=False)
        self.mixer = mixer

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return torch.sigmoid(self.gate(x)) * self.mixer(x, step)

    def new_cache(self, allocate: Allocate) -> Any:
        return self.mixer.new_cache(allocate)
