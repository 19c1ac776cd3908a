"""Qwen, from arXiv:2309.16609 §2.3 and the names of its published files: rotary positions whose base grows in steps
beyond the training length, log-n scaling of the queries there, and a gated layer whose gate is w2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.references.arithmetic import Array, Tensors, each, heads, rms_norm, silu, softmax


def angles(position: int, length: int, D: int, config: dict[str, Any]) -> Array:
    """How far each pair of a head's numbers turns, in a text of that length so far."""
    base, trained = config["rotary_emb_base"], config["seq_length"]
    alpha = 2 ** math.ceil(math.log2(length / trained) + 1) - 1 if length > trained else 1
    if config["use_dynamic_ntk"]:
        base = base * alpha ** (D / (D - 2))
    return np.array([position / base ** (2 * i / D) for i in range(D // 2)])


def rotate(x: Array, lengths: Any, config: dict[str, Any]) -> Array:
    """x [n, T, D]; the number i turns with the number i + D/2."""
    D = x.shape[-1]
    turn = np.stack([angles(p, length, D, config) for p, length in enumerate(lengths)])
    first, second = x[..., : D // 2], x[..., D // 2 :]
    return np.concatenate(
        (first * np.cos(turn) - second * np.sin(turn), second * np.cos(turn) + first * np.sin(turn)), -1
    )


def attention(x: Array, t: Tensors, at: str, lengths: Any, config: dict[str, Any]) -> Array:
    T, n, trained = len(x), config["num_attention_heads"], config["seq_length"]
    q, k, v = (heads(part, n) for part in np.split(x @ t[f"{at}.c_attn.weight"].T + t[f"{at}.c_attn.bias"], 3, -1))
    q, k = rotate(q, lengths, config), rotate(k, lengths, config)
    out = np.zeros_like(q)
    for i in range(T):
        sharper = math.log(i + 1, trained) if config["use_logn_attn"] and i + 1 > trained else 1.0
        for h in range(n):
            out[h, i] = softmax(k[h, : i + 1] @ q[h, i] * sharper / math.sqrt(q.shape[-1])) @ v[h, : i + 1]
    return out.transpose(1, 0, 2).reshape(T, -1) @ t[f"{at}.c_proj.weight"].T


def logits(tensors: Tensors, config: dict[str, Any], ids: Any, lengths: Any = None) -> Array:
    """`lengths` [T]: how long the text was when each token came; as long as it is now, where it came whole."""
    t, eps = tensors, config["layer_norm_epsilon"]
    lengths = [ids.shape[1]] * ids.shape[1] if lengths is None else lengths

    def text(row: Any) -> Array:
        x = t["transformer.wte.weight"][row]
        for i in range(config["num_hidden_layers"]):
            at = f"transformer.h.{i}"
            x = x + attention(rms_norm(x, t[f"{at}.ln_1.weight"], eps), t, f"{at}.attn", lengths, config)
            y = rms_norm(x, t[f"{at}.ln_2.weight"], eps)
            y = (y @ t[f"{at}.mlp.w1.weight"].T) * silu(y @ t[f"{at}.mlp.w2.weight"].T)
            x = x + y @ t[f"{at}.mlp.c_proj.weight"].T
        return rms_norm(x, t["transformer.ln_f.weight"], eps) @ t["lm_head.weight"].T

    return each(text, ids)
