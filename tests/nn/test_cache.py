"""The cache's bookkeeping: slots, rings, padding, going back. That its numbers are right, the parity tests show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.nn.tiny import DECODERS, some_ids, tiny
from vitral.nn import Cache, Causal, Model, Window


def feed(model: Model, cache: Cache, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, cache.extend(ids.shape[1]))


def empty(*kinds, rows: int = 2, length: int = 20, chunk: int = 3) -> Cache:  # type: ignore[no-untyped-def]
    return Cache(lambda allocate: [allocate(k, 2, 4, 5) for k in kinds], kinds, rows=rows, length=length, chunk=chunk)


def test_a_window_keeps_a_ring_and_a_full_cache_everything() -> None:
    cache = empty(Causal(), Window(4))
    assert [tuple(kv.k.shape) for kv in cache.tree] == [(2, 2, 21, 4), (2, 2, 7, 4)]  # and a spare slot each
    assert [tuple(kv.v.shape) for kv in cache.tree] == [(2, 2, 21, 5), (2, 2, 7, 5)]
    assert cache.bytes == 2 * 2 * (21 + 7) * (4 + 5) * 4


def test_memory_is_taken_as_tokens_come() -> None:
    cache = empty(Causal(), Window(300), length=100_000, chunk=200)
    assert [kv.k.shape[2] for kv in cache.tree] == [257, 257]
    cache.tree[0].k[:, :, :256] = torch.randn(2, 2, 256, 4)
    cache.tree[0].k[:, :, 256] = 99.0  # what padding left in the spare slot
    before = cache.tree[0].k[:, :, :256].clone()
    for _ in range(3):
        step = cache.extend(200)
    assert [kv.k.shape[2] for kv in cache.tree] == [1025, 500]  # doubled twice; the ring: 300 + 200 - 1, and a spare
    assert torch.equal(cache.tree[0].k[:, :, :256], before)
    assert not cache.tree[0].k[:, :, 256:].any()
    assert step.cache is cache.tree and int(step.view(Causal()).slots.max()) == 599


def test_growing_changes_no_number() -> None:
    model, ids = tiny("llama3"), some_ids(2, 700)
    cache = model.new_cache(2, 5000, chunk=90)
    valid = torch.ones(2, 90, dtype=torch.bool)
    valid[0, :30] = False  # row 0 is padded in each piece
    kept: list[list[int]] = [[], []]
    pieces = []
    for start in range(0, 630, 90):
        step = cache.extend(valid)
        pieces.append((ids[:, start : start + 90], step))
        for row in range(2):
            kept[row] += ids[row, start : start + 90][valid[row]].tolist()
        with torch.no_grad():
            got = model(*pieces[-1])
    with torch.no_grad():
        for row in range(2):
            whole = model(torch.tensor([kept[row]]))
            assert (got[row, -1] - whole[0, -1]).abs().max() <= 1e-5


def test_every_query_sees_exactly_its_window_whatever_the_pieces() -> None:
    for chunk in (1, 2, 3):
        cache = empty(Window(4), rows=1, chunk=chunk)
        for start in range(0, 18, chunk):
            view = cache.extend(chunk).view(Window(4))
            for t in range(chunk):
                mask = torch.zeros(view.key_positions.shape[1]) if view.mask is None else view.mask[0, 0, t]
                seen = sorted(view.key_positions[0][mask == 0].tolist())
                at = start + t
                assert seen == list(range(max(0, at - 3), at + 1))


def test_padding_takes_no_slot_and_no_position() -> None:
    cache = empty(Causal())
    step = cache.extend(torch.tensor([[False, True, True], [True, True, True]]))
    assert cache.lengths == [2, 3]
    assert step.positions.tolist() == [[0, 0, 1], [0, 1, 2]]
    assert step.view(Causal()).block.tolist() == [[0], [1]]
    assert step.view(Causal()).slots.tolist() == [[20, 0, 1], [0, 1, 2]]  # 20: the spare slot
    step = cache.extend(torch.tensor([[True, False], [False, False]]))
    assert cache.lengths == [3, 3]
    assert step.positions[0, 0] == 2
    assert step.view(Causal()).slots.tolist() == [[2, 20], [20, 20]]


def test_too_much_is_refused_and_changes_nothing() -> None:
    cache = empty(Causal(), length=5)
    for valid in (4, torch.ones(2, 4, dtype=torch.bool)):
        with pytest.raises(ValueError, match="do not fit"):
            cache.extend(valid)
    cache.extend(3)
    with pytest.raises(ValueError, match="do not fit"):
        cache.extend(3)
    assert cache.lengths == [3, 3]
    cache.extend(2)
    assert cache.lengths == [5, 5]


@pytest.mark.parametrize("length", [-1, 4])
def test_a_row_cannot_be_cut_to_what_it_does_not_hold(length: int) -> None:
    cache = empty(Causal())
    cache.extend(3)
    with pytest.raises(ValueError, match="holds 3 tokens"):
        cache.truncate(0, length)


def test_a_wrapped_window_goes_back_one_piece_and_no_further() -> None:
    cache = empty(Window(4), rows=1)
    for _ in range(4):
        cache.extend(3)
    with pytest.raises(ValueError, match="overwritten"):
        cache.truncate(0, 8)
    cache.truncate(0, 9)
    with pytest.raises(ValueError, match="overwritten"):
        cache.truncate(0, 7)  # two small steps back are one large one
    cache.extend(1)
    with pytest.raises(ValueError, match="overwritten"):
        cache.truncate(0, 8)
    cache.truncate(0, 9)


def test_what_a_short_ring_still_holds_can_be_cut_but_not_what_it_lost() -> None:
    """A row cut back below the ring's size looks as if it had never wrapped."""
    model = tiny("qwen2", sliding_window=4)
    ids = some_ids(1, 20)
    cache = model.new_cache(1, 20, chunk=5)  # a ring of 8
    for piece in ids[:, :10].split(5, 1):
        feed(model, cache, piece)
    cache.truncate(0, 6)
    with pytest.raises(ValueError, match="overwritten"):
        cache.truncate(0, 3)
    with torch.no_grad():
        want = model(ids)[:, 6:16]
    got = torch.cat([feed(model, cache, piece) for piece in ids[:, 6:16].split(5, 1)], 1)
    assert (got - want).abs().max() <= 1e-5


