"""Grok-1 in float64 NumPy, written from xai-org/grok-1 (run.py, model.py): one text, one head, one token at a time.

Tensors are named as in the published JAX tree; matrices are in × out, so everything is `x @ w`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray


def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    return scale * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def gelu(x: Array) -> Array:
    """JAX's default: the approximation by tanh."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rotate(x: Array, positions: Array, theta: float) -> Array:
    """x [T, D]: number i of the first half turns with number i of the second. The angle is a float32 number, as it is
    in model.py: at position 60,000 that is part of what the model is.
    """
    half = x.shape[1] // 2
    turns = np.float32(1) / np.float32(theta) ** (np.arange(0, x.shape[1], 2, dtype=np.float32) / x.shape[1])
    angle = (positions[:, None].astype(np.float32) * turns.astype(np.float32)).astype(float)
    a, b = x[:, :half], x[:, half:]
    return np.concatenate((a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)), 1)


def attention(x: Array, w: Mapping[str, Array], config: Mapping[str, Any], positions: Array) -> Array:
    """x [T, d]."""
    H, K = config["num_attention_heads"], config["num_key_value_heads"]
    q, k, v = (x @ w[f"multi_head_attention/{name}/w"] for name in ("query", "key", "value"))
    D, T = q.shape[1] // H, len(x)
    heads = []
    for h in range(H):
        g = h // (H // K)
        qh, kh, vh = q[:, h * D : (h + 1) * D], k[:, g * D : (g + 1) * D], v[:, g * D : (g + 1) * D]
        theta = config.get("rope_theta", 10000.0)
        scores = rotate(qh, positions, theta) @ rotate(kh, positions, theta).T
        scores = scores * config["attn_output_multiplier"]
        scores = 30.0 * np.tanh(scores / 30.0)
        scores = np.where(np.tril(np.ones((T, T), dtype=bool)), scores, -1e30)
        heads.append(softmax(scores) @ vh)
    return np.concatenate(heads, 1) @ w["multi_head_attention/linear/w"]


def experts(x: Array, w: Mapping[str, Array], top_k: int) -> tuple[Array, Array]:
    """x [T, d]: each token through its experts, weighed by the softmax over all of them; and which they were [T, k]."""
    out, chosen = np.zeros_like(x), np.zeros((len(x), top_k), dtype=int)
    for t, token in enumerate(x):
        shares = softmax(token @ w["router/w"])
        chosen[t] = np.argsort(-shares, kind="stable")[:top_k]
        for e in chosen[t]:
            hidden = gelu(token @ w["moe/linear/w"][e]) * (token @ w["moe/linear_v/w"][e])
            out[t] += shares[e] * (hidden @ w["moe/linear_1/w"][e])
    return out, chosen


def logits(
    tensors: Mapping[str, Array],
    config: Mapping[str, Any],
    ids: Array,
    positions: Array | None = None,
    routes: list[Array] | None = None,
) -> Array:
    """ids [B, T] → [B, T, V]; `positions` [T] where the text does not start at 0. The chosen experts of each layer of
    each text are put into `routes`.
    """
    table, eps = tensors["language_model/in_out_embed/embeddings"], config.get("rms_norm_eps", 1e-5)
    positions = np.arange(ids.shape[1]) if positions is None else positions
    out = []
    for text in ids:
        x = table[text] * config["embedding_multiplier_scale"]
        for depth in range(config["num_hidden_layers"]):
            place = f"transformer/decoder_layer_{depth}/"
            w = {name[len(place) :]: value for name, value in tensors.items() if name.startswith(place)}
            h = attention(rms_norm(x, w["rms_norm/scale"], eps), w, config, positions)
            x = x + rms_norm(h, w["rms_norm_1/scale"], eps)
            h, chosen = experts(rms_norm(x, w["rms_norm_2/scale"], eps), w, config["num_experts_per_tok"])
            if routes is not None:
                routes.append(chosen)
            x = x + rms_norm(h, w["rms_norm_3/scale"], eps)
        x = rms_norm(x, tensors["language_model/rms_norm/scale"], eps)
        out.append(x @ table.T * config["output_multiplier_scale"])
    return np.stack(out)
