"""Gemma 3 (arXiv:2503.19786): five local layers to one global, each kind with its own rotary base; norms on queries
and keys in place of Gemma 2's caps. The models that see are read by `gemma3_vision`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vitral.families import gemma, gemma2
from vitral.families.common.assemble import Card, decoder, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rotaries import rotaries
from vitral.nn import Attention, Block, Causal, Gated, Kind, RMSNorm, Spec, Window

CARD = Card(
    title="Gemma 3",
    year=2025,
    org="Google",
    kind="decoder, multimodal",
    source="arXiv:2503.19786 Table 1, §2",
    idea="local layers of 1024 tokens make 128k cheap; a picture is 256 soft tokens of a frozen SigLIP tower",
    licence="Gemma Terms of Use",
    traps=(
        "two rotary tables: base 10,000 in local layers, 1,000,000 in global ones, and only those are scaled",
        "norm weights are applied as 1 + w, those on queries and keys too, and the projector's",
        "the scale of scores comes from query_pre_attn_scalar: 168 in the 27B, where a head has 128 numbers",
        "the tokens of one picture see each other both ways; within a local layer, up to its window backwards",
        "soft tokens are not multiplied by sqrt(d), words are",
        "262,208 rows in the vocabulary of the models that see, 262,144 in the 1B's",
    ),
    recipe="2T, 4T, 12T and 14T tokens, all distilled from 256 sampled teacher logits a token; RL after SFT",
)
MODEL_TYPE = "gemma3_text"
DEFAULTS: dict[str, Any] = {
    **gemma.DEFAULTS,
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}
NAMES = replace(
    gemma2.NAMES,
    rules={
        **gemma2.NAMES.rules,
        "layers.{}.self_attn.q_norm.weight": "stack.blocks.{}.attn.mixer.q_norm.weight",
        "layers.{}.self_attn.k_norm.weight": "stack.blocks.{}.attn.mixer.k_norm.weight",
    },
)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Gemma 3 text `config.json` describes."""
    return of(Config(config, "gemma3", DEFAULTS))


def of(c: Config) -> Spec:
    """The same, of a config that may stand within another."""
    d = c.size("hidden_size")
    shape = sizes(c, d)
    bias, act = c.flag("attention_bias"), gemma.activation(c)
    scale, eps = c.number("query_pre_attn_scalar") ** -0.5, c.number("rms_norm_eps")
    norm, head_norm = (Spec(RMSNorm, d=size, eps=eps, offset=1.0) for size in (d, shape["head_dim"]))
    local, everywhere, context = rotaries(c, shape["head_dim"], c.size("max_position_embeddings", most=LONGEST))
    turns: dict[type[Kind], Spec] = {Window: local, Causal: everywhere}
    c.only("attn_logit_softcapping", None)
    c.only("final_logit_softcapping", None)
    gemma.causal(c)

    def block(kind: Kind) -> Spec:
        parts = {"kind": kind, "position": turns[type(kind)], "bias": bias, "out_bias": bias, "scale": scale}
        norms = {"q_norm": head_norm.replace(), "k_norm": head_norm.replace()}
        ffn = Spec(Gated, d_model=d, d_ff=c.size("intermediate_size"), act=act.replace())
        between = gemma2.between
        return Spec(Block, attn=between(norm, Spec(Attention, **shape, **parts, **norms)), ffn=between(norm, ffn))

    blocks = [block(kind) for kind in kinds(c, c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context, scale=d**0.5)


def kinds(c: Config, layers: int) -> list[Kind]:
    """Who sees whom in each layer: what `layer_types` says, or every sixth layer (or n-th) sees all."""
    every = c.size("sliding_window_pattern", c.size("_sliding_window_pattern", 6, most=LONGEST), most=LONGEST)
    types = ["full_attention" if (depth + 1) % every == 0 else "sliding_attention" for depth in range(layers)]
    return gemma2.kinds(c, layers, types)


def preset(layers: int, d: int, n_heads: int, n_kv_heads: int, d_ff: int, **other: Any) -> dict[str, Any]:
    """A config.json of the text model by its published numbers."""
    mine: dict[str, Any] = {"model_type": MODEL_TYPE, "architectures": ["Gemma3ForCausalLM"], "vocab_size": 262144}
    mine |= {"query_pre_attn_scalar": 256, "max_position_embeddings": 131072, "sliding_window": 1024}
    mine |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6, "hidden_act": None}
    mine |= {"hidden_activation": "gelu_pytorch_tanh"}
    return gemma.preset(layers, d, n_heads, n_kv_heads, d_ff, **{**mine, **other})


def seeing(layers: int, d: int, n_heads: int, n_kv_heads: int, d_ff: int, **other: Any) -> dict[str, Any]:
    """A config.json of a model with the tower that all of them share."""
    shape = (layers, d, n_heads, n_kv_heads, d_ff)
    longer: dict[str, Any] = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "vocab_size": 262208}
    tower = {"model_type": "siglip_vision_model", "hidden_size": 1152, "num_hidden_layers": 27, "patch_size": 14}
    tower |= {"num_attention_heads": 16, "intermediate_size": 4304, "image_size": 896, "vision_use_head": False}
    text = preset(*shape, **{**longer, **other})
    parts = {"text_config": text, "vision_config": tower, "mm_tokens_per_image": 256}
    return {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], **parts}


PRESETS = {
    "1b": preset(26, 1152, 4, 1, 6912, max_position_embeddings=32768, sliding_window=512),
    "4b": seeing(34, 2560, 8, 4, 10240),
    "12b": seeing(48, 3840, 16, 8, 15360),
    "27b": seeing(62, 5376, 32, 16, 21504, head_dim=128, query_pre_attn_scalar=168),
}
