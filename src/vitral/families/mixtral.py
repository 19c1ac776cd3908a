"""Mixtral (arXiv:2401.04088): the Mistral block with eight feed-forward experts, of which each token meets two.

x ──┬─ RMSNorm ─ attention(rotary) ─(+)──┬─ RMSNorm ─ router ─ 2 of 8 SwiGLU ─(+)──▶
    └────────────────────────────────┘   └────────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vitral.families import llama1
from vitral.families.common.assemble import Card, decoder, pre_norm, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.experts import expert_names, mixture, training_only
from vitral.nn import Attention, Causal, RMSNorm, Spec, Window

CARD = Card(
    title="Mixtral",
    year=2024,
    org="Mistral AI",
    kind="decoder MoE",
    source="arXiv:2401.04088 Table 1",
    idea="open weights with the quality of a model five times as costly to run: a token meets 13B of 47B parameters",
    licence="Apache-2.0",
    traps=(
        "no sliding window, despite the Mistral block",
        "w1 is the gate, w3 the up, w2 the down projection",
        "the two weights are a softmax over the two chosen logits; over all eight they would not sum to 1",
        "its balance loss takes all layers as one, so that one layer can make up for another",
    ),
    recipe="not published; the instruct models by SFT and DPO",
)
MODEL_TYPE = "mixtral"
DEFAULTS = {
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "num_key_value_heads": 8,
}
NAMES = replace(
    llama1.NAMES,
    rules={
        **llama1.NAMES.rules,
        **expert_names("layers.{}.block_sparse_moe", gate="w1", up="w3", down="w2"),
    },
)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Mixtral `config.json` describes."""
    c = Config(config, "mixtral", DEFAULTS)
    d = c.size("hidden_size")
    shape = sizes(c, d)
    context = c.size("max_position_embeddings", most=LONGEST)
    rotary, context = c.rotary(shape["head_dim"], context)
    norm, act = Spec(RMSNorm, d=d, eps=c.number("rms_norm_eps")), c.activation("hidden_act")
    windowed = c.get("sliding_window", None) is not None
    kind = Window(c.size("sliding_window", most=LONGEST)) if windowed else Causal()
    n, d_ff = c.size("num_local_experts"), c.size("intermediate_size")
    training_only(c)

    def block() -> Spec:
        attention = Spec(Attention, **shape, kind=kind, position=rotary)
        return pre_norm(norm, attention, mixture(c, d, act, n=n, d_ff=d_ff, renormalised=True))

    blocks = [block() for _ in range(c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context)


def preset(layers: int, d: int, n_heads: int, d_ff: int, context: int) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["MixtralForCausalLM"],
        "num_hidden_layers": layers,
        "hidden_size": d,
        "num_attention_heads": n_heads,
        "num_key_value_heads": 8,
        "intermediate_size": d_ff,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "max_position_embeddings": context,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    }


PRESETS = {
    "8x7b": preset(32, 4096, 32, 14336, 32768),
    "8x22b": preset(56, 6144, 48, 16384, 65536),
}
