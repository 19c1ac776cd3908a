"""Rotary positions as products of complex numbers, the scalings by their formulas, tables that no cast touches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.nn import formulas
from tests.nn.tiny import some_ids, tiny
from vitral.nn import ByWavelength, DynamicNTK, Linear, Position, Rotary, Scaling, Yarn


def frequencies(theta: float, dim: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.array([theta ** (-2 * i / dim) for i in range(dim // 2)])


@pytest.mark.parametrize("dim", [2, 6, 8])
def test_rotation_is_multiplication_by_a_complex_number(dim: int) -> None:
    rotary = Rotary(dim, theta=100.0)
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 2, 3, 40], [7, 8, 9, 10, 11]])
    ready = rotary.prepare(positions, positions)
    want = formulas.rotate(x, positions[:, None], frequencies(100.0, dim))
    assert np.abs(formulas.array(rotary.encode(x, ready)) - want).max() <= 1e-5  # the tables are float32
    assert ready[0].dtype == torch.float32


def test_scores_depend_on_the_distance_alone() -> None:
    rotary = Rotary(8)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(at: int, back: int) -> float:
        i, j = torch.tensor([[at]]), torch.tensor([[at - back]])
        return (rotary.encode(q, rotary.prepare(i, i)) * rotary.encode(k, rotary.prepare(j, j))).sum().item()

    assert score(5, 3) == pytest.approx(score(50, 3), abs=1e-5)
    assert score(5, 3) != pytest.approx(score(5, 4), abs=1e-3)


@pytest.mark.parametrize("dim", [0, 1, 7, -2])
def test_an_odd_number_of_turning_numbers_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match="even"):
        Rotary(dim)


def test_plain_and_linear_frequencies() -> None:
    for theta, dim in ((10000.0, 64), (500000.0, 128), (1e6, 10)):
        want = frequencies(theta, dim)
        assert Scaling().frequencies(theta, dim).numpy() == pytest.approx(want, rel=2e-6)
        assert Linear(factor=4.0).frequencies(theta, dim).numpy() == pytest.approx(want / 4, rel=2e-6)


def test_by_wavelength_keeps_the_fast_and_slows_the_slow() -> None:
    scaling = ByWavelength(factor=8.0, low=1.0, high=4.0, original=8192)
    got, plain = scaling.frequencies(500000.0, 128).numpy(), frequencies(500000.0, 128)
    for found, was in zip(got, plain, strict=True):
        wavelength = 2 * math.pi / was
        if wavelength < 8192 / 4:
            want = was
        elif wavelength > 8192:
            want = was / 8
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            want = (1 - smooth) * was / 8 + smooth * was
        assert found == pytest.approx(want, rel=1e-5)
    assert 0 < (got < plain * 0.99).sum() < 64


def test_dynamic_ntk_grows_with_each_rows_own_length() -> None:
    rotary = Rotary(8, scaling=DynamicNTK(factor=2.0, original=16))
    positions = torch.tensor([[3], [15], [16], [99]])
    cos, _ = rotary.prepare(positions, positions)
    for row, position in zip(cos[:, 0, 0], positions[:, 0].tolist(), strict=True):
        length = position + 1
        theta = 10000.0
        if length > 16:
            theta *= (2.0 * length / 16 - 1) ** (8 / 6)
        assert row.numpy() == pytest.approx(np.cos(position * frequencies(theta, 8)), abs=1e-5)


def test_yarn_interpolates_by_parts() -> None:
    yarn = Yarn(factor=4.0, original=2048, truncate=False)
    got, plain = yarn.frequencies(10000.0, 64).numpy(), frequencies(10000.0, 64)
    pair = [64 * math.log(2048 / (turns * 2 * math.pi)) / (2 * math.log(10000)) for turns in (32, 1)]
    for i, (found, was) in enumerate(zip(got, plain, strict=True)):
        ramp = min(max((i - pair[0]) / (pair[1] - pair[0]), 0), 1)
        assert found == pytest.approx(was * (1 - ramp) + was / 4 * ramp, rel=1e-5)
    assert yarn.magnitude == pytest.approx(0.1 * math.log(4) + 1)
    assert Yarn(factor=4.0, original=1, mscale=0.7, mscale_all_dim=0.7).magnitude == 1
    assert Yarn(factor=4.0, original=1, attention_factor=1.5).magnitude == 1.5
    assert Yarn(factor=1.0, original=1).magnitude == 1


@pytest.mark.parametrize("position", [4095, 65535])
def test_casting_a_model_leaves_its_tables_alone(position: int) -> None:
    """bfloat16 has 769 distinct positions below 4096: neither they nor the frequencies may be cast with the model."""
    model = tiny("llama3")
    positions = torch.tensor([[position]])
    before = model.stack.shared[0].prepare(positions, positions)
    model.bfloat16()
    after = model.stack.shared[0].prepare(positions, positions)
    assert all(torch.equal(a, b) and b.dtype == torch.float32 for a, b in zip(before, after, strict=True))
    want = np.exp(1j * position * formulas.array(model.stack.shared[0].frequencies))
    assert formulas.array(after[0]).ravel() == pytest.approx(want.real, abs=5e-3)
    assert not list(model.stack.shared[0].buffers()) and not list(model.stack.shared[0].parameters())
    assert bool(model(some_ids()).isfinite().all())


def test_no_position_changes_nothing() -> None:
    part, x = Position(), torch.randn(1, 2, 3, 4)
    ready = part.prepare(torch.arange(3)[None], torch.arange(3)[None])
    assert part.encode(x, ready) is x and part.relate(x, ready) == (x, None)
