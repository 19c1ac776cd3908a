"""Vectors → logits, and vectors → one vector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.nn import formulas
from vitral.nn import GELU, Causal, Head, LayerNorm, Pooler, Table, Tied, Transform, full_step


def test_transform_bias_scale_and_softcap_in_their_order() -> None:
    proj = nn.Linear(4, 7, bias=False)
    head = Head(proj, transform=Transform(d=4, act=GELU(), norm=LayerNorm(4)), bias=7, scale=20.0, softcap=3.0).double()
    head.bias.data.normal_()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    dense = head.transform.dense
    inner = formulas.gelu(formulas.array(x) @ formulas.array(dense.weight).T + formulas.array(dense.bias))
    inner = formulas.layer_norm(inner, head.transform.norm.weight, head.transform.norm.bias, 1e-5)
    logits = (inner @ formulas.array(proj.weight).T + formulas.array(head.bias)) * 20
    want = 3 * np.tanh(logits / 3)
    assert np.abs(formulas.array(head(x)) - want).max() <= 1e-12
    assert np.abs(logits).max() > 6, "the cap must bite for this to prove anything"


def test_a_tied_head_owns_nothing() -> None:
    table = Table(9, 4)
    head = Head(Tied(table))
    assert not list(head.parameters()) and not list(head.state_dict())
    assert torch.equal(head(torch.eye(4)), table.weight.T)


@pytest.mark.parametrize("valid", [[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]])
def test_the_pooler_reads_the_first_token_wherever_padding_is(valid: list[int]) -> None:
    pooler, x = Pooler(4), torch.randn(1, 4, 4)
    mask = torch.tensor([valid], dtype=torch.bool)
    out = pooler(x, full_step([Causal()], 4, valid=mask))
    assert torch.equal(out, torch.tanh(pooler.dense(x[:, valid.index(1)])))
