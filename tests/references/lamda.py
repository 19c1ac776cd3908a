"""LaMDA, from arXiv:2201.08239 §3 (a decoder with relative attention as in T5 and gated GELU) and arXiv:1910.10683 §2.1
(the buckets), on the names that vitral writes. What the paper leaves open is taken as `families/lamda.py` says.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.references.arithmetic import Array, Tensors, each, gelu, heads, rms_norm, softmax


def bucket(distance: int, n: int, longest: int) -> int:
    """Half of the buckets hold one distance each; the others grow as its logarithm, up to the longest."""
    half = n // 2
    if distance < half:
        return distance
    return min(n - 1, half + int(math.log(distance / half) / math.log(longest / half) * half))


def attention(x: Array, t: Tensors, at: str, config: dict[str, Any], table: Array) -> Array:
    """`table` [buckets, heads] is what each head adds for a distance."""
    n, T = config["num_attention_heads"], len(x)
    q, k, v = (heads(x @ t[f"{at}.{name}.weight"].T, n) for name in "qkv")
    sizes = config["relative_attention_num_buckets"], config["relative_attention_max_distance"]
    out = np.zeros_like(q)
    for h in range(n):
        for i in range(T):
            bias = np.array([table[bucket(i - j, *sizes), h] for j in range(i + 1)])
            out[h, i] = softmax(k[h, : i + 1] @ q[h, i] / math.sqrt(q.shape[-1]) + bias) @ v[h, : i + 1]
    return out.transpose(1, 0, 2).reshape(T, -1) @ t[f"{at}.o.weight"].T


def gated(x: Array, t: Tensors, at: str) -> Array:
    return (gelu(x @ t[f"{at}.gate.weight"].T) * (x @ t[f"{at}.up.weight"].T)) @ t[f"{at}.down.weight"].T


def logits(tensors: Tensors, config: dict[str, Any], ids: Any) -> Array:
    t, eps = tensors, config["rms_norm_eps"]

    head = t.get("head.proj.weight", t["embed.tokens.weight"])  # the table, unless a config unties them

    def text(row: Any) -> Array:
        x = t["embed.tokens.weight"][row]
        for i in range(config["num_hidden_layers"]):
            at = f"stack.blocks.{i}"
            y = rms_norm(x, t[f"{at}.attn.pre.weight"], eps)
            x = x + attention(y, t, f"{at}.attn.mixer", config, t["stack.shared.0.table.weight"])
            x = x + gated(rms_norm(x, t[f"{at}.ffn.pre.weight"], eps), t, f"{at}.ffn.mixer")
        return rms_norm(x, t["stack.norm.weight"], eps) @ head.T

    return each(text, ids)
