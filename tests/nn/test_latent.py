"""Latent attention: both forms against the formula and each other, what is cached, and how the matrix is come by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.nn import formulas
from tests.nn.tiny import randomise
from vitral.inspect.record import record
from vitral.nn import (
    Block,
    Cache,
    Causal,
    Interleaved,
    Latent,
    LowRank,
    RMSNorm,
    Rotary,
    Spec,
    Stack,
    Sublayer,
    full_step,
)
from vitral.nn.latent import break_even

D, T = 20, 13
SIZES: dict[str, int] = {"d_model": D, "n_heads": 3, "rank": 9, "key_dim": 5, "value_dim": 7}


def attention(
    absorb: int | None = None, *, low: int | None = 8, dtype: torch.dtype = torch.float64, **other: Any
) -> Any:
    out = SIZES["n_heads"] * (SIZES["key_dim"] + 4)
    q = nn.Linear(D, out, bias=False) if low is None else LowRank(d=D, rank=low, out=out, norm=RMSNorm(low))
    made = Latent(**SIZES, position=Interleaved(4, 50.0), q=q, norm=RMSNorm(9), absorb=absorb, **other)
    randomise(made)
    return made.to(dtype).eval()


def fed(made: Latent, x: Tensor, chunk: int) -> Tensor:
    """x [B, T, d] through a cache in pieces."""
    cache = Cache(made.new_cache, (made.kind,), rows=len(x), length=x.shape[1], chunk=chunk, dtype=x.dtype)
    with torch.no_grad():
        return torch.cat([made(piece, cache.extend(piece.shape[1])) for piece in x.split(chunk, 1)], 1)


def whole(made: Latent, x: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = made(x, full_step((made.kind,), x.shape[1], dtype=x.dtype))
    return out


def texts(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, T, D, generator=torch.Generator().manual_seed(5), dtype=dtype)


@pytest.mark.parametrize("low", [None, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_formula(low: int | None, bias: bool) -> None:
    made, x = attention(low=low, bias=bias), texts()
    array, (H, n, v, r, p) = formulas.array, (3, 5, 7, 9, 4)
    if low is None:
        q = array(x) @ array(made.q.weight).T
    else:
        down = array(x) @ array(made.q.down.weight).T
        q = formulas.rms_norm(down, made.q.norm.weight, made.q.norm.eps) @ array(made.q.up.weight).T
    q = q.reshape(2, T, H, n + p)
    down = array(x) @ array(made.down.weight).T + (array(made.down.bias) if bias else 0)
    up = formulas.rms_norm(down[..., :r], made.norm.weight, made.norm.eps) @ array(made.up.weight).T
    up = up.reshape(2, T, H, n + v)

    def turn(value: Any, at: int) -> Any:
        pairs = (value[..., 0::2] + 1j * value[..., 1::2]) * np.exp(1j * at * 50.0 ** (-np.arange(0, p, 2) / p))
        return np.stack((pairs.real, pairs.imag), -1).reshape(value.shape)

    out = np.zeros((2, T, H, v))
    for b, h, i in np.ndindex(2, H, T):
        scores = [
            q[b, i, h, :n] @ up[b, s, h, :n] + turn(q[b, i, h, n:], i) @ turn(down[b, s, r:], s) for s in range(i + 1)
        ]
        out[b, i, h] = formulas.softmax(np.array(scores) / np.sqrt(n + p)) @ up[b, : i + 1, h, n:]
    want = out.reshape(2, T, -1) @ array(made.o.weight).T + (array(made.o.bias) if bias else 0)
    assert np.abs(want - array(whole(made, x))).max() < 1e-6  # the rotation's table is float32


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("chunk", [1, 3, 4, 13])
def test_both_forms_give_the_same_numbers(chunk: int, dtype: torch.dtype, near: float) -> None:
    plain, absorbed, x = attention(0, dtype=dtype), attention(T, dtype=dtype), texts(dtype)
    want = whole(plain, x)
    assert (fed(plain, x, chunk) - want).abs().max() <= near
    assert (fed(absorbed, x, chunk) - want).abs().max() <= near


def test_absorb_is_the_longest_piece_that_is_absorbed(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[str, int]] = []
    for form in ("plain", "absorbed"):
        kept = getattr(Latent, form)

        def seen(self: Latent, q: Tensor, *rest: Any, form: str = form, kept: Any = kept) -> Tensor:
            taken.append((form, q.shape[2]))
            out: Tensor = kept(self, q, *rest)
            return out

        monkeypatch.setattr(Latent, form, seen)
    x = texts()
    fed(attention(4), x, 5)
    assert taken == [("plain", 5), ("plain", 5), ("absorbed", 3)]
    taken.clear()
    fed(attention(0), x, 1)
    whole(attention(T), x)  # as many queries as keys
    assert {form for form, _ in taken} == {"plain"}


def test_the_cache_holds_latents_and_one_key_a_token() -> None:
    made = attention()
    cache = Cache(made.new_cache, (Causal(),), rows=2, length=64, dtype=torch.float32)
    assert cache.bytes == 2 * (64 + 1) * (9 + 4) * 4
    x = texts()
    cache = Cache(made.new_cache, (Causal(),), rows=2, length=64, dtype=torch.float64)
    with torch.no_grad():
        made(x, cache.extend(T))
    down = made.down(x)
    assert torch.allclose(cache.tree.k[:, 0, :T], made.norm(down[..., :9]))
    assert torch.allclose(cache.tree.v[:, 0, :1], down[:, :1, 9:])  # at position 0 nothing turns


def test_a_branch_keeps_the_matrix_and_goes_its_own_way() -> None:
    made, x = attention(T), texts()
    cache = Cache(made.new_cache, (Causal(),), rows=2, length=400, chunk=T, dtype=torch.float64)
    with torch.no_grad():
        made(x[:, :6], cache.extend(6))
        branch = cache.fork([1, 1])
        assert branch.tree.expand is cache.tree.expand
        branch.truncate(0, 4)
        mine = made(x[[0, 0], 6:9], branch.extend(3))
    other = whole(made, torch.cat((x[1, :4], x[0, 6:9]))[None])[0, 4:]
    assert torch.allclose(mine[0], other, atol=1e-12)


def test_the_cache_grows_with_its_matrix() -> None:
    made = attention(1, dtype=torch.float32)
    cache = Cache(made.new_cache, (Causal(),), rows=1, length=600, chunk=512)
    x = torch.randn(1, 300, D)
    with torch.no_grad():
        pieces = [made(x[:, :299], cache.extend(299)), made(x[:, 299:], cache.extend(1))]
    assert (torch.cat(pieces, 1) - whole(made, x)).abs().max() < 1e-5


class Adapted(nn.Module):
    """A projection with a low-rank change beside it, and no weight to be found."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.a, self.b = nn.Linear(inner.in_features, 2), nn.Linear(2, inner.out_features)
        nn.init.zeros_(self.a.bias), nn.init.zeros_(self.b.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x) + self.b(self.a(x))
        return y


