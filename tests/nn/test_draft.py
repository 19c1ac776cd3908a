"""Multi-token prediction: what a draft may see, and that it can be trained with the model it belongs to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.nn.tiny import randomise, some_ids
from vitral.nn import (
    Attention,
    Block,
    Draft,
    Embed,
    Gated,
    Head,
    Model,
    RMSNorm,
    Rotary,
    SiLU,
    Spec,
    Stack,
    Sublayer,
    Table,
    drafted,
)

D, VOCAB = 16, 50


def with_drafts(n: int, head: bool = True) -> Any:
    rotary, norm = Spec(Rotary, dim=8), Spec(RMSNorm, d=D)

    def block() -> Spec:
        attention = Spec(Attention, d_model=D, n_heads=2, n_kv_heads=1, head_dim=8, position=rotary)
        ffn = Spec(Gated, d_model=D, d_ff=24, act=Spec(SiLU))
        parts = {"attn": attention, "ffn": ffn}
        return Spec(Block, **{name: Spec(Sublayer, mixer=part, pre=norm.replace()) for name, part in parts.items()})

    def draft() -> Spec:
        norms = {name: norm.replace() for name in ("embed_norm", "hidden_norm", "norm")}
        return Spec(Draft, d=D, block=block(), **norms)

    model = Spec(
        Model,
        embed=Spec(Embed, tokens=Spec(Table, n=VOCAB, d=D)),
        stack=Spec(Stack, blocks=[block(), block()], norm=norm.replace()),
        head=Spec(Head, proj=Spec(nn.Linear, in_features=D, out_features=VOCAB, bias=False)) if head else None,
        drafts=[draft() for _ in range(n)],
        context=64,
    ).build()
    randomise(model)
    return model


def test_each_draft_looks_one_token_further() -> None:
    model, ids = with_drafts(3), some_ids(2, 11)
    assert [tuple(logits.shape) for logits in drafted(model, ids)] == [(2, 11 - k, VOCAB) for k in (1, 2, 3)]
    assert list(drafted(with_drafts(0), ids)) == []


@pytest.mark.parametrize("at", [0, 4, 10])
def test_no_guess_sees_its_target_or_what_follows(at: int) -> None:
    model, ids = with_drafts(2), some_ids(1, 11)
    other = ids.clone()
    other[:, at] = (other[:, at] + 1) % VOCAB
    for k, (a, b) in enumerate(zip(drafted(model, ids), drafted(model, other), strict=True), 1):
        changed = (a != b).any(-1)[0].tolist()
        assert changed == [place + k >= at for place in range(11 - k)]  # place i reads tokens up to i + k


def test_padding_on_the_left_changes_nothing() -> None:
    model, ids = with_drafts(2), some_ids(1, 9)
    padded = torch.cat((torch.full((1, 4), 7), ids), 1)
    valid = torch.arange(13)[None] >= 4
    for alone, beside in zip(drafted(model, ids), drafted(model, padded, valid), strict=True):
        assert (alone - beside[:, -alone.shape[1] :]).abs().max() < 1e-5


def test_model_and_draft_learn_a_text_together() -> None:
    torch.manual_seed(0)
    model, ids = with_drafts(1).train(), some_ids(2, 12)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        (guess,) = drafted(model, ids)
        loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        further = F.cross_entropy(guess[:, :-1].flatten(0, 1), ids[:, 2:].flatten())
        (loss + 0.3 * further).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimiser.step()
    assert loss < 0.05 and further < 0.05
    assert (guess[:, :-1].argmax(-1) == ids[:, 2:]).all()


def test_a_body_cannot_guess() -> None:
    with pytest.raises(ValueError, match="no head"):
        list(drafted(with_drafts(1, head=False), some_ids()))
