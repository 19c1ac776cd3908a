"""Llama 3.2 Vision (arXiv:2407.21783 §7): the text model as it was, and between its layers new ones that look.

pixels ─ tiles ─ local and global tower ─ projector ─▶ memory
ids ─ … block ─ block ─ block ─ [ looks at memory, tanh gates ] ─ block ─ …
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from vitral.errors import CheckpointError
from vitral.families import llama1, llama3
from vitral.families.common.assemble import pre_norm, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import Leading, Names, Rule
from vitral.families.common.tiled import IMAGE, tiled_rules, tiled_tower
from vitral.families.common.vision import part
from vitral.nn import (
    Attention,
    Cross,
    Embed,
    Gate,
    Gated,
    GatedLooking,
    Head,
    Looking,
    Model,
    RMSNorm,
    Spec,
    Stack,
    Sublayer,
    Table,
)

CARD = llama3.CARD
MODEL_TYPE = "mllama"
DEFAULTS: dict[str, Any] = {"image_token_index": 128256}
TEXT: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "hidden_act": "silu",
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
}
EXTRA_ROWS = 8
"""Rows that the embedding has and the head has not: the picture's own token among them."""


def names(config: Mapping[str, Any]) -> Names:
    """The name map: layers that look have other tensors than the rest, under the same numbers."""
    looking = Config(config, "llama3", DEFAULTS).table("text_config").get("cross_attention_layers")
    rules: dict[str, Rule] = {}
    for depth in looking or TEXT["cross_attention_layers"]:
        here, there = f"model.layers.{depth}.", f"stack.blocks.{depth}."
        for each in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"):
            rules[f"{here}cross_attn.{each}.weight"] = f"{there}cross.mixer.{each.removesuffix('_proj')}.weight"
        rules[f"{here}input_layernorm.weight"] = f"{there}cross.pre.weight"
        rules[f"{here}cross_attn_attn_gate"] = Leading(f"{there}cross.post.weight")
        rules[f"{here}cross_attn_mlp_gate"] = Leading(f"{there}ffn.post.weight")
    for name, rule in llama1.NAMES.rules.items():
        rules[name if name.startswith("lm_head") else f"model.{name}"] = rule
    text = {f"language_model.{name}": rule for name, rule in rules.items()}
    published = {**text, **tiled_rules("vision_model.", "vision")}
    # The published names first: they are what is written. A state saved by hand has those of the model in memory.
    return Names(rules={**published, **{_in_memory(name): rule for name, rule in published.items()}})


def _in_memory(name: str) -> str:
    """What transformers 5 calls a tensor while the model is loaded."""
    if name == "language_model.lm_head.weight":
        return "lm_head.weight"
    return "model." + name.replace("language_model.model.", "language_model.", 1)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model an Mllama `config.json` describes."""
    c = Config(config, "llama3", DEFAULTS)
    t = part(c, "text_config", TEXT, "mllama_text_model")
    d, vocab, layers = t.size("hidden_size"), t.size("vocab_size"), t.size("num_hidden_layers", most=DEEPEST)
    tower = tiled_tower(part(c, "vision_config", IMAGE, "mllama_vision_model"), d)
    shape, eps = sizes(t, d), t.number("rms_norm_eps")
    rotary, context = t.rotary(shape["head_dim"], t.size("max_position_embeddings", most=LONGEST), 500000.0)
    norm, head_norm = Spec(RMSNorm, d=d, eps=eps), Spec(RMSNorm, d=shape["head_dim"], eps=eps)
    wide = {"d_model": d, "d_ff": t.size("intermediate_size"), "act": t.activation("hidden_act")}
    looks = t.get("cross_attention_layers")
    if not isinstance(looks, list) or not all(depth in range(layers) for depth in looks):
        raise CheckpointError(f"config.json: cross_attention_layers is {looks!r:.80}", f"Give depths below {layers}")

    def block(depth: int) -> Spec:
        if depth not in looks:
            return pre_norm(norm, Spec(Attention, **shape, position=rotary), Spec(Gated, **wide))
        cross = Spec(Cross, **shape, q_norm=head_norm.replace(), k_norm=head_norm.replace())
        parts = {"cross": cross, "ffn": Spec(GatedLooking, **wide)}
        gated = {
            name: Spec(Sublayer, mixer=mixer, pre=norm.replace(), post=Spec(Gate)) for name, mixer in parts.items()
        }
        return Spec(Looking, **gated)

    t.only("tie_word_embeddings", False)
    c.only("tie_word_embeddings", False)
    c.get("image_token_index")
    t.finish()
    c.finish()
    return Spec(
        Model,
        embed=Spec(Embed, tokens=Spec(Table, n=vocab + EXTRA_ROWS, d=d)),
        stack=Spec(Stack, blocks=[block(depth) for depth in range(layers)], norm=norm),
        head=Spec(Head, proj=Spec(nn.Linear, in_features=d, out_features=vocab, bias=False)),
        context=context,
        vision=tower,
    )
