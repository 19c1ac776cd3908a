"""Multi-token prediction: a part that guesses one token further ahead than the model (arXiv:2412.19437 §2.2).

    B batch · T length · d width

    hidden of token i ──── hidden_norm ─┐
                                        ├─ join ─ block ─ norm ─▶ hidden, for the model's own head: token i + 2
    embedded token i + 1 ─ embed_norm ──┘

The embedding and the head are the model's. A chain of drafts guesses further still: the next one reads what this one
gives, and the embedded token i + 2. Each sees only what the model had seen, so a guess never leaks into its own target.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vitral.nn.attention import Mixer
from vitral.nn.cache import Allocate
from vitral.nn.model import Model
from vitral.nn.step import Step


class Draft(Mixer):
    """One link of the chain.

    Args:
        d: width of the hidden states and of the embedding.
        embed_norm: of the embedded token; `hidden_norm` of the hidden state; `norm` of what comes out.
        block: as one of the model's own.
    """

    def __init__(self, *, d: int, embed_norm: nn.Module, hidden_norm: nn.Module, block: Mixer, norm: nn.Module) -> None:
        super().__init__()
        self.embed_norm = embed_norm
        self.hidden_norm = hidden_norm
        self.join = nn.Linear(2 * d, d, bias=False)
        self.block = block
        self.norm = norm

    def forward(self, hidden: Tensor, ahead: Tensor, step: Step) -> Tensor:
        """Hidden states [B, T, d], for the head, of the tokens `ahead` [B, T, d] (embedded, each the one that follows
        its place in `hidden`, which the model or the draft before gave after its last norm)."""
        x = self.join(torch.cat((self.embed_norm(ahead), self.hidden_norm(hidden)), -1))
        return self.norm(self.block(x, step))

    def new_cache(self, allocate: Allocate) -> Any:
        return self.block.new_cache(allocate)


def drafted(model: Model, ids: Tensor, valid: Tensor | None = None) -> Iterator[Tensor]:
    """What each draft of a model says about a whole text: the k-th logits are [B, T - k, V], and their place i guesses
    the token i + k + 1.

    Args:
        ids: [B, T], T longer than there are drafts. valid: bool [B, T], False on padding.
    """
    if model.head is None:
        raise ValueError("a model that ends in hidden states has no head to guess with")
    hidden = model.hidden(ids, model.step(ids, valid))
    for k, draft in enumerate(model.drafts, 1):
        ahead = ids[:, k:]
        step = model.step(ahead, None if valid is None else valid[:, k:] & valid[:, :-k])
        hidden = draft(hidden[:, :-1], model.embed(ahead, step), step)
        yield model.head(hidden)
