"""The Transformer, from arXiv:1706.03762 §3 (Figure 1, equations 1 and 2, §3.4, §3.5) alone.

Tensor names are those that vitral writes. Beyond the paper: `attention_bias`, `sinusoid: "halves"` and `position_width`
(positions beside the tokens' vectors, with a vocabulary matrix of its own) are variants of its later kin.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.references.arithmetic import Array, Tensors, heads, layer_norm, softmax


def sinusoid(position: int, d: int, halves: bool) -> Array:
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos of the same (§3.5)."""
    out = np.zeros(d)
    pairs = (d + 1) // 2
    for i in range(pairs):
        angle = position / 10000 ** (2 * i / d)
        sine, cosine = (i, pairs + i) if halves else (2 * i, 2 * i + 1)
        out[sine] = math.sin(angle)
        if cosine < d:
            out[cosine] = math.cos(angle)
    return out


def embed(t: Tensors, config: dict[str, Any], ids: Any) -> Array:
    """§3.4: the vectors of the tokens, times sqrt(d_model); §3.5: plus those of their positions."""
    d, beside = config["d_model"], config.get("position_width", 0)
    halves = config.get("sinusoid") == "halves"
    tokens = t["shared.weight"][ids] * (math.sqrt(d) if config.get("scale_embedding", True) else 1.0)
    positions = np.stack([sinusoid(p, beside or d, halves) for p in range(len(ids))])
    return np.concatenate([tokens, positions], -1) if beside else tokens + positions


def linear(x: Array, t: Tensors, at: str) -> Array:
    return x @ t[f"{at}.weight"].T + t.get(f"{at}.bias", 0.0)


def attention(x: Array, memory: Array, t: Tensors, at: str, n: int, masked: bool) -> Array:
    """Queries from x, keys and values from the memory (equation 1); masked: nothing later is seen."""
    q, k, v = (heads(linear(y, t, f"{at}.{p}_proj"), n) for y, p in ((x, "q"), (memory, "k"), (memory, "v")))
    out = np.zeros_like(q)
    for h in range(n):
        for i in range(len(x)):
            end = i + 1 if masked else len(memory)
            out[h, i] = softmax(k[h, :end] @ q[h, i] / math.sqrt(q.shape[-1])) @ v[h, :end]
    return linear(out.transpose(1, 0, 2).reshape(len(x), -1), t, f"{at}.out_proj")


def norm(x: Array, t: Tensors, at: str, config: dict[str, Any]) -> Array:
    return layer_norm(x, t[f"{at}.weight"], t[f"{at}.bias"], config["layer_norm_eps"])


def side(x: Array, t: Tensors, config: dict[str, Any], name: str, memory: Array | None = None) -> Array:
    """One stack of Figure 1; LayerNorm(x + Sublayer(x)) around each sublayer (§3.1)."""
    n = config[f"{name}_attention_heads"]
    for i in range(config[f"{name}_layers"]):
        at = f"{name}.layers.{i}"
        y = attention(x, x, t, f"{at}.self_attn", n, masked=memory is not None)
        x = norm(x + y, t, f"{at}.self_attn_layer_norm", config)
        if memory is not None:
            y = attention(x, memory, t, f"{at}.encoder_attn", n, masked=False)
            x = norm(x + y, t, f"{at}.encoder_attn_layer_norm", config)
        y = linear(np.maximum(linear(x, t, f"{at}.fc1"), 0.0), t, f"{at}.fc2")  # equation 2
        x = norm(x + y, t, f"{at}.final_layer_norm", config)
    return x


def logits(tensors: Tensors, config: dict[str, Any], source: Any, target: Any) -> dict[str, Array]:
    """Sources [B, S] and targets [B, T] → the encoder's states [B, S, d] and logits [B, T, V]."""
    memory = np.stack([side(embed(tensors, config, row), tensors, config, "encoder") for row in source])
    rows = zip(target, memory, strict=True)
    hidden = np.stack([side(embed(tensors, config, row), tensors, config, "decoder", states) for row, states in rows])
    return {"memory": memory, "logits": hidden @ tensors.get("lm_head.weight", tensors["shared.weight"]).T}
