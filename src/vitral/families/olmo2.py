"""OLMo 2 (arXiv:2501.00656): nothing normalised on the way in; each sublayer's output is, and queries and keys are.

x ──┬─ attention(norm over all heads of q and k) ─ RMSNorm ─(+)──┬─ SwiGLU ─ RMSNorm ─(+)──▶
    └────────────────────────────────────────────────────────┘   └────────────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vitral.families import llama1
from vitral.families.common.assemble import Card, decoder, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.nn import Attention, Block, Gated, OverHeads, RMSNorm, Spec, Sublayer

CARD = Card(
    title="OLMo 2",
    year=2024,
    org="Ai2",
    kind="decoder",
    source="arXiv:2501.00656",
    idea="weights, data, code and logs all open; norms behind the sublayers and on queries and keys keep training calm",
    licence="Apache-2.0",
    traps=(
        "the norms lie behind attention and FFN, before the residual addition, and nothing is normalised before them",
        "query and key norms run over all heads at once, not over each",
    ),
)
MODEL_TYPE = "olmo2"
DEFAULTS = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
NAMES = replace(
    llama1.NAMES,
    rules={
        **{name: rule for name, rule in llama1.NAMES.rules.items() if "layernorm" not in name},
        "layers.{}.self_attn.q_norm.weight": "stack.blocks.{}.attn.mixer.q_norm.norm.weight",
        "layers.{}.self_attn.k_norm.weight": "stack.blocks.{}.attn.mixer.k_norm.norm.weight",
        "layers.{}.post_attention_layernorm.weight": "stack.blocks.{}.attn.post.weight",
        "layers.{}.post_feedforward_layernorm.weight": "stack.blocks.{}.ffn.post.weight",
    },
)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model an OLMo 2 `config.json` describes."""
    c = Config(config, "olmo2", DEFAULTS)
    d = c.size("hidden_size")
    shape = sizes(c, d)
    eps, bias = c.number("rms_norm_eps"), c.flag("attention_bias")
    rotary, context = c.rotary(shape["head_dim"], c.size("max_position_embeddings", most=LONGEST))

    def over_heads(heads: int) -> Spec:
        return Spec(OverHeads, norm=Spec(RMSNorm, d=heads * shape["head_dim"], eps=eps))

    def block() -> Spec:
        q_norm, k_norm = over_heads(shape["n_heads"]), over_heads(shape["n_kv_heads"])
        parts = {"position": rotary, "q_norm": q_norm, "k_norm": k_norm, "bias": bias, "out_bias": bias}
        ffn = Spec(Gated, d_model=d, d_ff=c.size("intermediate_size"), act=c.activation("hidden_act"))
        mixers = {"attn": Spec(Attention, **shape, **parts), "ffn": ffn}
        return Spec(
            Block, **{name: Spec(Sublayer, mixer=m, post=Spec(RMSNorm, d=d, eps=eps)) for name, m in mixers.items()}
        )

    blocks = [block() for _ in range(c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=Spec(RMSNorm, d=d, eps=eps), context=context)


def preset(layers: int, d: int, n_heads: int, d_ff: int, **other: Any) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    mine = {"model_type": MODEL_TYPE, "architectures": ["Olmo2ForCausalLM"], "vocab_size": 100352}
    mine |= {"max_position_embeddings": 4096, "rope_theta": 500000.0}
    return llama1.preset(layers, d, n_heads, d_ff, **{**mine, **other})


PRESETS = {
    "1b": preset(16, 2048, 16, 8192),
    "7b": preset(32, 4096, 32, 11008),
    "13b": preset(40, 5120, 40, 13824),
    "32b": preset(64, 5120, 40, 27648, num_key_value_heads=8),
}
