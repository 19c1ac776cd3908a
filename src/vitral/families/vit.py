"""Vision Transformer (Dosovitskiy et al. 2020, arXiv:2010.11929): patches of a picture as the words of an encoder.

pixels ─ patches ─ [class] + grid ──┬─ LayerNorm ─ attention ─(+)──┬─ LayerNorm ─ FFN ─(+)──▶ LayerNorm ─ first
                                    └──────────────────────────┘   └────────────────────┘
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from vitral.families.common.assemble import Card
from vitral.families.common.config import Config, architecture
from vitral.families.common.rules import Leading, Names
from vitral.families.common.vision import blocks, patches
from vitral.nn import First, LayerNorm, Model, Pooler, Spec, Stack

CARD = Card(
    title="Vision Transformer",
    year=2020,
    org="Google",
    kind="vision encoder",
    source="arXiv:2010.11929 Table 1",
    idea="a picture is 16×16 words: a plain encoder over patches beats convolutions once the data are many",
    licence="Apache-2.0",
    traps=(
        "published files have eps 1e-12, the code they were trained with 1e-6",
        "at another resolution the grid of positions is interpolated, the class token's position is not",
    ),
    recipe="JFT-300M or ImageNet-21k, Adam, batch 4096, weight decay .1; fine-tuned by SGD at a higher resolution",
)
MODEL_TYPE = "vit"
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
}
_LAYER = "encoder.layer.{}."
_OURS = "stack.blocks.{}."
NAMES = Names(
    prefix="vit.",
    bare=("classifier.{}",),
    rules={
        "embeddings.cls_token": Leading("embed.token.vector", 2),
        "embeddings.position_embeddings": Leading("embed.positions.table.weight"),
        "embeddings.patch_embeddings.projection.{}": "embed.proj.{}",
        _LAYER + "attention.attention.query.{}": _OURS + "attn.mixer.q.{}",
        _LAYER + "attention.attention.key.{}": _OURS + "attn.mixer.k.{}",
        _LAYER + "attention.attention.value.{}": _OURS + "attn.mixer.v.{}",
        _LAYER + "attention.output.dense.{}": _OURS + "attn.mixer.o.{}",
        _LAYER + "layernorm_before.{}": _OURS + "attn.pre.{}",
        _LAYER + "layernorm_after.{}": _OURS + "ffn.pre.{}",
        _LAYER + "intermediate.dense.{}": _OURS + "ffn.mixer.up.{}",
        _LAYER + "output.dense.{}": _OURS + "ffn.mixer.down.{}",
        "layernorm.{}": "stack.norm.{}",
        "pooler.dense.{}": "pooler.dense.{}",
        "classifier.{}": "classifier.{}",
    },
)
_HEADS = {"ViTModel": ("pooler",), "ViTForImageClassification": ("classifier",)}


def complete(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The config with the heads that a file with these tensor names really holds."""
    names = list(names)
    held = [head for head in ("pooler", "classifier") if any(f"{head}." in name for name in names)]
    return {**config, "_vitral_heads": held}


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a ViT `config.json` describes; its classes, where it has any, are read off the class token."""
    c = Config(config, "vit", DEFAULTS)
    d = c.size("hidden_size")
    norm = Spec(LayerNorm, d=d, eps=c.number("layer_norm_eps"))
    embed, side = patches(c, d, first=1)
    layers = blocks(c, d, norm, bias=c.flag("qkv_bias", True))
    c.get("encoder_stride", None)  # of a head that draws masked patches
    c.only("pooler_act", "tanh")
    c.only("pooler_output_size", None, d)
    heads = config.get("_vitral_heads", _HEADS.get(architecture(config), ()))
    classes = c.size("num_labels", len(c.table("id2label")) or 2)
    c.finish()
    pooler = Spec(Pooler, d=d) if "pooler" in heads else Spec(First)
    return Spec(
        Model,
        embed=embed,
        stack=Spec(Stack, blocks=layers, norm=norm),
        pooler=pooler if heads else None,
        classifier=Spec(nn.Linear, in_features=d, out_features=classes) if "classifier" in heads else None,
        context=side * side + 1,
    )


def preset(layers: int, d: int, n_heads: int, patch: int) -> dict[str, Any]:
    """A config.json of this family by its published numbers, with ImageNet's thousand classes."""
    mine = {"num_hidden_layers": layers, "hidden_size": d, "num_attention_heads": n_heads, "intermediate_size": 4 * d}
    arch = {"model_type": MODEL_TYPE, "architectures": ["ViTForImageClassification"], "num_labels": 1000}
    return {**DEFAULTS, **arch, **mine, "patch_size": patch}


PRESETS = {
    "b16": preset(12, 768, 12, 16),
    "b32": preset(12, 768, 12, 32),
    "l16": preset(24, 1024, 16, 16),
    "h14": preset(32, 1280, 16, 14),
}
