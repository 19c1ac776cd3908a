"""Relative positions by content, term by term from the paper's equation, whichever way the tokens arrive."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.nn import formulas
from vitral.nn import Attention, Block, Cache, Causal, Relative, Stack, Sublayer, full_step

D_MODEL, H, D = 12, 3, 4


def filled(**sizes: int) -> Relative:
    part = Relative(**{"d_model": D_MODEL, "n_heads": H, "head_dim": D, **sizes}).double()
    for number, parameter in enumerate(part.parameters()):
        parameter.data.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return part


def wave(distance: int) -> np.ndarray:  # type: ignore[type-arg]
    """The sinusoid of a distance, written for this test."""
    angle = [distance / 10000 ** (2 * (i // 2) / D_MODEL) for i in range(D_MODEL)]
    return np.array([math.sin(a) if i % 2 == 0 else math.cos(a) for i, a in enumerate(angle)])


def four_terms(part: Relative, q: Tensor, k: Tensor, i: int, j: int, h: int) -> float:
    """arXiv:1901.02860 §3.3: (a) content, (b) content and distance, (c) what all ask of content, (d) of distance."""
    W = formulas.array(part.r.weight).reshape(H, D, D_MODEL)[h]
    u, v = formulas.array(part.u)[h], formulas.array(part.v)[h]
    query, key, r = formulas.array(q)[0, h, i], formulas.array(k)[0, h, j], W @ wave(i - j)
    return float(query @ key + query @ r + u @ key + v @ r)


@pytest.mark.parametrize("length", [1, 3, 9])  # few queries and many: two orders of the same product
def test_a_score_is_the_four_terms(length: int) -> None:
    part = filled()
    q, k = (torch.randn(1, H, length, D, dtype=torch.float64) for _ in range(2))
    positions = torch.arange(length)[None]
    asked, bias = part.relate(q, part.prepare(positions, positions))
    scores = asked @ k.transpose(-1, -2) * D**-0.5 + bias
    for h in range(H):
        for i in range(length):
            for j in range(i + 1):
                want = four_terms(part, q, k, i, j, h) / math.sqrt(D)
                assert scores[0, h, i, j].item() == pytest.approx(want, abs=1e-6)  # the waves are float32


def test_both_orders_of_the_product_are_one() -> None:
    part = filled(d_model=8)
    q = torch.randn(2, H, 7, D, dtype=torch.float64)
    positions = torch.arange(7)[None]
    ready = part.prepare(positions, positions)
    together = part.relate(q, ready)[1]  # 21 queries of 8 numbers: distances are turned
    alone = [part.relate(q[:, :, t : t + 1], (ready[0][:, :, t : t + 1], ready[1]))[1] for t in range(7)]
    assert torch.allclose(together, torch.cat(alone, 2), atol=1e-12)


def test_only_the_distance_counts() -> None:
    part = filled()
    q = torch.randn(1, H, 4, D, dtype=torch.float64)
    near, far = torch.arange(4)[None], torch.arange(1000, 1004)[None]
    assert torch.allclose(part.relate(q, part.prepare(near, near))[1], part.relate(q, part.prepare(far, far))[1])


def test_an_empty_slot_does_no_harm() -> None:
    part = filled()
    q = torch.randn(1, H, 2, D, dtype=torch.float64)
    ready = part.prepare(torch.tensor([[3, 4]]), torch.tensor([[4, -1, 2, 3]]))
    bias = part.relate(q, ready)[1]
    assert bias.shape == (1, H, 2, 4) and bool(bias.isfinite().all())
    assert ready[0][0, 0].tolist() == [[0, 3, 1, 0], [0, 4, 2, 1]]


def test_each_layer_has_its_own_and_the_cache_changes_nothing() -> None:
    sizes = {"d_model": D_MODEL, "n_heads": H, "head_dim": D}
    blocks = [
        Block(attn=Sublayer(Attention(**sizes, n_kv_heads=H, position=filled(), kind=Causal()))) for _ in range(2)
    ]
    stack = Stack(blocks).double()
    names = {name for name, _ in stack.named_parameters() if "position" in name}
    assert len(names) == 6 and len(stack.shared) == 0
    x = torch.randn(2, 9, D_MODEL, dtype=torch.float64)
    whole = stack(x, full_step(stack.kinds, 9, dtype=torch.float64))
    cache = Cache(stack.new_cache, stack.kinds, rows=2, length=9, chunk=4, dtype=torch.float64)
    pieces = [stack(piece, cache.extend(piece.shape[1])) for piece in x.split((4, 1, 3, 1), 1)]
    assert torch.allclose(whole, torch.cat(pieces, 1), atol=1e-6)


def test_gradients_reach_every_parameter() -> None:
    part = filled()
    positions = torch.arange(5)[None]
    q, k = (torch.randn(1, H, 5, D, dtype=torch.float64) for _ in range(2))
    asked, bias = part.relate(q, part.prepare(positions, positions))
    (asked @ k.transpose(-1, -2) + bias).softmax(-1).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
