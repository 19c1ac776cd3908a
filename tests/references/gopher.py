"""Gopher and Chinchilla, from arXiv:2112.11446 §3.1 (GPT-2 with RMSNorm and relative positions) and arXiv:1901.02860
§3.3 (the four terms of a score), on the names that vitral writes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tests.references.arithmetic import Array, Tensors, each, gelu_tanh, heads, rms_norm, softmax


@cache
def sinusoid(distance: int, d: int) -> Array:
    """R_distance: sin at even places, cos at odd ones."""
    out = np.zeros(d)
    for i in range(d):
        angle = distance / 10000 ** ((i - i % 2) / d)
        out[i] = np.cos(angle) if i % 2 else np.sin(angle)
    return out


def attention(x: Array, t: Tensors, at: str, n: int) -> Array:
    T, d = x.shape
    q, k, v = (heads(x @ t[f"{at}.{name}.weight"].T, n) for name in "qkv")
    W_r, u, w = t[f"{at}.position.r.weight"], t[f"{at}.position.u"], t[f"{at}.position.v"]
    r = np.stack([W_r @ sinusoid(distance, d) for distance in range(T)]).reshape(T, n, -1)
    out = np.zeros_like(q)
    for h in range(n):
        for i in range(T):
            keys, away = k[h, : i + 1], r[i - np.arange(i + 1), h]  # j = 0 … i, and R_{i-j} by W_r
            content, where = keys @ q[h, i], away @ q[h, i]
            asked_of_all, asked_of_places = keys @ u[h], away @ w[h]
            scores = (content + where + asked_of_all + asked_of_places) / np.sqrt(q.shape[-1])
            out[h, i] = softmax(scores) @ v[h, : i + 1]
    return out.transpose(1, 0, 2).reshape(T, -1) @ t[f"{at}.o.weight"].T


def logits(tensors: Tensors, config: dict[str, Any], ids: Any) -> Array:
    t, eps = tensors, config["rms_norm_eps"]

    head = t.get("head.proj.weight", t["embed.tokens.weight"])  # the table, unless a config unties them

    def text(row: Any) -> Array:
        x = t["embed.tokens.weight"][row]
        for i in range(config["num_hidden_layers"]):
            at = f"stack.blocks.{i}"
            y = rms_norm(x, t[f"{at}.attn.pre.weight"], eps)
            x = x + attention(y, t, f"{at}.attn.mixer", config["num_attention_heads"])
            y = rms_norm(x, t[f"{at}.ffn.pre.weight"], eps)
            x = x + gelu_tanh(y @ t[f"{at}.ffn.mixer.up.weight"].T) @ t[f"{at}.ffn.mixer.down.weight"].T
        return rms_norm(x, t["stack.norm.weight"], eps) @ head.T

    return each(text, ids)
