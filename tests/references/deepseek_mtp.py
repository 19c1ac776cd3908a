"""DeepSeek-V3 with its multi-token prediction module, from arXiv:2412.19437 §2.1-2.2 (latent attention in the formulas
of arXiv:2405.04434 §2.1, YaRN in those of arXiv:2309.00071 §3), under the names of the published files.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.references.arithmetic import Array, Tensors, each, rms_norm, silu, softmax


def angles(config: dict[str, Any]) -> Array:
    """How far each pair of the turning numbers turns from one token to the next."""
    D, theta, yarn = config["qk_rope_head_dim"], config["rope_theta"], config.get("rope_scaling")
    plain = np.array([theta ** (-2 * i / D) for i in range(D // 2)])
    if not yarn:
        return plain
    trained = yarn["original_max_position_embeddings"]

    def pair(turns: float) -> float:
        """The pair that makes so many turns over the training length."""
        return D * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(pair(yarn["beta_fast"])), 0), min(math.ceil(pair(yarn["beta_slow"])), D - 1)
    out = []
    for i, angle in enumerate(plain):
        slow = min(max((i - low) / max(high - low, 0.001), 0), 1)
        out.append(slow * angle / yarn["factor"] + (1 - slow) * angle)
    return np.array(out)


def temperature(config: dict[str, Any], key: str) -> float:
    yarn = config.get("rope_scaling") or {}
    return 0.1 * yarn[key] * math.log(yarn["factor"]) + 1 if key in yarn else 1.0


def turn(x: Array, position: int, config: dict[str, Any]) -> Array:
    """x [D] at that position: the numbers 2i and 2i + 1 are a complex number that turns."""
    size = temperature(config, "mscale") / temperature(config, "mscale_all_dim")
    pairs = (x[0::2] + 1j * x[1::2]) * np.exp(1j * position * angles(config)) * size
    return np.stack((pairs.real, pairs.imag), -1).reshape(-1)


def attention(x: Array, t: Tensors, at: str, config: dict[str, Any]) -> Array:
    """x [T, d]."""
    H, n, p = config["num_attention_heads"], config["qk_nope_head_dim"], config["qk_rope_head_dim"]
    v, r = config["v_head_dim"], config["kv_lora_rank"]
    low = rms_norm(x @ t[f"{at}.q_a_proj.weight"].T, t[f"{at}.q_a_layernorm.weight"], 1e-6)
    q = (low @ t[f"{at}.q_b_proj.weight"].T).reshape(len(x), H, n + p)
    down = x @ t[f"{at}.kv_a_proj_with_mqa.weight"].T
    latent = rms_norm(down[:, :r], t[f"{at}.kv_a_layernorm.weight"], 1e-6)
    shared = np.stack([turn(row, i, config) for i, row in enumerate(down[:, r:])])
    up = (latent @ t[f"{at}.kv_b_proj.weight"].T).reshape(len(x), H, n + v)
    scale = temperature(config, "mscale_all_dim") ** 2 / math.sqrt(n + p)
    out = np.zeros((len(x), H, v))
    for h in range(H):
        for i in range(len(x)):
            scores = up[: i + 1, h, :n] @ q[i, h, :n] + shared[: i + 1] @ turn(q[i, h, n:], i, config)
            out[i, h] = softmax(scores * scale) @ up[: i + 1, h, n:]
    return out.reshape(len(x), -1) @ t[f"{at}.o_proj.weight"].T


def swiglu(x: Array, t: Tensors, at: str) -> Array:
    hidden = silu(x @ t[f"{at}.gate_proj.weight"].T) * (x @ t[f"{at}.up_proj.weight"].T)
    return hidden @ t[f"{at}.down_proj.weight"].T


def experts(x: Array, t: Tensors, at: str, config: dict[str, Any]) -> Array:
    """Equations 12 to 16, and the limit on the groups; one token after the other."""
    groups, k = config["n_group"], config["num_experts_per_tok"]
    out = swiglu(x, t, f"{at}.shared_experts")
    for i, token in enumerate(x):
        affinity = 1 / (1 + np.exp(-(t[f"{at}.gate.weight"] @ token)))
        wanted = (affinity + t[f"{at}.gate.e_score_correction_bias"]).reshape(groups, -1)
        merit = np.sort(wanted, -1)[:, -2:].sum(-1)
        closed = np.argsort(-merit)[config["topk_group"] :]
        wanted[closed] = -np.inf
        chosen = np.argsort(-wanted.reshape(-1))[:k]
        weights = affinity[chosen] / affinity[chosen].sum() * config["routed_scaling_factor"]
        for e, weight in zip(chosen, weights, strict=True):
            out[i] += weight * swiglu(token, t, f"{at}.experts.{e}")
    return out


def layer(x: Array, t: Tensors, i: int, config: dict[str, Any]) -> Array:
    at, eps = f"model.layers.{i}", config["rms_norm_eps"]
    x = x + attention(rms_norm(x, t[f"{at}.input_layernorm.weight"], eps), t, f"{at}.self_attn", config)
    y = rms_norm(x, t[f"{at}.post_attention_layernorm.weight"], eps)
    if i < config["first_k_dense_replace"]:
        return x + swiglu(y, t, f"{at}.mlp")
    return x + experts(y, t, f"{at}.mlp", config)


def hidden(t: Tensors, config: dict[str, Any], row: Any) -> Array:
    """One text [T] through the main model and its last norm: [T, d]."""
    x = t["model.embed_tokens.weight"][row]
    for i in range(config["num_hidden_layers"]):
        x = layer(x, t, i, config)
    return rms_norm(x, t["model.norm.weight"], config["rms_norm_eps"])


def logits(tensors: Tensors, config: dict[str, Any], ids: Any) -> Array:
    return each(lambda row: hidden(tensors, config, row) @ tensors["lm_head.weight"].T, ids)


def drafts(tensors: Tensors, config: dict[str, Any], ids: Any) -> Array:
    """§2.2 for depth 1: place i joins what the main model made of token i with token i + 1: [B, T - 1, V]."""
    t, eps, last = tensors, config["rms_norm_eps"], config["num_hidden_layers"]
    at = f"model.layers.{last}"

    def text(row: Any) -> Array:
        ahead = rms_norm(t["model.embed_tokens.weight"][row[1:]], t[f"{at}.enorm.weight"], eps)
        seen = rms_norm(hidden(t, config, row)[:-1], t[f"{at}.hnorm.weight"], eps)
        x = np.concatenate((ahead, seen), -1) @ t[f"{at}.eh_proj.weight"].T
        return rms_norm(layer(x, t, last, config), t[f"{at}.shared_head.norm.weight"], eps) @ t["lm_head.weight"].T

    return each(text, ids)
