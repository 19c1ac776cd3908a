"""The mixtures of experts of Qwen3 (`qwen3_moe`): 128 narrow experts, of which a token meets eight; none is shared.

Published files scale the weights of the chosen to sum to 1; a file that leaves `norm_topk_prob` out does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vitral.families import qwen2, qwen3
from vitral.families.common.assemble import decoder, pre_norm, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.experts import expert_names, mixture, number, sparse_layers, training_only
from vitral.nn import Attention, Causal, Gated, RMSNorm, Spec, Window

MODEL_TYPE = "qwen3_moe"
DEFAULTS = {**qwen2.DEFAULTS, "num_key_value_heads": 4}
NAMES = replace(qwen3.NAMES, rules={**qwen3.NAMES.rules, **expert_names("layers.{}.mlp", down="down_proj")})


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Qwen3-MoE `config.json` describes."""
    c = Config(config, "qwen3_moe", DEFAULTS)
    d, layers = c.size("hidden_size"), c.size("num_hidden_layers", most=DEEPEST)
    shape = sizes(c, d)
    rotary, context = c.rotary(shape["head_dim"], c.size("max_position_embeddings", most=LONGEST))
    eps, bias = c.number("rms_norm_eps"), c.flag("attention_bias")
    norm, head_norm = Spec(RMSNorm, d=d, eps=eps), Spec(RMSNorm, d=shape["head_dim"], eps=eps)
    # One switch for all layers here: the layer from which windows begin is written in files and has no bearing.
    windowed = c.flag("use_sliding_window") and c.get("sliding_window", None) is not None
    kind = Window(c.size("sliding_window", most=LONGEST)) if windowed else Causal()
    c.get("sliding_window", None), c.get("max_window_layers", None)
    act, wide, narrow = c.activation("hidden_act"), c.size("intermediate_size"), c.size("moe_intermediate_size")
    n, renormalised = number(c), c.flag("norm_topk_prob")
    sparse = sparse_layers(c, layers)
    training_only(c)
    for key, value in {"use_qk_norm": True, "qkv_bias": False, "shared_expert_intermediate_size": 0}.items():
        c.only(key, value)  # some of its files say what they do not have

    def block(depth: int) -> Spec:
        norms = {"q_norm": head_norm.replace(), "k_norm": head_norm.replace()}
        attention = Spec(Attention, **shape, kind=kind, position=rotary, **norms, bias=bias, out_bias=bias)
        dense = Spec(Gated, d_model=d, d_ff=wide, act=act.replace())
        moe = mixture(c, d, act, n=n, d_ff=narrow, renormalised=renormalised)
        return pre_norm(norm, attention, moe if sparse(depth) else dense)

    return decoder(c, d=d, blocks=[block(depth) for depth in range(layers)], norm=norm, context=context)
