"""The frame that the Transformer of 2017, BART and Marian share: an encoder and a decoder with a norm after each
residual addition, and absolute positions at the bottom. They differ in those positions.

    x ─┬─ attention ─(+)─ LayerNorm ─┬─ cross-attention ─(+)─ LayerNorm ─┬─ FFN ─(+)─ LayerNorm ─▶
       └─────────────┘               └────────── decoder alone ──────────┘
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from vitral.families.common.assemble import encoder_decoder, post_norm, share
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import Leading, Names, Rule
from vitral.nn import Attention, Causal, Cross, Full, LayerNorm, Plain, Spec

EMBED = "embed.tokens.weight"


def name_map(
    tables: Mapping[str, str] = MappingProxyType({"shared.weight": EMBED}),
    *,
    prefix: str = "",
    ignore: tuple[str, ...] = (),
    also: Mapping[str, Rule] = MappingProxyType({}),
) -> Names:
    """The name map.

    Args:
        tables: the rules of the token tables.
        also: the rules that not all of the families have.
    """
    rules: dict[str, Rule] = {**tables, "lm_head.weight": "head.proj.weight"}
    for theirs, ours in (("encoder", "encoder.stack"), ("decoder", "stack")):
        layer, block = f"{theirs}.layers.{{}}", f"{ours}.blocks.{{}}"
        for attention, place in (("self_attn", "attn"), ("encoder_attn", "cross")):
            for proj, part in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("out_proj", "o")):
                rules[f"{layer}.{attention}.{proj}.{{}}"] = f"{block}.{place}.mixer.{part}.{{}}"
            rules[f"{layer}.{attention}_layer_norm.{{}}"] = f"{block}.{place}.after.{{}}"
        rules[f"{layer}.fc1.{{}}"] = f"{block}.ffn.mixer.up.{{}}"
        rules[f"{layer}.fc2.{{}}"] = f"{block}.ffn.mixer.down.{{}}"
        rules[f"{layer}.final_layer_norm.{{}}"] = f"{block}.ffn.after.{{}}"
    return Names(
        prefix=prefix,
        bare=("lm_head.{}", "final_logits_bias"),
        rules={**rules, "final_logits_bias": Leading("head.shift.by"), **also},
        ignore=ignore,
        tied=dict.fromkeys(
            ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
            next(file for file, table in tables.items() if table == EMBED),
        ),
    )


def frame(c: Config, embed: Callable[[Spec], Spec], *, eps: float = 1e-5, bias: bool = True, **options: Any) -> Spec:
    """The model of a config.

    Args:
        embed: makes the embedding of one side around the token table.
        eps: of the norms.
        bias: of the attention's projections.
        options: of `encoder_decoder`.
    """
    d = c.size("d_model")

    def side(name: str, reads: bool) -> list[Spec]:
        n_heads, d_ff = c.size(f"{name}_attention_heads"), c.size(f"{name}_ffn_dim")
        head_dim = share("d_model", d, f"{name}_attention_heads", n_heads)
        shape = {"d_model": d, "n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": head_dim}
        shape |= {"bias": bias, "out_bias": bias}

        def block() -> Spec:
            attention = Spec(Attention, **shape, kind=Causal() if reads else Full())
            ffn = Spec(Plain, d_model=d, d_ff=d_ff, act=c.activation("activation_function"))
            return post_norm(
                Spec(LayerNorm, d=d, eps=eps), attention, ffn, cross=Spec(Cross, **shape) if reads else None
            )

        return [block() for _ in range(c.size(f"{name}_layers", most=DEEPEST))]

    sides = side("encoder", reads=False), side("decoder", reads=True)
    c.only("num_hidden_layers", len(sides[0]))
    for key in ("normalize_before", "add_final_layer_norm", "add_bias_logits"):  # what older files say beside it
        c.only(key, False)
    context = c.size("max_position_embeddings", most=LONGEST)
    return encoder_decoder(c, d=d, sides=sides, context=context, embed=embed, **options)


def preset(layers: int, d: int, d_ff: int, n_heads: int, **other: Any) -> dict[str, Any]:
    """A config.json by the numbers that both sides have in common."""
    sizes = {"layers": layers, "attention_heads": n_heads, "ffn_dim": d_ff}
    sides = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in sizes.items()}
    return {"is_encoder_decoder": True, "d_model": d, **sides, "tie_word_embeddings": True, **other}
