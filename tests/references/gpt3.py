"""GPT-3 and InstructGPT, from arXiv:2005.14165 §2.1 (GPT-2 with dense and locally banded layers in turn),
arXiv:1904.10509 §4.2 (which tokens those see) and arXiv:2203.02155 §3.5 (a projection to one number), on GPT-2's names.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.references.arithmetic import Array, Tensors, each, gelu_tanh, heads, layer_norm, softmax


def seen(kind: str, i: int, config: dict[str, Any]) -> list[int]:
    """The tokens that token i sees."""
    if kind == "banded":
        return list(range(max(0, i - config["band"]), i + 1))
    if kind == "strided":
        return [j for j in range(i + 1) if (i - j) % config["stride"] == 0]
    return list(range(i + 1))


def attention(x: Array, t: Tensors, at: str, kind: str, config: dict[str, Any]) -> Array:
    T, n = len(x), config["n_head"]
    q, k, v = (heads(part, n) for part in np.split(x @ t[f"{at}.c_attn.weight"] + t[f"{at}.c_attn.bias"], 3, -1))
    out = np.zeros_like(q)
    for h in range(n):
        for i in range(T):
            keys = seen(kind, i, config)
            out[h, i] = softmax(k[h, keys] @ q[h, i] / math.sqrt(q.shape[-1])) @ v[h, keys]
    return out.transpose(1, 0, 2).reshape(T, -1) @ t[f"{at}.c_proj.weight"] + t[f"{at}.c_proj.bias"]


def hidden(t: Tensors, config: dict[str, Any], row: Any) -> Array:
    eps, pattern = config["layer_norm_epsilon"], config.get("attention_pattern", ["dense"])
    x = t["transformer.wte.weight"][row] + t["transformer.wpe.weight"][: len(row)]
    for i in range(config["n_layer"]):
        at = f"transformer.h.{i}"
        y = layer_norm(x, t[f"{at}.ln_1.weight"], t[f"{at}.ln_1.bias"], eps)
        x = x + attention(y, t, f"{at}.attn", pattern[i % len(pattern)], config)
        y = layer_norm(x, t[f"{at}.ln_2.weight"], t[f"{at}.ln_2.bias"], eps)
        y = gelu_tanh(y @ t[f"{at}.mlp.c_fc.weight"] + t[f"{at}.mlp.c_fc.bias"])
        x = x + y @ t[f"{at}.mlp.c_proj.weight"] + t[f"{at}.mlp.c_proj.bias"]
    return layer_norm(x, t["transformer.ln_f.weight"], t["transformer.ln_f.bias"], eps)


def logits(tensors: Tensors, config: dict[str, Any], ids: Any) -> dict[str, Array]:
    states = each(lambda row: hidden(tensors, config, row), ids)
    out = {"hidden": states}
    if config.get("language_head", True):
        out["logits"] = states @ tensors["transformer.wte.weight"].T
    if "score.weight" in tensors:
        out["score"] = states @ tensors["score.weight"].T + tensors["score.bias"]
    return out
