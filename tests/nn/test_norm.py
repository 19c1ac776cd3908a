"""Norms against NumPy in float64; their statistics in half precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.nn import formulas
from vitral.nn import LayerNorm, OverHeads, RMSNorm

SPREADS = [1.0, 1e-3, 1e-6, 1e3]


def filled(norm: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in norm.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return norm


@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1e-5])
@pytest.mark.parametrize("spread", SPREADS)
def test_the_formulas(spread: float, eps: float) -> None:
    x = torch.randn(3, 5, 24, dtype=torch.float64) * spread + spread
    layer, rms = filled(LayerNorm(24, eps=eps)), filled(RMSNorm(24, eps=eps))
    assert np.abs(formulas.array(layer(x)) - formulas.layer_norm(x, layer.weight, layer.bias, eps)).max() <= 1e-10
    assert np.abs(formulas.array(rms(x)) - formulas.rms_norm(x, rms.weight, eps)).max() <= 1e-10


def test_a_weight_stored_around_zero() -> None:
    plain, offset = RMSNorm(8), RMSNorm(8, offset=1.0)
    assert torch.equal(plain.weight, torch.ones(8)) and torch.equal(offset.weight, torch.zeros(8))
    x = torch.randn(2, 8)
    assert torch.equal(plain(x), offset(x))
    offset.weight.data += 0.5
    assert np.abs(formulas.array(offset(x)) - formulas.rms_norm(x, torch.full((8,), 1.5), 1e-6)).max() <= 1e-6


def test_a_layer_norm_without_bias() -> None:
    norm = LayerNorm(8, bias=False)
    assert [name for name, _ in norm.named_parameters()] == ["weight"]
    x = torch.randn(2, 8)
    assert np.abs(formulas.array(norm(x)) - formulas.layer_norm(x, norm.weight, 0.0, 1e-5)).max() <= 1e-6


def test_over_all_heads_at_once() -> None:
    norm = OverHeads(filled(RMSNorm(12)))
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    want = formulas.rms_norm(x.flatten(-2), norm.norm.weight, 1e-6).reshape(x.shape)
    assert np.abs(formulas.array(norm(x)) - want).max() <= 1e-10


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_half_precision_is_rounded_once(kind: type[torch.nn.Module]) -> None:
    """Statistics in float32: each result is one of the two numbers next to the exact one. Sums in bfloat16 are not."""
    norm = filled(kind(512)).bfloat16()
    x = (torch.randn(64, 512) * 3 + 1).bfloat16()
    bias = norm.bias if kind is LayerNorm else None
    want = (
        formulas.rms_norm(x, norm.weight, norm.eps)
        if bias is None
        else formulas.layer_norm(x, norm.weight, bias, norm.eps)
    )
    got = norm(x)
    assert got.dtype == torch.bfloat16
    ulp = 2.0 ** (np.floor(np.log2(np.abs(want) + 1e-30)) - 7)
    assert (np.abs(formulas.array(got) - want) <= ulp + 1e-6).all()


def test_float16_does_not_overflow() -> None:
    x = torch.full((1, 4096), 300.0, dtype=torch.float16)
    assert torch.allclose(RMSNorm(4096).half()(x), torch.ones(1, 4096, dtype=torch.float16))
