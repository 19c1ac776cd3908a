"""The tower of the Llama models that see: its config, its parts, its names."""

from __future__ import annotations

from typing import Any

from torch import nn

from vitral.errors import CheckpointError
from vitral.families.common.assemble import pre_norm, share
from vitral.families.common.config import DEEPEST, Config
from vitral.families.common.rules import Leading, Rule
from vitral.nn import (
    Attention,
    Block,
    Full,
    Gate,
    LayerNorm,
    Plain,
    Spec,
    Stack,
    TiledTower,
    TileGrid,
    TileVector,
)

IMAGE: dict[str, Any] = {
    "hidden_size": 1280,
    "hidden_act": "gelu",
    "num_hidden_layers": 32,
    "num_global_layers": 8,
    "attention_heads": 16,
    "num_channels": 3,
    "intermediate_size": 5120,
    "image_size": 448,
    "patch_size": 14,
    "norm_eps": 1e-5,
    "max_num_tiles": 4,
    "intermediate_layers_indices": [3, 7, 15, 23, 30],
}


def tiled_tower(c: Config, d_model: int) -> Spec:
    """The tower and projector that a vision config describes."""
    d, layers = c.size("hidden_size"), c.size("num_hidden_layers", most=DEEPEST)
    tiles, shapes = c.size("max_num_tiles", most=2**8), cuts(c)
    side = c.size("image_size", most=2**16) // c.size("patch_size", most=2**16)
    kept = c.get("intermediate_layers_indices")
    if not isinstance(kept, list) or not all(depth in range(layers) for depth in kept) or sorted(kept) != kept:
        raise CheckpointError(
            f"config.json: intermediate_layers_indices is {kept!r:.80}", f"Give depths below {layers}"
        )
    width = d * (1 + len(kept))
    c.only("vision_output_dim", width, None)
    per_tile = {"shapes": shapes, "tiles": tiles}
    norm = Spec(LayerNorm, d=d)
    tower = Spec(
        TiledTower,
        patch=c.size("patch_size", most=2**16),
        channels=c.size("num_channels", most=16),
        d=d,
        before=Spec(TileVector, **per_tile, d=d),
        positions=Spec(TileGrid, **per_tile, n=side * side + 1, d=d),
        norm=norm,
        local=Spec(Stack, blocks=[block(c, d) for _ in range(layers)], norm=norm.replace()),
        after=Spec(TileVector, **per_tile, d=d),
        whole=Spec(Stack, blocks=[gated(block(c, d)) for _ in range(c.size("num_global_layers", most=DEEPEST))]),
        kept=kept,
        proj=Spec(nn.Linear, in_features=width, out_features=d_model),
    )
    c.finish()
    return tower


def cuts(c: Config) -> int:
    """How many shapes pictures may be cut into: width × height tiles, in the order of their numbers."""
    shapes, most = c.get("supported_aspect_ratios", None), c.size("max_num_tiles", most=2**8)
    every = [[w, h] for w in range(1, most + 1) for h in range(1, most + 1) if w * h <= most]
    if shapes is not None and shapes != every:
        raise CheckpointError(f"config.json: supported_aspect_ratios is {shapes!r:.80}", f"Known for {most}: {every}")
    return len(every)


def block(c: Config, d: int) -> Spec:
    """A pre-norm block without biases on its attention."""
    n_heads = c.size("attention_heads")
    sizes = {"d_model": d, "n_heads": n_heads, "n_kv_heads": n_heads}
    attention = Spec(Attention, **sizes, head_dim=share("hidden_size", d, "attention_heads", n_heads), kind=Full())
    ffn = Spec(Plain, d_model=d, d_ff=c.size("intermediate_size"), act=c.activation("hidden_act"))
    return pre_norm(Spec(LayerNorm, d=d, eps=c.number("norm_eps")), attention, ffn)


def gated(block: Spec) -> Spec:
    """The block with a gate behind each of its sublayers."""
    return Spec(Block, **{name: part.replace(post=Spec(Gate)) for name, part in block.args.items()})


def tiled_rules(file: str, ours: str) -> dict[str, Rule]:
    """The names of the tower's tensors, and the projector's."""
    rules: dict[str, Rule] = {
        f"{file}class_embedding": f"{ours}.token.vector",
        f"{file}patch_embedding.weight": f"{ours}.proj_in.weight",
        f"{file}gated_positional_embedding.embedding": f"{ours}.positions.table.weight",
        f"{file}gated_positional_embedding.tile_embedding.weight": f"{ours}.positions.own.weight",
        f"{file}gated_positional_embedding.gate": Leading(f"{ours}.positions.gate.weight"),
        f"{file}layernorm_pre.{{}}": f"{ours}.norm.{{}}",
        f"{file}layernorm_post.{{}}": f"{ours}.local.norm.{{}}",
        "multi_modal_projector.{}": f"{ours}.proj.{{}}",
    }
    for theirs, mine in (("pre", "before"), ("post", "after")):
        rules[f"{file}{theirs}_tile_positional_embedding.embedding.weight"] = f"{ours}.{mine}.table.weight"
        rules[f"{file}{theirs}_tile_positional_embedding.gate"] = Leading(f"{ours}.{mine}.gate.weight")
    for theirs, mine in (("transformer", "local"), ("global_transformer", "whole")):
        here, there = f"{file}{theirs}.layers.{{}}.", f"{ours}.{mine}.blocks.{{}}."
        for each in "qkvo":
            rules[f"{here}self_attn.{each}_proj.{{}}"] = f"{there}attn.mixer.{each}.{{}}"
        rules[f"{here}input_layernorm.{{}}"] = f"{there}attn.pre.{{}}"
        rules[f"{here}post_attention_layernorm.{{}}"] = f"{there}ffn.pre.{{}}"
        rules[f"{here}mlp.fc1.{{}}"] = f"{there}ffn.mixer.up.{{}}"
        rules[f"{here}mlp.fc2.{{}}"] = f"{there}ffn.mixer.down.{{}}"
        rules[f"{here}gate_attn"] = Leading(f"{there}attn.post.weight")
        rules[f"{here}gate_ffn"] = Leading(f"{there}ffn.post.weight")
    return rules
