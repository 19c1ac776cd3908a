"""LLaMA (Touvron et al. 2023, arXiv:2302.13971): pre-RMSNorm, rotary positions, SwiGLU, no biases.

x ──┬─ RMSNorm ─ attention(rotary) ─(+)──┬─ RMSNorm ─ SwiGLU ─(+)──▶
    └────────────────────────────────┘   └────────────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families.common.assemble import Card, decoder, pre_norm, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import Names
from vitral.nn import Attention, Gated, RMSNorm, Spec

CARD = Card(
    title="LLaMA",
    year=2023,
    org="Meta",
    kind="decoder",
    source="arXiv:2302.13971",
    idea="open weights trained far past the compute-optimal point; RMSNorm, rotary positions and SwiGLU together",
    licence="LLaMA licence (non-commercial)",
    traps=(
        "the authors' files rotate neighbouring pairs; those of the hub have permuted rows and rotate halves",
        "the 65B's eps is 1e-5, the others' 1e-6; third-party tables disagree",
    ),
    recipe="1.0T tokens (7B, 13B) or 1.4T, batch 4M, AdamW (.9, .95), cosine to a tenth, decay .1, clip 1",
)
MODEL_TYPE = "llama"
DEFAULTS = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
"""What a config.json means that leaves these keys out."""
NAMES = Names(
    prefix="model.",
    bare=("lm_head.{}",),
    rules={
        "embed_tokens.weight": "embed.tokens.weight",
        "layers.{}.input_layernorm.weight": "stack.blocks.{}.attn.pre.weight",
        "layers.{}.self_attn.q_proj.{}": "stack.blocks.{}.attn.mixer.q.{}",
        "layers.{}.self_attn.k_proj.{}": "stack.blocks.{}.attn.mixer.k.{}",
        "layers.{}.self_attn.v_proj.{}": "stack.blocks.{}.attn.mixer.v.{}",
        "layers.{}.self_attn.o_proj.{}": "stack.blocks.{}.attn.mixer.o.{}",
        "layers.{}.post_attention_layernorm.weight": "stack.blocks.{}.ffn.pre.weight",
        "layers.{}.mlp.gate_proj.{}": "stack.blocks.{}.ffn.mixer.gate.{}",
        "layers.{}.mlp.up_proj.{}": "stack.blocks.{}.ffn.mixer.up.{}",
        "layers.{}.mlp.down_proj.{}": "stack.blocks.{}.ffn.mixer.down.{}",
        "norm.weight": "stack.norm.weight",
        "lm_head.weight": "head.proj.weight",
    },
    ignore=("layers.{}.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"),
    tied={"lm_head.weight": "embed_tokens.weight"},
)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Llama `config.json` describes."""
    c = Config(config, "llama", DEFAULTS)
    d = c.size("hidden_size")
    shape = sizes(c, d)
    context = c.size("max_position_embeddings", most=LONGEST)
    eps = c.number("rms_norm_eps")
    bias, ffn_bias = c.flag("attention_bias"), c.flag("mlp_bias")
    c.only("rope_interleaved", False)
    rotary, context = c.rotary(shape["head_dim"], context)
    norm = Spec(RMSNorm, d=d, eps=eps)

    def block() -> Spec:
        attention = Spec(Attention, **shape, position=rotary, bias=bias, out_bias=bias)
        ffn = Spec(Gated, d_model=d, d_ff=c.size("intermediate_size"), act=c.activation("hidden_act"), bias=ffn_bias)
        return pre_norm(norm, attention, ffn)

    blocks = [block() for _ in range(c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context)


def preset(layers: int, d: int, n_heads: int, d_ff: int, **other: Any) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": layers,
        "hidden_size": d,
        "num_attention_heads": n_heads,
        "intermediate_size": d_ff,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
        **other,
    }


PRESETS = {
    "7b": preset(32, 4096, 32, 11008),
    "13b": preset(40, 5120, 40, 13824),
    "33b": preset(60, 6656, 52, 17920),
    "65b": preset(80, 8192, 64, 22016, rms_norm_eps=1e-5),
}