@pytest.mark.parametrize("name", DECODERS)
def test_everything_can_be_forgotten(name: str) -> None:
    """A used cache serves another text, also one whose rings have wrapped."""
    model, ids = tiny(name), some_ids(2, 12)
    cache = model.new_cache(2, 30, chunk=6)
    for piece in some_ids(2, 30, seed=5).split(6, 1):
        feed(model, cache, piece)
    cache.truncate(0, 0)
    cache.truncate(1, 0)
    with torch.no_grad():
        want = model(ids)
    got = torch.cat([feed(model, cache, piece) for piece in ids.split(3, 1)], 1)
    assert (got - want).abs().max() <= 1e-5


@pytest.mark.parametrize("name", DECODERS)
def test_going_back_at_random_is_as_if_nothing_had_been(name: str) -> None:
    """Speculation: guess, look, take back; a hundred times over, with both windows and full attention."""
    model, ids = tiny(name), some_ids(1, 60)
    generator = torch.Generator().manual_seed(3)
    cache = model.new_cache(1, 64, chunk=4)
    with torch.no_grad():
        want = model(ids)
    at = 0
    while at < 56:
        n, keep = torch.randint(1, 5, (2,), generator=generator).tolist()
        wrong = torch.randint(0, 50, (1, n), generator=generator)
        feed(model, cache, wrong)
        cache.truncate(0, at)
        got = feed(model, cache, ids[:, at : at + n])
        assert (got - want[:, at : at + n]).abs().max() <= 1e-5
        at += min(n, keep)
        cache.truncate(0, at)


def test_a_fork_holds_copies() -> None:
    cache = empty(Causal())
    cache.extend(torch.tensor([[True, True, True], [True, False, False]]))
    fork = cache.fork([1, 0, 1])
    assert fork.lengths == [1, 3, 1] and cache.lengths == [3, 1]
    assert fork.tree[0].k.shape[0] == 3
    fork.tree[0].k.fill_(7)
    assert bool((cache.tree[0].k == 0).all())
    fork.extend(2)
    assert cache.lengths == [3, 1]


def test_a_cache_of_another_dtype_gives_back_the_models() -> None:
    model, ids = tiny("llama3"), some_ids(1, 9)
    cache = model.new_cache(1, 9, dtype=torch.bfloat16)
    assert cache.tree[0]["attn"].k.dtype == torch.bfloat16
    logits = feed(model, cache, ids)
    assert logits.dtype == torch.float32
    with torch.no_grad():
        assert 1e-5 < (logits - model(ids)).abs().max() < 0.5
