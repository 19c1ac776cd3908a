"""The attention part from its weights up, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.nn import formulas
from tests.nn.tiny import randomise
from vitral.nn import Attention, Causal, Eager, Full, Fused, Kind, Position, RMSNorm, Rotary, Spec, Window, full_step

T, D_MODEL = 7, 10


class Slope(Position):
    """A bias on the scores, as ALiBi and T5 have it: −distance times a slope for each head."""

    def prepare(self, positions: torch.Tensor, key_positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ((key_positions[:, None, :] - positions[:, :, None])[:, None],)

    def relate(self, q: torch.Tensor, ready: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        slopes = torch.arange(1, q.shape[1] + 1, dtype=q.dtype)[None, :, None, None] / 8
        return q, ready[0].to(q.dtype) * slopes


CASES: list[dict[str, Any]] = [
    {"n_heads": 4, "n_kv_heads": 4, "head_dim": 4},
    {"n_heads": 4, "n_kv_heads": 2, "head_dim": 6, "bias": True, "out_bias": True},
    {"n_heads": 6, "n_kv_heads": 1, "head_dim": 4, "scale": 1.0, "kind": Window(3)},
    {"n_heads": 3, "n_kv_heads": 3, "head_dim": 8, "kind": Full(), "q_norm": RMSNorm(8), "k_norm": RMSNorm(8)},
    {"n_heads": 4, "n_kv_heads": 2, "head_dim": 4, "position": Slope(), "kernel": Eager(softcap=1.5)},
    {
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 8,
        "position": Rotary(6, 50.0),
        "q_norm": RMSNorm(8),
        "k_norm": RMSNorm(8),
    },
]


def by_hand(attention: Attention, x: torch.Tensor, seen: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    def project(part: torch.nn.Linear, value: Any) -> Any:
        out = formulas.array(value) @ formulas.array(part.weight).T
        return out if part.bias is None else out + formulas.array(part.bias)

    def heads(part: torch.nn.Linear, norm: torch.nn.Module) -> Any:
        value = project(part, x).reshape(*x.shape[:2], -1, attention.head_dim)
        if isinstance(norm, RMSNorm):
            value = formulas.rms_norm(value, norm.weight, norm.eps)
        return value.transpose(0, 2, 1, 3)

    q, k = heads(attention.q, attention.q_norm), heads(attention.k, attention.k_norm)
    v = heads(attention.v, torch.nn.Identity())
    bias = None
    if isinstance(attention.position, Rotary):
        q, k = (formulas.rotate(part, np.arange(T), attention.position.frequencies) for part in (q, k))
    if isinstance(attention.position, Slope):
        distance = np.arange(T)[None] - np.arange(T)[:, None]
        bias = distance[None, None] * (np.arange(1, q.shape[1] + 1) / 8)[None, :, None, None]
    softcap = attention.kernel.softcap
    out, _ = formulas.attention(q, k, v, seen=seen, bias=bias, scale=attention.scale, softcap=softcap)
    return project(attention.o, out.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_whole_part(case: dict[str, Any]) -> None:
    attention = Attention(d_model=D_MODEL, **case)
    randomise(attention)
    attention.double()
    x = torch.randn(2, T, D_MODEL, dtype=torch.float64)
    kind: Kind = case.get("kind", Causal())
    at = torch.arange(T)
    seen = kind.sees(at[None, :, None], at[None, None, :])[:, None].numpy()
    tolerance = 1e-5 if isinstance(attention.position, Rotary) else 1e-11  # the rotary tables are float32
    for kernel in (attention.kernel, Fused(attention.kernel.softcap)):
        attention.kernel = kernel
        out = attention(x, full_step([kind], T, dtype=torch.float64))
        assert np.abs(formulas.array(out) - by_hand(attention, x, seen)).max() <= tolerance


def test_gradients_are_those_of_the_formula() -> None:
    attention = Attention(d_model=4, n_heads=4, n_kv_heads=2, head_dim=2, kind=Window(3)).double()
    x = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    step = full_step([Window(3)], 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda value: attention(value, step), (x,), atol=1e-8)


def test_heads_that_cannot_be_shared_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="5 query heads cannot share 2"):
        Attention(d_model=8, n_heads=5, n_kv_heads=2, head_dim=4)


def test_a_shared_position_is_not_the_layers_own() -> None:
    rotary = Rotary(4)
    attention = Attention(d_model=8, n_heads=2, n_kv_heads=2, head_dim=4, position=rotary)
    assert attention.position is rotary
    assert "position" not in dict(attention.named_modules())


def test_a_missing_view_is_named() -> None:
    attention = Spec(Attention, d_model=8, n_heads=2, n_kv_heads=2, head_dim=4, kind=Window(3)).build()
    with pytest.raises(KeyError, match="window-3"):
        attention(torch.randn(1, 4, 8), full_step([Causal()], 4))
