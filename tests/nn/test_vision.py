"""Parts that see: soft tokens and who sees them, tiles and who looks at them, grids of positions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitral.nn import Causal, Full, Gate, GatedLooking, Grid, Memory, Pooled, SiLU, Soft, Window, full_step, looking
from vitral.nn.mask import visible

AT = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]]).bool()


def soft(at: torch.Tensor = AT, d: int = 3) -> Soft:
    return Soft.of(at, torch.arange(1.0, int(at.sum()) + 1)[:, None].expand(-1, d), together=True)


def test_vectors_take_their_places_row_by_row() -> None:
    x = torch.zeros(2, 8, 3)
    assert soft().into(x)[..., 0].tolist() == [[0, 0, 1, 2, 3, 0, 4, 5], [0] * 8]
    assert soft().piece(3, 7).into(x[:, :4])[0, :, 0].tolist() == [2, 3, 0, 4]
    with pytest.raises(ValueError, match="4 vectors are to stand in 5 places"):
        Soft.of(AT, torch.zeros(4, 3))


def test_a_token_sees_to_the_end_of_its_run() -> None:
    positions = torch.arange(8)[None]
    until = soft().until(positions)
    assert until is not None and until[..., 0].tolist() == [[0, 1, 4, 4, 4, 5, 7, 7], list(range(8))]
    assert Soft(at=AT, vectors=torch.zeros(2, 8, 3)).until(positions) is None


@pytest.mark.parametrize(
    ("most", "cuts"), [(3, [(0, 2), (2, 5), (5, 8)]), (4, [(0, 2), (2, 6), (6, 8)]), (8, [(0, 8)])]
)
def test_pieces_cut_no_run(most: int, cuts: list[tuple[int, int]]) -> None:
    assert soft().pieces(most) == cuts
    with pytest.raises(ValueError, match="token 2"):
        soft().pieces(2)


@pytest.mark.parametrize("kind", [Causal(), Window(2), Full()])
def test_a_run_is_seen_forwards_whatever_the_kind_and_backwards_as_the_kind_has_it(
    kind: Causal | Window | Full,
) -> None:
    q, k, until = torch.tensor([[[3]]]), torch.arange(8)[None, None], torch.tensor([[[4]]])
    seen = visible(kind, q, k, until)[0, 0]
    assert bool(seen[4]) and seen[:4].tolist() == kind.sees(q, k)[0, 0, :4].tolist()
    assert bool(seen[5]) is isinstance(kind, Full)


def test_padding_inside_the_reach_of_a_run_stays_unseen() -> None:
    at = torch.tensor([[0, 1, 1, 1]]).bool()
    valid = torch.tensor([[0, 1, 1, 1]]).bool()
    step = full_step([Causal()], 4, valid=valid, soft=soft(at))
    mask = step.views["causal"].mask
    assert mask is not None and (mask[0, 0, 1:] == 0).tolist() == [[False, True, True, True]] * 3


def test_looking() -> None:
    tiles = torch.tensor([[[1, 1], [1, 0]], [[1, 1], [1, 1]], [[1, 0], [0, 0]]]).bool()
    ids = torch.tensor([[5, 9, 5, 9, 5], [5, 9, 9, 5, 5], [5, 5, 5, 5, 5]])
    seen = looking(ids, 9, tiles).int().flatten(2).tolist()
    none = [0, 0, 0, 0]
    assert seen[0] == [none, [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    assert seen[1] == [none, [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert seen[2] == [none] * 5


def test_what_looks_at_nothing_says_nothing() -> None:
    ffn = GatedLooking(d_model=4, d_ff=8, act=SiLU())
    x = torch.randn(1, 3, 4)
    sees = torch.tensor([[[False, False], [True, False], [True, True]]])
    step = full_step([], 3, memory=Memory.of(torch.randn(1, 2, 4), sees=sees))
    out = ffn(x, step)
    assert not out[0, 0].any() and torch.equal(out[0, 1:], ffn(x, full_step([], 3))[0, 1:])
    memory = step.memory
    assert memory is not None and memory.mask is not None
    assert (memory.mask[0, 0] == 0).tolist() == [[True, True], [True, False], [True, True]]


def test_a_gate_begins_shut() -> None:
    assert not Gate()(torch.ones(3)).any()


def test_a_grid_keeps_its_first_rows() -> None:
    grid = Grid(side=4, d=2, first=1)
    whole, other = grid(4, 4), grid(3, 7)
    assert torch.equal(whole, grid.table.weight)
    assert other.shape == (1 + 21, 2) and torch.equal(other[0], whole[0])


def test_a_pool_that_does_not_fit_is_refused() -> None:
    for side, tokens in ((8, 9), (8, 5)):
        with pytest.raises(ValueError, match="cannot be averaged"):
            Pooled(side=side, tokens=tokens, d=4, d_model=4, norm=nn.Identity())
