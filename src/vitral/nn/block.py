"""One sublayer, any mixer; a block is an ordered set of sublayers.

    x ──┬── pre ── mixer ── post ──(+)── after ──▶
        └──────── residual ─────────┘

Pre-norm models fill `pre`, the models of 2017 and 2018 fill `after`, some fill `post`, some two of them. The residual
path runs from the embedding to the last norm with nothing on it but additions (and `after`, where there is one).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vitral.nn.attention import Mixer
from vitral.nn.cache import Allocate
from vitral.nn.step import Step


class Add(nn.Module):
    """The residual addition, a place worth seeing."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Sublayer(Mixer):
    """after(x + post(mixer(pre(x), step))); a slot left out is the identity."""

    def __init__(
        self,
        mixer: Mixer,
        *,
        pre: nn.Module | None = None,
        post: nn.Module | None = None,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.pre = pre or nn.Identity()
        self.mixer = mixer
        self.post = post or nn.Identity()
        self.add = Add()
        self.after = after or nn.Identity()

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.after(self.add(x, self.post(self.mixer(self.pre(x), step))))

    def new_cache(self, allocate: Allocate) -> Any:
        return self.mixer.new_cache(allocate)


class Block(Mixer):
    """Sublayers in the order given: Block(attn=…, ffn=…)."""

    def __init__(self, **sublayers: Sublayer) -> None:
        super().__init__()
        for name, sublayer in sublayers.items():
            self.add_module(name, sublayer)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        for name, sublayer in self._modules.items():
            x = sublayer(x, step.at(name))  # type: ignore[misc]
        return x

    def new_cache(self, allocate: Allocate) -> Any:
        return {name: sublayer.new_cache(allocate) for name, sublayer in self._modules.items()}  # type: ignore
