"""CLIP (Radford et al. 2021, arXiv:2103.00020): a picture and its caption find each other among all of a batch.

pixels ─ patches ─ [class] + grid ─ LayerNorm ─ blocks ─ first ─ LayerNorm ─ projection ─┐
                                                                                         ├─ cosine · exp(scale)
ids ─ tokens + positions ─ causal blocks ─ LayerNorm ─ at the end of text ─ projection ──┘
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from vitral.errors import CheckpointError
from vitral.families.common.assemble import Card
from vitral.families.common.config import Config
from vitral.families.common.rules import Names
from vitral.families.common.vision import blocks, image_rules, part, patches, text_embed, text_rules
from vitral.nn import AtHighest, AtToken, Causal, Dual, First, LayerNorm, Model, Spec, Stack

CARD = Card(
    title="CLIP",
    year=2021,
    org="OpenAI",
    kind="vision-text dual encoder",
    source="arXiv:2103.00020 Tables 19 and 20, §2",
    idea="400 million captions as labels: a classifier for any set of classes that words can name",
    licence="MIT",
    traps=(
        "the activation is x·sigmoid(1.702x), not the exact GELU",
        "the published tensor is misspelt: pre_layrnorm",
        "files from before 2023 say eos_token_id 2 and mean the highest id of the text",
        "the last norm of the image tower is on the class token alone",
    ),
    recipe="symmetric cross-entropy over batches of 32,768 pairs, 32 epochs of 400M pairs, AdamW, learned temperature",
)
MODEL_TYPE = "clip"
_SHARED = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
TEXT = {**_SHARED, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "eos_token_id": 49407}
TEXT |= {"vocab_size": 49408, "max_position_embeddings": 77}
IMAGE = {**_SHARED, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
IMAGE |= {"image_size": 224, "patch_size": 32, "num_channels": 3}
DEFAULTS: dict[str, Any] = {"projection_dim": 512}
NAMES = Names(
    rules={
        **text_rules("text_model.", "text"),
        **image_rules("vision_model.", "image"),
        "vision_model.embeddings.class_embedding": "image.embed.token.vector",
        "vision_model.pre_layrnorm.{}": "image.embed.norm.{}",
        "vision_model.post_layernorm.{}": "image.pooler.norm.{}",
        "visual_projection.weight": "image_proj.weight",
        "text_projection.weight": "text_proj.weight",
        "logit_scale": "scale",
    },
    ignore=("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"),
)


def image(c: Config) -> Spec:
    """The image tower that a vision config describes."""
    d = c.size("hidden_size")
    norm = Spec(LayerNorm, d=d, eps=c.number("layer_norm_eps"))
    embed, side = patches(c, d, first=1, bias=False, norm=norm.replace())
    stack = Spec(Stack, blocks=blocks(c, d, norm))
    c.get("projection_dim", None)
    c.finish()
    return Spec(Model, embed=embed, stack=stack, pooler=Spec(First, norm=norm), context=side**2 + 1)


def text(c: Config) -> tuple[Spec, Spec]:
    """The text tower that a text config describes, and what reads it."""
    d = c.size("hidden_size")
    norm = Spec(LayerNorm, d=d, eps=c.number("layer_norm_eps"))
    embed, context = text_embed(c, d)
    end = c.get("eos_token_id")
    if not isinstance(end, int) or isinstance(end, bool) or end < 0:
        raise CheckpointError(f"config.json: eos_token_id of the text tower is {end!r:.40}", "It must be one id")
    stack = Spec(Stack, blocks=blocks(c, d, norm, kind=Causal()), norm=norm)
    c.get("projection_dim", None)
    c.finish()
    return Spec(Model, embed=embed, stack=stack, context=context), Spec(AtHighest) if end == 2 else Spec(
        AtToken, id=end
    )


def spec(config: Mapping[str, Any]) -> Spec:
    """The pair of towers a CLIP `config.json` describes."""
    c = Config(config, "clip", DEFAULTS)
    seen, read = part(c, "vision_config", IMAGE, "clip_vision_model"), part(c, "text_config", TEXT, "clip_text_model")
    tower, (words, reader) = image(seen), text(read)
    width = c.size("projection_dim")
    widths = (each.size("hidden_size") for each in (seen, read))
    image_proj, text_proj = (Spec(nn.Linear, in_features=d, out_features=width, bias=False) for d in widths)
    c.get("logit_scale_init_value", None)  # where training starts
    c.finish()
    return Spec(Dual, image=tower, text=words, reader=reader, image_proj=image_proj, text_proj=text_proj)


def preset(layers: int, d: int, patch: int, words: int, image_size: int = 224) -> dict[str, Any]:
    """A config.json of this family by its published numbers: an image tower of width d, 12 layers of text."""
    seen = {**IMAGE, "num_hidden_layers": layers, "hidden_size": d, "num_attention_heads": d // 64}
    seen |= {"intermediate_size": 4 * d, "patch_size": patch, "image_size": image_size}
    read = {**TEXT, "hidden_size": words, "intermediate_size": 4 * words, "num_attention_heads": words // 64}
    towers = {"text_config": read, "vision_config": seen, "projection_dim": words}
    return {"model_type": MODEL_TYPE, "architectures": ["CLIPModel"], **towers}


PRESETS = {
    "b32": preset(12, 768, 32, 512),
    "b16": preset(12, 768, 16, 512),
    "l14": preset(24, 1024, 14, 768),
    "l14-336": preset(24, 1024, 14, 768, image_size=336),
}
