"""Token tables, positions, segments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.nn import formulas
from vitral.nn import Causal, Embed, LayerNorm, Learned, Sinusoid, Table, full_step


@pytest.mark.parametrize("d", [6, 7, 512])
def test_the_sinusoid_of_2017(d: int) -> None:
    positions = torch.tensor([[0, 1, 17, 500]])
    table = Sinusoid(d)(positions)
    assert table.shape == (1, 4, d)
    for row, position in zip(table[0], positions[0].tolist(), strict=True):
        assert np.abs(formulas.array(row) - formulas.sinusoid(position, d)).max() <= 1e-4
    halves = Sinusoid(d, halves=True)(positions)
    assert torch.equal(halves[..., : (d + 1) // 2], table[..., 0::2])
    assert torch.equal(halves[..., (d + 1) // 2 :], table[..., 1::2])


def test_learned_positions_may_start_later() -> None:
    learned = Learned(6, 3, offset=2)
    assert torch.equal(learned(torch.tensor([[0, 3]])), learned.table.weight[[2, 5]][None])


def test_everything_is_added_and_then_normalised() -> None:
    embed = Embed(Table(9, 4), positions=Learned(8, 4), segments=Table(2, 4), scale=3.0, norm=LayerNorm(4))
    ids, segments = torch.tensor([[1, 5, 8]]), torch.tensor([[0, 1, 1]])
    step = full_step([Causal()], 3)
    raw = embed.tokens.weight[ids] * 3 + embed.positions.table.weight[:3] + embed.segments.weight[segments]
    want = formulas.layer_norm(raw, embed.norm.weight, embed.norm.bias, 1e-5)
    assert np.abs(formulas.array(embed(ids, step, segments)) - want).max() <= 1e-5
    assert torch.equal(embed(ids, step), embed(ids, step, torch.zeros_like(ids))), "segment 0 where none is said"


def test_a_table_reads_both_ways() -> None:
    table, x = Table(9, 4), torch.randn(2, 4)
    assert torch.allclose(table.scores(x), x @ table.weight.T)


def test_the_scale_is_a_number_of_the_models_dtype() -> None:
    """sqrt(3072) is 55.4256, and 55.5 in bfloat16, which published models multiply by."""
    embed = Embed(Table(1, 256), scale=3072**0.5).bfloat16()
    embed.tokens.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    want = (embed.tokens.weight.double() * 55.5).bfloat16()
    assert torch.equal(embed(torch.tensor([[0]]), full_step([Causal()], 1))[0], want)
