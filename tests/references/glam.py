"""GLaM, from arXiv:2112.06905 §4 (experts in every other layer, gated dense layers between them, a relative bias in
each layer) and arXiv:2006.16668 algorithm 1 (two experts, weighed by their shares of the two gates), on the names that
vitral writes. No capacity: nothing is dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.references.arithmetic import Array, Tensors, each, gelu, rms_norm, softmax
from tests.references.lamda import attention, gated


def mixture(x: Array, t: Tensors, at: str) -> Array:
    out = np.zeros_like(x)
    for token, row in enumerate(x):
        gates = softmax(t[f"{at}.router.proj.weight"] @ row)
        first, second = np.argsort(-gates)[:2]
        both = gates[first] + gates[second]
        for e in (first, second):
            up, down = t[f"{at}.experts.up"][e], t[f"{at}.experts.down"][e]
            out[token] += gates[e] / both * (down @ gelu(up @ row))
    return out


def logits(tensors: Tensors, config: dict[str, Any], ids: Any) -> Array:
    t, eps = tensors, config["rms_norm_eps"]

    head = t.get("head.proj.weight", t["embed.tokens.weight"])  # the table, unless a config unties them

    def text(row: Any) -> Array:
        x = t["embed.tokens.weight"][row]
        for i in range(config["num_hidden_layers"]):
            at = f"stack.blocks.{i}"
            y = rms_norm(x, t[f"{at}.attn.pre.weight"], eps)
            x = x + attention(y, t, f"{at}.attn.mixer", config, t[f"stack.shared.{i}.table.weight"])
            y = rms_norm(x, t[f"{at}.ffn.pre.weight"], eps)
            experts = config["num_experts"] and i % 2 == 1
            x = x + (mixture if experts else gated)(y, t, f"{at}.ffn.mixer")
        return rms_norm(x, t["stack.norm.weight"], eps) @ head.T

    return each(text, ids)
