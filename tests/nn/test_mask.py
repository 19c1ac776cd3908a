"""Who sees whom, counted."""

from __future__ import annotations

import pytest
import torch

from vitral.nn import Banded, Causal, Full, Strided, Window, full_step
from vitral.nn.mask import additive


def seen(kind, length: int) -> torch.Tensor:  # type: ignore[no-untyped-def]
    positions = torch.arange(length)
    return kind.sees(positions[None, :, None], positions[None, None, :])[0]


def test_full_sees_all() -> None:
    assert bool(seen(Full(), 5).all())


def test_causal_sees_itself_and_before() -> None:
    assert torch.equal(seen(Causal(), 6), torch.ones(6, 6, dtype=torch.bool).tril())


def test_a_window_of_four_sees_four() -> None:
    found = seen(Window(4), 12)
    assert found.sum(-1).tolist() == [1, 2, 3, *[4] * 9]
    assert found[11].nonzero()[:, 0].tolist() == [8, 9, 10, 11]
    assert torch.equal(seen(Window(1), 5), torch.eye(5, dtype=torch.bool))
    assert torch.equal(seen(Window(99), 7), seen(Causal(), 7))


def test_a_band_of_three_sees_itself_and_three_before() -> None:
    """arXiv:1904.10509 §4.2: i sees {max(0, i - l), …, i}, one key more than a window of l."""
    found = seen(Banded(3), 12)
    assert found.sum(-1).tolist() == [1, 2, 3, *[4] * 9]
    assert found[11].nonzero()[:, 0].tolist() == [8, 9, 10, 11]
    assert torch.equal(found, seen(Window(4), 12))


def test_a_stride_is_counted_back_from_the_token() -> None:
    found = seen(Strided(4), 12)
    assert found[11].nonzero()[:, 0].tolist() == [3, 7, 11]
    assert found[4].nonzero()[:, 0].tolist() == [0, 4]
    assert torch.equal(seen(Strided(1), 7), seen(Causal(), 7))


def test_band_and_stride_together_reach_everything_in_two_layers() -> None:
    """What the pattern is for (§4.2): with l near sqrt(n) every earlier token is at most two steps away."""
    near, far = seen(Banded(4), 16).int(), seen(Strided(4), 16).int()
    assert torch.equal((far @ near) > 0, seen(Causal(), 16))


@pytest.mark.parametrize("kind", [Banded, Strided])
def test_a_band_or_stride_of_nothing_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match="of 0"):
        kind(0)


@pytest.mark.parametrize("size", [0, -1])
def test_a_window_that_sees_nothing_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="sees nothing"):
        Window(size)


def test_kinds_are_values() -> None:
    assert Window(4) == Window(4) != Window(5) and Causal() == Causal() != Full()
    assert len({Causal().name, Full().name, Window(4).name, Window(5).name, Banded(4).name, Strided(4).name}) == 6
    assert (Full().causal, Causal().causal, Window(4).causal) == (False, True, True)


def test_capacity() -> None:
    assert Causal().capacity(100, 7) == 100
    assert Window(4).capacity(100, 7) == 10
    assert Window(4).capacity(8, 7) == 8
    assert Banded(4).capacity(100, 7) == 11
    assert Strided(4).capacity(100, 7) == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_additive_mask_is_finite_in_every_dtype(dtype: torch.dtype) -> None:
    mask = additive(seen(Causal(), 3)[None], dtype)
    assert mask is not None and mask.shape == (1, 1, 3, 3) and mask.dtype == dtype
    assert bool(mask.isfinite().all())
    assert torch.equal(mask[0, 0] == 0, seen(Causal(), 3))
    assert mask.min() == torch.finfo(dtype).min
    assert additive(torch.ones(2, 3, 3, dtype=torch.bool), dtype) is None


def test_documents_packed_into_one_row_do_not_see_each_other() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1]])
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    step = full_step([Causal()], 5, documents=documents, positions=positions)
    visible = step.view(Causal()).mask[0, 0] == 0
    want = torch.block_diag(torch.ones(3, 3).tril(), torch.ones(2, 2).tril()).bool()
    assert torch.equal(visible, want)
