"""Both kernels against one query at a time in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.nn import formulas
from vitral.nn import Eager, Fused
from vitral.nn.mask import additive

KERNELS = pytest.mark.parametrize("kernel", [Eager, Fused])
HEADS = [(4, 4), (4, 2), (6, 3), (4, 1), (7, 1)]


def qkv(H: int, K: int, T: int, S: int, *, dtype: torch.dtype = torch.float64, B: int = 2, D: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(H * 100 + T)
    shapes = [(B, H, T, D), (B, K, S, D), (B, K, S, D)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def seen_by(kind: str, B: int, T: int, S: int) -> Tensor | None:
    if kind == "all":
        return None
    causal = torch.ones(T, S, dtype=torch.bool).tril(S - T)[None].repeat(B, 1, 1)
    if kind == "rows":  # each row its own mask, with queries that see nothing
        causal[1, :, 3:] = False
        causal[1, T // 2] = False
    return causal


@KERNELS
@pytest.mark.parametrize(
    ("heads", "lengths", "mask", "biased", "softcap"),
    list(itertools.product(HEADS, [(7, 7), (5, 9), (2, 9), (1, 9)], ["all", "causal", "rows"], [0, 1, 4], [None, 2.0]))[
        ::5
    ],
)
def test_every_combination(kernel, heads, lengths, mask, biased, softcap) -> None:  # type: ignore[no-untyped-def]
    (H, K), (T, S) = heads, lengths
    q, k, v = qkv(H, K, T, S)
    seen = seen_by(mask, 2, T, S)
    bias = torch.randn(1, H if biased == 4 else 1, T, S, dtype=torch.float64) if biased else None
    made = kernel(softcap)
    patterns: list[Tensor] = []
    made.pattern.register_forward_hook(lambda module, args, out: patterns.append(out))
    out = made(q, k, v, None if seen is None else additive(seen, torch.float64), bias, 0.37)
    options = {"seen": None if seen is None else seen[:, None], "bias": bias, "scale": 0.37, "softcap": softcap}
    want, pattern = formulas.attention(q, k, v, **options)
    assert np.abs(formulas.array(out) - want).max() <= 1e-12
    if kernel is Eager:
        assert np.abs(formulas.array(patterns[0]) - pattern).max() <= 1e-12


@KERNELS
@pytest.mark.parametrize("T", [2, 9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_query_that_sees_nothing_gets_the_mean(kernel: type[Eager], dtype: torch.dtype, T: int) -> None:
    """Padding must never make a NaN, in either kernel and in any dtype, however low the scores are."""
    q, k, v = qkv(4, 2, T, 9, dtype=dtype)
    seen = torch.ones(2, T, 9, dtype=torch.bool)
    seen[0, 1] = False
    out = kernel()(q * -30, k.abs() + 3, v, additive(seen, dtype), None, 0.5)
    assert bool(out.isfinite().all())
    mean = v[0].double().mean(1).repeat_interleave(2, 0)
    if dtype is torch.float16:  # its lowest number is near enough for scores to matter; finite is what counts
        return
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 2e-2)
    assert (out[0, :, 1].double() - mean).abs().max() <= tolerance


@KERNELS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_the_formula(kernel: type[Eager], dtype: torch.dtype) -> None:
    q, k, v = qkv(4, 2, 64, 64, dtype=dtype)
    seen = seen_by("causal", 2, 64, 64)
    out = kernel()(q, k, v, additive(seen, dtype), None, 6**-0.5)
    want, _ = formulas.attention(q, k, v, seen=seen[:, None], scale=6**-0.5)
    assert np.abs(formulas.array(out) - want).max() <= (3e-2 if dtype is torch.bfloat16 else 4e-3)


def test_the_two_kernels_agree_and_their_gradients_do() -> None:
    for H, K in HEADS:
        grads = []
        for kernel in (Eager(), Fused()):
            q, k, v = (x.requires_grad_() for x in qkv(H, K, 8, 8))
            kernel(q, k, v, additive(seen_by("rows", 2, 8, 8), torch.float64), None, 0.4).square().sum().backward()
            grads.append([x.grad for x in (q, k, v)])
        for a, b in zip(*grads, strict=True):
            assert (a - b).abs().max() <= 1e-12


def test_the_fused_kernel_gives_its_plain_form() -> None:
    plain = Fused(softcap=3.0).eager()
    assert type(plain) is Eager and plain.softcap == 3.0
    assert Eager().eager() is not None and type(Eager().eager()) is Eager


def test_the_value_size_may_differ_from_the_key_size() -> None:
    q, k, _ = qkv(4, 2, 6, 6)
    v = torch.randn(2, 2, 6, 3, dtype=torch.float64)
    for kernel in (Eager(), Fused()):
        out = kernel(q, k, v, None, None, 1.0)
        assert np.abs(formulas.array(out) - formulas.attention(q, k, v)[0]).max() <= 1e-12
