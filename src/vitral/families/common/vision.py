"""What the families that see share: the parts of an image tower, and the names of the towers' tensors."""

from __future__ import annotations

from typing import Any

from vitral.errors import CheckpointError
from vitral.families.common.assemble import pre_norm, share
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import Rule
from vitral.nn import Attention, ClassToken, Embed, Full, Grid, Kind, Learned, Patches, Plain, Spec, Table


def part(c: Config, key: str, defaults: dict[str, Any], model_type: str) -> Config:
    """A config within the config; what it leaves out means what the published classes say.

    Older files repeat it, or a part of it, under `…_dict`.
    """
    said, again = c.table(key), c.table(f"{key}_dict")
    differs = [each for each in again if said.get(each, again[each]) != again[each]]
    if differs:
        raise CheckpointError(f"config.json: {key} and {key}_dict differ in {differs[0]!r:.40}", "Keep one of them")
    inner = Config({**said, **again}, f"{c.family}, under {key},", defaults)
    inner.only("model_type", model_type)
    inner.get("tie_word_embeddings", None)  # towers without a head carry it too; decoders read it again
    return inner


def patches(c: Config, d: int, *, first: int = 0, bias: bool = True, norm: Spec | None = None) -> tuple[Spec, int]:
    """The embedding of pixels, and the side of its grid; `first` is 1 where a class token stands before the patches."""
    image, size = c.size("image_size", most=2**16), c.size("patch_size", most=2**16)
    side = image // size
    if not side:
        raise CheckpointError(f"config.json: image_size {image} is less than patch_size {size}")
    grid = Spec(Grid, side=side, d=d, first=first)
    token = Spec(ClassToken, d=d) if first else None
    channels = c.size("num_channels", 3, most=16)
    return Spec(Patches, size=size, channels=channels, d=d, positions=grid, bias=bias, token=token, norm=norm), side


def blocks(c: Config, d: int, norm: Spec, *, kind: Kind = Full(), bias: bool = True) -> list[Spec]:  # noqa: B008
    """Pre-norm blocks of a tower: all heads of one size, biases on every matrix (`bias`: on q, k, v)."""
    n_heads = c.size("num_attention_heads")
    head_dim = share("hidden_size", d, "num_attention_heads", n_heads)
    shape = {"d_model": d, "n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": head_dim}
    d_ff, act = c.size("intermediate_size"), c.activation("hidden_act")

    def block() -> Spec:
        attention = Spec(Attention, **shape, kind=kind, bias=bias, out_bias=True)
        return pre_norm(norm, attention, Spec(Plain, d_model=d, d_ff=d_ff, act=act.replace()))

    return [block() for _ in range(c.size("num_hidden_layers", most=DEEPEST))]


def text_embed(c: Config, d: int) -> tuple[Spec, int]:
    """Tokens and learned positions of a text tower, and its context."""
    context = c.size("max_position_embeddings", most=LONGEST)
    return Spec(
        Embed, tokens=Spec(Table, n=c.size("vocab_size"), d=d), positions=Spec(Learned, n=context, d=d)
    ), context


def block_rules(file: str, ours: str) -> dict[str, Rule]:
    """The names of a tower's blocks."""
    here, there = f"{file}encoder.layers.{{}}.", f"{ours}.stack.blocks.{{}}."
    names = {"self_attn.q_proj": "attn.mixer.q", "self_attn.k_proj": "attn.mixer.k", "self_attn.v_proj": "attn.mixer.v"}
    names |= {"self_attn.out_proj": "attn.mixer.o", "layer_norm1": "attn.pre", "layer_norm2": "ffn.pre"}
    names |= {"mlp.fc1": "ffn.mixer.up", "mlp.fc2": "ffn.mixer.down"}
    return {f"{here}{name}.{{}}": f"{there}{part}.{{}}" for name, part in names.items()}


def text_rules(file: str, ours: str) -> dict[str, Rule]:
    """The names of a text tower."""
    return {
        f"{file}embeddings.token_embedding.weight": f"{ours}.embed.tokens.weight",
        f"{file}embeddings.position_embedding.weight": f"{ours}.embed.positions.table.weight",
        **block_rules(file, ours),
        f"{file}final_layer_norm.{{}}": f"{ours}.stack.norm.{{}}",
    }


def image_rules(file: str, ours: str) -> dict[str, Rule]:
    """The names that all image towers here have."""
    return {
        f"{file}embeddings.patch_embedding.{{}}": f"{ours}.embed.proj.{{}}",
        f"{file}embeddings.position_embedding.weight": f"{ours}.embed.positions.table.weight",
        **block_rules(file, ours),
    }
