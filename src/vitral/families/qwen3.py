"""Qwen3 (arXiv:2505.09388): no biases, an RMSNorm on each head's query and key, head size free of d / heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vitral.families import llama1, qwen2
from vitral.families.common.assemble import Card, decoder, pre_norm, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.nn import Attention, Gated, Kind, RMSNorm, Spec

CARD = Card(
    title="Qwen3",
    year=2025,
    org="Alibaba",
    kind="decoder",
    source="arXiv:2505.09388",
    idea="query and key norms in place of biases; one model that thinks or answers at once",
    licence="Apache-2.0",
    traps=(
        "heads are of 128 whatever d / heads is",
        "one norm weight of 128 for all heads, before the rotation",
        "mixtures scale the chosen weights to sum to 1, though the class default says otherwise",
    ),
    recipe="36T tokens in three stages; reasoning RL (GRPO), thinking and not fused; small ones distilled from large",
)
MODEL_TYPE = "qwen3"
DEFAULTS = {**qwen2.DEFAULTS, "head_dim": 128}
NAMES = replace(
    llama1.NAMES,
    rules={
        **llama1.NAMES.rules,
        "layers.{}.self_attn.q_norm.weight": "stack.blocks.{}.attn.mixer.q_norm.weight",
        "layers.{}.self_attn.k_norm.weight": "stack.blocks.{}.attn.mixer.k_norm.weight",
    },
)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Qwen3 `config.json` describes."""
    c = Config(config, "qwen3", DEFAULTS)
    d = c.size("hidden_size")
    shape = sizes(c, d)
    context = c.size("max_position_embeddings", most=LONGEST)
    eps = c.number("rms_norm_eps")
    bias = c.flag("attention_bias")
    rotary, context = c.rotary(shape["head_dim"], context)
    norm, head_norm = Spec(RMSNorm, d=d, eps=eps), Spec(RMSNorm, d=shape["head_dim"], eps=eps)

    def block(kind: Kind) -> Spec:
        attention = Spec(
            Attention,
            **shape,
            kind=kind,
            position=rotary,
            q_norm=head_norm.replace(),
            k_norm=head_norm.replace(),
            bias=bias,
            out_bias=bias,
        )
        ffn = Spec(Gated, d_model=d, d_ff=c.size("intermediate_size"), act=c.activation("hidden_act"))
        return pre_norm(norm, attention, ffn)

    blocks = [block(kind) for kind in qwen2.kinds(c, c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context)


def preset(layers: int, d: int, n_heads: int, d_ff: int, **other: Any) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    mine = {"model_type": MODEL_TYPE, "architectures": ["Qwen3ForCausalLM"], "head_dim": 128}
    return qwen2.preset(layers, d, n_heads, 8, d_ff, **{**mine, **other})


_LARGE = {"max_position_embeddings": 131072, "tie_word_embeddings": False}
_EXPERTS = {  # read by qwen3_moe
    **_LARGE,
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
}
PRESETS = {
    "0.6b": preset(28, 1024, 16, 3072),
    "1.7b": preset(28, 2048, 16, 6144),
    "4b": preset(36, 2560, 32, 9728),
    "8b": preset(36, 4096, 32, 12288, **_LARGE),
    "14b": preset(40, 5120, 40, 17408, **_LARGE),
    "32b": preset(64, 5120, 64, 25600, **_LARGE),
    "30b-a3b": preset(48, 2048, 32, 6144, moe_intermediate_size=768, **_EXPERTS),
    "235b-a22b": preset(94, 4096, 64, 12288, moe_intermediate_size=1536, **_EXPERTS),
}
