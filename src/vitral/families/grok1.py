"""Grok-1 (xai-org/grok-1, run.py and model.py): eight wide experts, a norm on both sides of every sublayer.

    x ──┬─ RMSNorm ─ attention ─ RMSNorm ─(+)──┬─ RMSNorm ─ router ─ 2 of 8 GeGLU ─ RMSNorm ─(+)──▶
        └──────────────────────────────────┘   └─────────────────────────────────────────────┘

Scores, embeddings and logits have constants of their own: scores are scaled, then capped at 30 by tanh, then masked;
embeddings are multiplied by sqrt(6144), logits by 1/sqrt(3). Files carry the names of the published JAX tree, with
matrices as in × out (8-bit ones multiplied out by their scales).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families.common.assemble import Card, decoder, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.experts import mixture
from vitral.families.common.rules import Names, Transposed
from vitral.nn import Attention, Block, Fused, RMSNorm, Spec, Sublayer

CARD = Card(
    title="Grok-1",
    year=2024,
    org="xAI",
    kind="decoder MoE",
    source="xai-org/grok-1: run.py, model.py, README",
    idea="the largest open weights of its day, 314B, of which a token meets a quarter",
    licence="Apache-2.0",
    traps=(
        "the weights of the two experts come from the softmax over all eight and are not scaled to sum to 1",
        "scores are multiplied by 128^-0.5 before the cap at 30, and capped before the mask",
        "four norms a block: rms_norm, rms_norm_1 around attention, rms_norm_2, rms_norm_3 around the experts",
        "linear is the gate (tanh GELU), linear_v the up, linear_1 the down projection",
        "its own code hides every token of id 0, padding or not; here padding is said, never guessed",
    ),
    recipe="not published",
)
MODEL_TYPE = "grok1"
DEFAULTS = {
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "gelu_pytorch_tanh",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "attn_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}
_LAYER, _BLOCK = "transformer/decoder_layer_{}", "stack.blocks.{}"
_ATTENTION = {"query": "q", "key": "k", "value": "v", "linear": "o"}
_NORMS = {"rms_norm": "attn.pre", "rms_norm_1": "attn.post", "rms_norm_2": "ffn.pre", "rms_norm_3": "ffn.post"}
_EXPERTS = {"linear": "gate", "linear_v": "up", "linear_1": "down"}
NAMES = Names(
    rules={
        "language_model/in_out_embed/embeddings": "embed.tokens.weight",
        "language_model/rms_norm/scale": "stack.norm.weight",
        f"{_LAYER}/router/w": Transposed(f"{_BLOCK}.ffn.mixer.router.proj.weight"),
        **{f"{_LAYER}/{file}/scale": f"{_BLOCK}.{ours}.weight" for file, ours in _NORMS.items()},
        **{
            f"{_LAYER}/multi_head_attention/{file}/w": Transposed(f"{_BLOCK}.attn.mixer.{ours}.weight")
            for file, ours in _ATTENTION.items()
        },
        **{
            f"{_LAYER}/moe/{file}/w": Transposed(f"{_BLOCK}.ffn.mixer.experts.{ours}")
            for file, ours in _EXPERTS.items()
        },
    }
)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Grok-1 config describes."""
    c = Config(config, "grok1", DEFAULTS)
    d = c.size("hidden_size")
    shape = sizes(c, d)
    rotary, context = c.rotary(shape["head_dim"], c.size("max_position_embeddings", most=LONGEST))
    norm, act = Spec(RMSNorm, d=d, eps=c.number("rms_norm_eps")), c.activation("hidden_act")
    scale, cap = c.number("attn_output_multiplier", shape["head_dim"] ** -0.5), c.number("attn_logit_softcapping")
    n, d_ff = c.size("num_experts"), c.size("intermediate_size")
    c.only("tie_word_embeddings", True)

    def around(mixer: Spec) -> Spec:
        return Spec(Sublayer, mixer=mixer, pre=norm.replace(), post=norm.replace())

    def block() -> Spec:
        attention = Spec(Attention, **shape, position=rotary, scale=scale, kernel=Spec(Fused, softcap=cap))
        experts = mixture(c, d, act, n=n, d_ff=d_ff, renormalised=False)
        return Spec(Block, attn=around(attention), ffn=around(experts))

    blocks = [block() for _ in range(c.size("num_hidden_layers", most=DEEPEST))]
    into, out_of = c.number("embedding_multiplier_scale", d**0.5), c.number("output_multiplier_scale", 3**-0.5)
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context, scale=into, logit_scale=out_of)


PRESETS = {
    "314b": {
        "model_type": MODEL_TYPE,
        "num_hidden_layers": 64,
        "hidden_size": 6144,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "intermediate_size": 32768,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 8192,
        "vocab_size": 131072,
        "attn_output_multiplier": 0.08838834764831845,
        "embedding_multiplier_scale": 78.38367176906169,
        "output_multiplier_scale": 0.5773502691896257,
    }
}
