"""Vectors → logits, and vectors → one vector.

B batch · T length · V vocabulary · d width
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitral.nn.embed import Table
from vitral.nn.step import Step


class Tied(nn.Module):
    """The token table read the other way: [..., d] → [..., V]. The table is the embedding's; here only a reference."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table: Table
        object.__setattr__(self, "table", table)

    def forward(self, x: Tensor) -> Tensor:
        return self.table.scores(x)


class Transform(nn.Module):
    """norm(act(dense(x))): what a masked language model puts between its last block and its vocabulary
    (arXiv:1810.04805).
    """

    def __init__(self, *, d: int, act: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.dense = nn.Linear(d, d)
        self.act = act
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.dense(x)))


class Shift(nn.Module):
    """A number for each of the n logits, published with a model but never learned (so a buffer): [..., V] → same."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.by: Tensor
        self.register_buffer("by", torch.zeros(n))

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.by


class Head(nn.Module):
    """softcap(scale · shift(proj(transform(x)) + bias)): [..., d] → logits [..., V].

    Args:
        proj: a Linear of its own, or `Tied`.
        transform: applied before it.
        bias: length V of a bias of its own; None for none. shift: a fixed one.
        scale: multiplies the logits. softcap: logits become softcap · tanh(logits / softcap) (arXiv:2408.00118 §2).
    """

    def __init__(
        self,
        proj: nn.Module,
        *,
        transform: nn.Module | None = None,
        bias: int | None = None,
        shift: Shift | None = None,
        scale: float | None = None,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        self.transform = transform or nn.Identity()
        self.proj = proj
        self.bias = None if bias is None else nn.Parameter(torch.zeros(bias))
        self.shift = shift or nn.Identity()
        self.scale = scale
        self.softcap = softcap

    def forward(self, x: Tensor) -> Tensor:
        logits = self.proj(self.transform(x))
        if self.bias is not None:
            logits = logits + self.bias
        logits = self.shift(logits)
        if self.scale is not None:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class Score(nn.Module):
    """One number a token, [B, T, d] → [B, T, 1]: the value of what was written so far; at the last token of a text,
    its reward (arXiv:2203.02155 §3.5).
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.proj = nn.Linear(d, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)

    def of_texts(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """The number at the last token of each text [B]; `valid` [B, T] is False on padding, on either side."""
        numbers = self(x)[..., 0]
        if valid is None:
            return numbers[:, -1]
        last = x.shape[1] - 1 - valid.flip(-1).int().argmax(-1)  # [B]
        return numbers[torch.arange(len(x), device=x.device), last]


class Pooler(nn.Module):
    """tanh(dense(first token)): [B, T, d] → [B, d], a summary of a text (arXiv:1810.04805 §3.1). Padding on the left
    is stepped over.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.dense = nn.Linear(d, d)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        at_zero = (step.positions == 0).expand(x.shape[:2])  # left padding counts as 0 too: the last zero is the token
        first = x.shape[1] - 1 - at_zero.flip(-1).int().argmax(-1)  # [B]
        return torch.tanh(self.dense(x[torch.arange(len(x), device=x.device), first]))
