"""Gemma 2 (arXiv:2408.00118): every other layer looks back 4096 tokens only, scores and logits are capped, each
sublayer has a norm on both sides.

    x ──┬─ RMSNorm ─ attention ─ RMSNorm ─(+)──┬─ RMSNorm ─ GeGLU ─ RMSNorm ─(+)──▶
        └──────────────────────────────────┘   └──────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vitral.errors import CheckpointError
from vitral.families import gemma, llama1
from vitral.families.common.assemble import Card, decoder, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.nn import Attention, Block, Causal, Fused, Gated, Kind, RMSNorm, Spec, Sublayer, Window

CARD = Card(
    title="Gemma 2",
    year=2024,
    org="Google",
    kind="decoder",
    source="arXiv:2408.00118 Tables 1 and 2, §2 and §3",
    idea="local and global layers in turn halve the cache of a long text; small models learn from a large one's logits",
    licence="Gemma Terms of Use",
    traps=(
        "layer 0 is a local one, and its window of 4096 counts the token that looks",
        "the 27B scales its queries by 1/sqrt(144), not by 1/sqrt(128)",
        "scores are capped before the mask is added: a fused kernel that cannot cap computes another model",
        "four norms a block; post_attention_layernorm stands behind the attention here, before the FFN elsewhere",
        "the activation stands under hidden_activation; the paper's d_ff counts both halves of the GeGLU",
    ),
    recipe="2T, 8T and 13T tokens; 2B and 9B distilled token by token, 27B from scratch; SFT, RLHF, averaged models",
)
MODEL_TYPE = "gemma2"
DEFAULTS = {**gemma.DEFAULTS, "sliding_window": 4096, "query_pre_attn_scalar": 256}
NAMES = replace(
    llama1.NAMES,
    rules={
        **llama1.NAMES.rules,
        "layers.{}.post_attention_layernorm.weight": "stack.blocks.{}.attn.post.weight",
        "layers.{}.pre_feedforward_layernorm.weight": "stack.blocks.{}.ffn.pre.weight",
        "layers.{}.post_feedforward_layernorm.weight": "stack.blocks.{}.ffn.post.weight",
    },
)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Gemma 2 `config.json` describes."""
    c = Config(config, "gemma2", DEFAULTS)
    d = c.size("hidden_size")
    shape = sizes(c, d)
    bias, act = c.flag("attention_bias"), gemma.activation(c)
    scale = c.number("query_pre_attn_scalar") ** -0.5
    on_scores, on_logits = cap(c, "attn_logit_softcapping", 50.0), cap(c, "final_logit_softcapping", 30.0)
    norm = Spec(RMSNorm, d=d, eps=c.number("rms_norm_eps"), offset=1.0)
    rotary, context = c.rotary(shape["head_dim"], c.size("max_position_embeddings", most=LONGEST))
    gemma.causal(c)

    def block(kind: Kind) -> Spec:
        parts = {"kind": kind, "position": rotary, "kernel": Spec(Fused, softcap=on_scores)}
        attention = Spec(Attention, **shape, **parts, bias=bias, out_bias=bias, scale=scale)
        ffn = Spec(Gated, d_model=d, d_ff=c.size("intermediate_size"), act=act.replace())
        return Spec(Block, attn=between(norm, attention), ffn=between(norm, ffn))

    blocks = [block(kind) for kind in kinds(c, c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context, scale=d**0.5, softcap=on_logits)


def cap(c: Config, key: str, published: float) -> float | None:
    """A cap on scores or logits: null in the file takes it away, silence leaves the published one."""
    c.read.add(key)
    return None if c.data.get(key, published) is None else c.number(key, published)


def between(norm: Spec, mixer: Spec) -> Spec:
    """A sublayer that normalises what goes in and what comes out."""
    return Spec(Sublayer, mixer=mixer, pre=norm.replace(), post=norm.replace())


def kinds(c: Config, layers: int, otherwise: list[str] | None = None) -> list[Kind]:
    """Who sees whom in each layer: what `layer_types` says, or `otherwise`, or local and global layers in turn."""
    size = c.size("sliding_window", most=LONGEST)
    c.only("sliding_window_size", None, size)  # the first files say it twice
    named = {"sliding_attention": Window(size), "full_attention": Causal()}
    types = c.get("layer_types", otherwise or (list(named) * layers)[:layers])
    if not isinstance(types, list) or len(types) != layers or not all(str(each) in named for each in types):
        raise CheckpointError(f"config.json: 'layer_types' is {types!r:.80}", f"Give {layers} of {', '.join(named)}")
    return [named[each] for each in types]


def preset(layers: int, d: int, n_heads: int, n_kv_heads: int, d_ff: int, **other: Any) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    mine: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "architectures": ["Gemma2ForCausalLM"],
        "hidden_act": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    return gemma.preset(layers, d, n_heads, n_kv_heads, d_ff, **{**mine, **other})


PRESETS = {
    "2b": preset(26, 2304, 8, 4, 9216),
    "9b": preset(42, 3584, 16, 8, 14336),
    "27b": preset(46, 4608, 32, 16, 36864, head_dim=128, query_pre_attn_scalar=144),
}
