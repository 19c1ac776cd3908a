"""PaLM, from arXiv:2204.02311 §2: y = x + MLP(LayerNorm(x)) + Attention(LayerNorm(x)), multi-query attention, rotary
positions, SwiGLU, no biases, one matrix for input and output, logits divided by sqrt(d) (§5), on the names that vitral
writes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.references.arithmetic import Array, Tensors, each, heads, layer_norm, silu, softmax


def rotate(x: Array, theta: float) -> Array:
    """x [n, T, D]: the numbers i and i + D/2 of the token at position p, as one complex number, turn by
    p / theta^(2i/D) (arXiv:2104.09864)."""
    T, D = x.shape[1:]
    angle = np.arange(T)[:, None] / theta ** (np.arange(D // 2) * 2 / D)
    turned = (x[..., : D // 2] + 1j * x[..., D // 2 :]) * np.exp(1j * angle)
    return np.concatenate((turned.real, turned.imag), -1)


def attention(x: Array, t: Tensors, at: str, n: int, theta: float) -> Array:
    T = len(x)
    q = rotate(heads(x @ t[f"{at}.q.weight"].T, n), theta)
    k = rotate(heads(x @ t[f"{at}.k.weight"].T, 1), theta)[0]
    v = x @ t[f"{at}.v.weight"].T  # one key and one value for all heads
    out = np.zeros_like(q)
    for h in range(n):
        for i in range(T):
            out[h, i] = softmax(k[: i + 1] @ q[h, i] / math.sqrt(q.shape[-1])) @ v[: i + 1]
    return out.transpose(1, 0, 2).reshape(T, -1) @ t[f"{at}.o.weight"].T


def swiglu(x: Array, t: Tensors, at: str) -> Array:
    return (silu(x @ t[f"{at}.gate.weight"].T) * (x @ t[f"{at}.up.weight"].T)) @ t[f"{at}.down.weight"].T


def logits(tensors: Tensors, config: dict[str, Any], ids: Any) -> Array:
    t, eps, n, d = tensors, config["layer_norm_eps"], config["num_attention_heads"], config["hidden_size"]

    head = t.get("head.proj.weight", t["embed.tokens.weight"])  # the table, unless a config unties them

    def text(row: Any) -> Array:
        x = t["embed.tokens.weight"][row]
        for i in range(config["num_hidden_layers"]):
            at = f"stack.blocks.{i}.both"
            y = layer_norm(x, t[f"{at}.pre.weight"], 0.0, eps)
            mlp = swiglu(y, t, f"{at}.mixer.ffn")
            x = x + mlp + attention(y, t, f"{at}.mixer.attn", n, config.get("rope_theta", 10000.0))
        return layer_norm(x, t["stack.norm.weight"], 0.0, eps) @ head.T / math.sqrt(d)

    return each(text, ids)
