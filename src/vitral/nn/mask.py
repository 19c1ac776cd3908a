"""Who may see whom: mask kinds as frozen values, and the additive mask a kernel takes.

    B batch · T query length · S key length

A kind sits on a mixer and is compared by value; the step holds one view per kind, so thirty causal layers share one
mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Kind:
    """Base of the mask kinds: everything sees everything.

    `causal` says whether a token depends on earlier tokens alone, so that keys can be cached.
    """

    causal = False

    @property
    def name(self) -> str:
        return "full"

    def sees(self, q: Tensor, k: Tensor) -> Tensor:
        """bool [B|1, T, S]: may the query at position q [B|1, T, 1] see the key at position k [B|1, 1, S]?"""
        return torch.ones(torch.broadcast_shapes(q.shape, k.shape), dtype=torch.bool, device=q.device)

    def capacity(self, length: int, chunk: int) -> int:
        """Slots a cache needs for `length` tokens that arrive in pieces of at most `chunk`."""
        return length


@dataclass(frozen=True)
class Full(Kind):
    """Bidirectional attention (Vaswani et al. 2017, §3.2.3, encoder)."""


@dataclass(frozen=True)
class Causal(Kind):
    """A query sees itself and what came before (Vaswani et al. 2017, §3.2.3, decoder)."""

    causal = True

    @property
    def name(self) -> str:
        return "causal"

    def sees(self, q: Tensor, k: Tensor) -> Tensor:
        return k <= q


@dataclass(frozen=True)
class Window(Causal):
    """A query sees itself and the `size - 1` tokens before it: exactly `size` keys (arXiv:2310.06825 §2)."""

    size: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a window of {self.size} tokens sees nothing")

    @property
    def name(self) -> str:
        return f"window-{self.size}"

    def sees(self, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (k > q - self.size)

    def capacity(self, length: int, chunk: int) -> int:
        return min(length, self.size + chunk - 1)


@dataclass(frozen=True)
class Banded(Causal):
    """A query sees itself and the `size` tokens before it: the local head of arXiv:1904.10509 §4.2, where i sees
    {max(0, i - l), …, i} and so l + 1 keys.
    """

    size: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a band of {self.size} tokens shows a token nothing but itself")

    @property
    def name(self) -> str:
        return f"banded-{self.size}"

    def sees(self, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (k >= q - self.size)

    def capacity(self, length: int, chunk: int) -> int:
        return min(length, self.size + chunk)


@dataclass(frozen=True)
class Strided(Causal):
    """A query sees every `stride`-th token before it, counted back from itself: the other head of arXiv:1904.10509
    §4.2, where i sees {j ≤ i : (i - j) mod l = 0}. Some query needs each key, so a cache keeps them all.
    """

    stride: int = 0

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"a stride of {self.stride} leads nowhere")

    @property
    def name(self) -> str:
        return f"strided-{self.stride}"

    def sees(self, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & ((q - k) % self.stride == 0)


@dataclass(frozen=True)
class Given(Kind):
    """All that was given from outside: the kind of the caches of cross-attention, whose view is the step's memory."""

    @property
    def name(self) -> str:
        return "memory"


def visible(kind: Kind, q: Tensor, k: Tensor, until: Tensor | None = None) -> Tensor:
    """bool [B|1, T, S]: what a kind shows, and what lies ahead of a query up to position `until` [B, T, 1] (its own
    for most), where tokens see their whole group whatever the kind (arXiv:2503.19786 §2.1).
    """
    seen = kind.sees(q, k)
    return seen if until is None else seen | ((k > q) & (k <= until))


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The mask a kernel adds to the scores: 0 where seen, the finite minimum elsewhere; None when all is seen.

    The minimum is finite on purpose: a query that sees nothing (padding) gets the mean of the values from every
    kernel, never NaN. (float16's minimum is too small to drown the scores: there such a query is only finite.)

    Args:
        seen: bool [B|1, T, S].
        dtype: of the scores' inputs; its own minimum is used, because float32's is -inf in bfloat16.

    Returns:
        [B|1, 1, T, S] or None.
    """
    if seen.device.type == "cpu" and bool(seen.all()):
        return None
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)