def test_the_matrix_is_what_the_projection_does_whatever_it_is_made_of() -> None:
    made, x = attention(T), texts()
    made.up = Adapted(made.up).double()
    assert (fed(made, x, 2) - whole(made, x)).abs().max() < 1e-12


@pytest.mark.parametrize("chunk", [1, 8])
def test_patterns_are_recorded_in_both_forms(chunk: int) -> None:
    made = attention(4)
    stack = Stack([Block(attn=Sublayer(made))]).double()
    cache = Cache(stack.new_cache, stack.kinds, rows=2, length=8, chunk=8, dtype=torch.float64)
    x = texts()[:, :8]
    with record(stack, "*.kernel.pattern") as seen, torch.no_grad():
        for piece in x.split(chunk, 1):
            stack(piece, cache.extend(piece.shape[1]))
    pattern = seen["blocks.0.attn.mixer.kernel.pattern"]
    assert pattern.shape == (2, 3, chunk, 8)
    assert torch.allclose(pattern.sum(-1), torch.ones(2, 3, chunk, dtype=torch.float64))


def test_one_rotation_serves_all_layers() -> None:
    rotary = Spec(Interleaved, dim=4)

    def block() -> Spec:
        q, norm = Spec(nn.Linear, in_features=D, out_features=27), Spec(RMSNorm, d=9)
        return Spec(Block, attn=Spec(Sublayer, mixer=Spec(Latent, **SIZES, position=rotary, q=q, norm=norm)))

    stack = Spec(Stack, blocks=[block(), block()]).build()
    assert len(stack.shared) == 1 and len(stack.uses) == 1
    assert not any("position" in name for name, _ in stack.named_modules())


def test_gradients_reach_everything() -> None:
    made = attention()
    made(texts(), full_step((made.kind,), T, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in made.parameters())


def test_where_both_forms_cost_the_same() -> None:
    r, n, p, v = 512, 128, 64, 128  # of a published model, arXiv:2412.19437 §4.2
    even = break_even(r, n + v)
    assert even * ((r + p) + r) == pytest.approx(r * (n + v) + even * ((n + p) + v), rel=0.01)
    assert even == 170
    assert break_even(4, 16) == 2**31  # latents shorter than what a head holds: always


def test_neighbours_turn_together_and_the_rest_stays() -> None:
    part, x = Interleaved(4, 10.0), torch.randn(1, 2, 5, 7, dtype=torch.float64)
    ready = part.prepare(torch.arange(5)[None], torch.arange(5)[None])
    turned = part.encode(x, ready)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    for pair, speed in ((0, 1.0), (1, 10.0**-0.5)):
        z = torch.view_as_complex(x[..., 2 * pair : 2 * pair + 2].contiguous())
        want = z * torch.exp(1j * torch.arange(5, dtype=torch.float64) * speed)
        assert torch.allclose(torch.view_as_complex(turned[..., 2 * pair : 2 * pair + 2].contiguous()), want, atol=1e-6)
    halves = Rotary(4, 10.0).encode(torch.cat((x[..., 0:4:2], x[..., 1:4:2]), -1), ready)
    assert torch.equal(turned[..., 0:4:2], halves[..., :2]) and torch.equal(turned[..., 1:4:2], halves[..., 2:])
