"""Activations and feed-forward mixers against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.nn import formulas
from vitral.nn import GELU, Gated, GELUTanh, Plain, QuickGELU, ReLU, SiLU

X = torch.linspace(-8, 8, 2001, dtype=torch.float64)
FORMULAS = {
    GELU: formulas.gelu,
    GELUTanh: formulas.gelu_tanh,
    QuickGELU: lambda x: formulas.array(x) * formulas.sigmoid(1.702 * x),
    SiLU: lambda x: formulas.array(x) * formulas.sigmoid(x),
    ReLU: lambda x: np.maximum(formulas.array(x), 0),
}


@pytest.mark.parametrize("kind", FORMULAS, ids=lambda kind: kind.__name__)
def test_activations(kind: type[torch.nn.Module]) -> None:
    assert np.abs(formulas.array(kind()(X)) - FORMULAS[kind](X)).max() <= 1e-12


def test_the_gelus_are_told_apart() -> None:
    """The tolerance above must see the difference that a tolerance of 1e-3 once hid."""
    assert 4e-4 < (GELU()(X) - GELUTanh()(X)).abs().max() < 5e-4


@pytest.mark.parametrize("bias", [False, True])
def test_mixers(bias: bool) -> None:
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    for kind in (Plain, Gated):
        mixer = kind(d_model=6, d_ff=10, act=SiLU(), bias=bias).double()
        p = {name: formulas.array(value) for name, value in mixer.named_parameters()}

        def linear(name: str, value: np.ndarray, p: dict = p) -> np.ndarray:  # type: ignore[type-arg]
            return value @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0)

        up = linear("up", formulas.array(x))
        if kind is Gated:
            gate = linear("gate", formulas.array(x))
            inner = gate * formulas.sigmoid(gate) * up
        else:
            inner = up * formulas.sigmoid(up)
        assert np.abs(formulas.array(mixer(x, None)) - linear("down", inner)).max() <= 1e-12
