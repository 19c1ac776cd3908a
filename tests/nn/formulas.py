"""The formulas again, in NumPy and float64, written from the papers and not from the parts they check."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def array(x: Any) -> Array:
    return np.asarray(x.detach().double().numpy() if hasattr(x, "detach") else x, dtype=np.float64)


def softmax(x: Array) -> Array:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def attention(
    q: Any, k: Any, v: Any, *, seen: Any = None, bias: Any = None, scale: float = 1.0, softcap: float | None = None
) -> tuple[Array, Array]:
    """One query at a time. q [B, H, T, D], k, v [B, K, S, D], seen bool [B|1, 1, T, S] → (out, pattern [B, H, T, S]).

    A query that sees nothing weighs all keys alike.
    """
    q, k, v = array(q), array(k), array(v)
    (B, H, T, _), (K, S) = q.shape, k.shape[1:3]
    bias = np.zeros((B, H, T, S)) if bias is None else np.broadcast_to(array(bias), (B, H, T, S))
    seen = np.ones((B, H, T, S), bool) if seen is None else np.broadcast_to(np.asarray(seen), (B, H, T, S))
    out, pattern = np.zeros((*q.shape[:3], v.shape[-1])), np.zeros((B, H, T, S))
    for b in range(B):
        for h in range(H):
            group = h // (H // K)
            for t in range(T):
                scores = np.array([q[b, h, t] @ k[b, group, s] * scale for s in range(S)])
                if softcap is not None:
                    scores = softcap * np.tanh(scores / softcap)
                scores = np.where(seen[b, h, t], scores + bias[b, h, t], -np.inf)
                weights = softmax(scores) if seen[b, h, t].any() else np.full(S, 1 / S)
                pattern[b, h, t] = weights
                out[b, h, t] = weights @ v[b, group]
    return out, pattern


def rotate(x: Any, positions: Any, frequencies: Any, magnitude: float = 1.0) -> Array:
    """Each pair (i, i + dim/2) of x [..., T, D] as a complex number, multiplied by e^(i · position · frequency)."""
    x, frequencies = array(x), array(frequencies)
    half = len(frequencies)
    pairs = x[..., :half] + 1j * x[..., half : 2 * half]
    turned = pairs * np.exp(1j * array(positions)[..., None] * frequencies) * magnitude
    return np.concatenate((turned.real, turned.imag, x[..., 2 * half :]), -1)


def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Array:
    x = array(x)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * array(weight) + array(bias)


def rms_norm(x: Any, weight: Any, eps: float) -> Array:
    x = array(x)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * array(weight)


def gelu(x: Any) -> Array:
    return np.array([value * 0.5 * math.erfc(-value / math.sqrt(2)) for value in array(x).ravel()]).reshape(x.shape)


def gelu_tanh(x: Any) -> Array:
    x = array(x)
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x: Any) -> Array:
    return 1 / (1 + np.exp(-array(x)))


def sinusoid(position: int, d: int) -> Array:
    """The table of 2017, entry by entry."""
    angles = [position / 10000 ** (2 * (i // 2) / d) for i in range(d)]
    return np.array([math.sin(a) if i % 2 == 0 else math.cos(a) for i, a in enumerate(angles)])
