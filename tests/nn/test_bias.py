"""Position parts that give attention a bias."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

from vitral.nn import ALiBi, Attention, Block, Bucketed, BucketedBothSides, Full, Spec, Stack, Step, Sublayer, full_step
from vitral.nn.position import Position


def bias_of(part: Position, n_queries: int, n_keys: int) -> torch.Tensor:
    positions, keys = torch.arange(n_keys - n_queries, n_keys)[None], torch.arange(n_keys)[None]
    ready = part.prepare(positions, keys)
    q = torch.randn(1, 3, n_queries, 4)
    same, bias = part.relate(q, ready)
    assert same is q and bias is not None
    assert part.encode(q, ready) is q
    return bias


@pytest.mark.parametrize(("n", "farthest"), [(32, 128), (8, 20), (5, 7), (2, 3), (64, 1000)])
def test_buckets_look_back_as_published(n: int, farthest: int) -> None:
    part = Bucketed(3, n, farthest)
    back = torch.arange(-5, 3000)
    theirs = T5Attention._relative_position_bucket(-back, bidirectional=False, num_buckets=n, max_distance=farthest)
    assert torch.equal(part.buckets(back), theirs)


@pytest.mark.parametrize(("n", "farthest"), [(32, 128), (8, 20), (13, 7), (4, 3), (64, 1000)])
def test_buckets_of_both_sides_as_published(n: int, farthest: int) -> None:
    part = BucketedBothSides(3, n, farthest)
    back = torch.arange(-3000, 3000)
    theirs = T5Attention._relative_position_bucket(-back, bidirectional=True, num_buckets=n, max_distance=farthest)
    assert torch.equal(part.buckets(back), theirs)


def test_half_of_the_buckets_are_exact_and_the_last_has_no_end() -> None:
    part = Bucketed(1)
    assert part.buckets(torch.arange(17)).tolist() == list(range(17))
    assert part.buckets(torch.tensor([127, 128, 10**6])).tolist() == [31, 31, 31]
    assert BucketedBothSides(1).buckets(torch.tensor([0, 1, -1])).tolist() == [0, 1, 17]


@pytest.mark.parametrize("kind", [Bucketed, BucketedBothSides])
def test_the_bias_is_the_tables_row_of_the_bucket(kind: type[Bucketed]) -> None:
    part = kind(3, 8, 20)
    bias = bias_of(part, 4, 9)
    assert bias.shape == (1, 3, 4, 9)
    for t in range(4):
        for s in range(9):
            bucket = part.buckets(torch.tensor(5 + t - s))
            assert torch.equal(bias[0, :, t, s], part.table.weight[bucket])


@pytest.mark.parametrize(
    ("kind", "n", "farthest"),
    [(Bucketed, 32, 16), (Bucketed, 1, 100), (Bucketed, 0, 9), (BucketedBothSides, 3, 100), (BucketedBothSides, 32, 8)],
)
def test_buckets_that_do_not_divide_are_refused(kind: type[Bucketed], n: int, farthest: int) -> None:
    with pytest.raises(ValueError, match="do not fall into"):
        kind(2, n, farthest)


def test_a_table_of_all_layers_is_held_once_and_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bias = Spec(BucketedBothSides, n_heads=3)
    attention = Spec(Attention, d_model=12, n_heads=3, n_kv_heads=3, head_dim=4, kind=Full(), position=bias, scale=1.0)
    blocks = [Spec(Block, attn=Spec(Sublayer, mixer=attention.replace())) for _ in range(3)]
    stack: Stack = Spec(Stack, blocks=blocks).build()
    tables = [name for name, _ in stack.named_parameters() if "table" in name]
    assert tables == ["shared.0.table.weight"]
    calls, prepare = [], BucketedBothSides.prepare
    monkeypatch.setattr(BucketedBothSides, "prepare", lambda self, *a: (calls.append(1), prepare(self, *a))[1])
    stack(torch.randn(2, 5, 12), full_step(stack.kinds, 5)).sum().backward()
    assert len(calls) == 1
    assert stack.shared[0].table.weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_attention_adds_the_bias_to_scores_of_its_own_scale() -> None:
    bias = BucketedBothSides(2, 8, 20)
    attention = Attention(d_model=8, n_heads=2, n_kv_heads=2, head_dim=4, kind=Full(), position=bias, scale=1.0)
    x = torch.randn(1, 6, 8)
    step: Step = full_step((Full(),), 6)
    q, k, v = (part(x).view(1, 6, 2, 4).transpose(1, 2) for part in (attention.q, attention.k, attention.v))
    (added,) = bias.prepare(step.positions, step.positions)
    want = attention.o(((q @ k.mT + added).softmax(-1) @ v).transpose(1, 2).flatten(-2))
    assert torch.allclose(attention(x, step), want, atol=1e-6)


@pytest.mark.parametrize("n_heads", [1, 2, 3, 6, 8, 12, 16, 71])
def test_alibi_has_the_published_slopes(n_heads: int) -> None:
    bias = bias_of(ALiBi(n_heads), 7, 7)
    # there the bias of a key is slope · its position: the same up to a number for each query, which softmax ignores
    theirs = build_alibi_tensor(torch.ones(1, 7), n_heads, torch.float32).view(1, n_heads, 1, 7)
    hidden = torch.full((7, 7), -math.inf).triu(1)
    assert torch.allclose((bias + hidden).softmax(-1), (theirs + hidden).softmax(-1), atol=1e-6)
    assert bias[0, 0, 3, 3] == 0


def test_alibi_grows_with_distance_on_both_sides() -> None:
    bias = bias_of(ALiBi(8), 5, 5)
    assert torch.allclose(bias[0, 0, 2], -0.5 * torch.tensor([2.0, 1.0, 0.0, 1.0, 2.0]))
    assert torch.allclose(bias[0, 7, 0], -(2.0**-8) * torch.arange(5.0))
