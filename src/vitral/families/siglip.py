"""SigLIP (Zhai et al. 2023, arXiv:2303.15343): every pair of picture and text judged alone, by a sigmoid.

No class token: a learned query reads the patches. The text tower sees both ways and is read at its last position.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from vitral.families.common.assemble import Card
from vitral.families.common.config import Config
from vitral.families.common.rules import Leading, Names, Rule, Split
from vitral.families.common.vision import blocks, image_rules, part, patches, text_embed, text_rules
from vitral.nn import Cross, Dual, Last, LayerNorm, Model, Plain, Probe, Spec, Stack

CARD = Card(
    title="SigLIP",
    year=2023,
    org="Google",
    kind="vision-text dual encoder",
    source="arXiv:2303.15343; google/siglip-* configs",
    idea="a sigmoid for each pair in place of a softmax over the batch: no pair needs to know of the others",
    licence="Apache-2.0",
    traps=(
        "the text tower is not causal and is read at its last position, padding or not: pad to 64 and mask nothing",
        "384 pixels are 27 patches of 14: the border is dropped",
        "heads of 72 numbers in so400m",
    ),
    recipe="pairwise sigmoid loss on WebLI, batch 32k, scale and bias learned from log 10 and -10",
)
MODEL_TYPE = "siglip"
_SHARED: dict[str, Any] = {
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
}
_SHARED |= {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
TEXT = {**_SHARED, "vocab_size": 32000, "max_position_embeddings": 64}
IMAGE = {**_SHARED, "image_size": 224, "patch_size": 16, "num_channels": 3, "vision_use_head": True}
DEFAULTS: dict[str, Any] = {}


def rules(file: str, ours: str) -> dict[str, Rule]:
    """The names of an image tower."""
    return {
        **image_rules(file, ours),
        f"{file}post_layernorm.{{}}": f"{ours}.stack.norm.{{}}",
        f"{file}head.probe": Leading(f"{ours}.pooler.vector", 2),
        **{
            f"{file}head.attention.in_proj_{end}": Split(tuple(f"{ours}.pooler.attention.{n}.{end}" for n in "qkv"))
            for end in ("weight", "bias")
        },
        f"{file}head.attention.out_proj.{{}}": f"{ours}.pooler.attention.o.{{}}",
        f"{file}head.layernorm.{{}}": f"{ours}.pooler.norm.{{}}",
        f"{file}head.mlp.fc1.{{}}": f"{ours}.pooler.ffn.up.{{}}",
        f"{file}head.mlp.fc2.{{}}": f"{ours}.pooler.ffn.down.{{}}",
    }


NAMES = Names(
    rules={
        **text_rules("text_model.", "text"),
        "text_model.head.{}": "text_proj.{}",
        **rules("vision_model.", "image"),
        "logit_scale": Leading("scale"),
        "logit_bias": Leading("bias"),
    },
    ignore=("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"),
)


def image(c: Config) -> tuple[Spec, int]:
    """The image tower that a vision config describes, and the side of its grid."""
    d = c.size("hidden_size")
    norm = Spec(LayerNorm, d=d, eps=c.number("layer_norm_eps"))
    embed, side = patches(c, d)
    layers = blocks(c, d, norm)
    sizes = {name: layers[0].args["attn"].args["mixer"].args[name] for name in ("n_heads", "n_kv_heads", "head_dim")}
    attention = Spec(Cross, d_model=d, **sizes, bias=True, out_bias=True)
    ffn = Spec(Plain, d_model=d, d_ff=c.size("intermediate_size"), act=c.activation("hidden_act"))
    probe = Spec(Probe, d=d, attention=attention, norm=norm.replace(), ffn=ffn)
    pooler = probe if c.flag("vision_use_head", True) else None
    c.finish()
    return Spec(Model, embed=embed, stack=Spec(Stack, blocks=layers, norm=norm), pooler=pooler, context=side**2), side


def spec(config: Mapping[str, Any]) -> Spec:
    """The pair of towers a SigLIP `config.json` describes."""
    c = Config(config, "siglip")
    seen = part(c, "vision_config", IMAGE, "siglip_vision_model")
    seen.only("vision_use_head", True)
    tower = image(seen)[0]
    t = part(c, "text_config", TEXT, "siglip_text_model")
    d = t.size("hidden_size")
    norm = Spec(LayerNorm, d=d, eps=t.number("layer_norm_eps"))
    embed, context = text_embed(t, d)
    text = Spec(Model, embed=embed, stack=Spec(Stack, blocks=blocks(t, d, norm), norm=norm), context=context)
    width = t.size("projection_size", d)
    t.finish()
    c.finish()
    head = Spec(nn.Linear, in_features=d, out_features=width)
    return Spec(Dual, image=tower, text=text, reader=Spec(Last), text_proj=head, scale=2.302585093, bias=-10.0)


def preset(layers: int, d: int, n_heads: int, d_ff: int, **seen: Any) -> dict[str, Any]:
    """A config.json of this family by its published numbers; both towers have the same shape."""
    shape = {"num_hidden_layers": layers, "hidden_size": d, "num_attention_heads": n_heads, "intermediate_size": d_ff}
    towers = {"text_config": {**TEXT, **shape}, "vision_config": {**IMAGE, **shape, **seen}}
    return {"model_type": MODEL_TYPE, "architectures": ["SiglipModel"], **towers}


PRESETS = {
    "b16-224": preset(12, 768, 12, 3072),
    "l16-256": preset(24, 1024, 16, 4096, image_size=256),
    "so400m-14-384": preset(27, 1152, 16, 4304, image_size=384, patch_size=14),
}
