"""Frequencies that grow in steps, and queries that sharpen, beyond the training length."""

from __future__ import annotations

import math

import pytest
import torch

from vitral.nn import LogN, Rotary, SteppedNTK


@pytest.mark.parametrize(
    ("length", "alpha"), [(1, 1), (8, 1), (9, 3), (16, 3), (17, 7), (32, 7), (33, 15), (64, 15), (65, 31)]
)
def test_the_base_grows_at_each_doubling(length: int, alpha: int) -> None:
    found = SteppedNTK(original=8).at_length(100.0, 6, torch.tensor([length]))
    base = 100.0 * alpha ** (6 / 4)
    assert found is not None and found.shape == (1, 1, 3)
    assert found[0, 0].tolist() == pytest.approx([base ** (-2 * i / 6) for i in range(3)], rel=1e-5)


def test_each_row_grows_by_its_own_length() -> None:
    found = SteppedNTK(original=8).at_length(100.0, 6, torch.tensor([8, 9]))
    assert found is not None and found[0, 0, 1] > found[1, 0, 1]


def test_queries_beyond_the_training_length_are_sharper() -> None:
    part = LogN(Rotary(4), original=8)
    positions = torch.arange(20)[None]
    q = torch.ones(1, 2, 20, 4)
    asked, bias = part.relate(q, part.prepare(positions, positions))
    want = [max(1.0, math.log(n) / math.log(8)) for n in range(1, 21)]
    assert bias is None and asked[0, 1, :, 0].tolist() == pytest.approx(want, rel=1e-6)


def test_keys_are_only_turned() -> None:
    inner = Rotary(4)
    part, positions = LogN(inner, original=2), torch.arange(9)[None]
    k = torch.randn(1, 1, 9, 4)
    turned = inner.encode(k, inner.prepare(positions, positions))
    assert torch.equal(part.encode(k, part.prepare(positions, positions)), turned)


def test_a_context_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="no factor"):
        LogN(Rotary(4), original=1)
