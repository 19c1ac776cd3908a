"""The frame that T5, UL2 and Switch share: an encoder and a decoder without biases, whose positions are one learned
number for each head and distance, and whose scores are not divided by sqrt(D). They differ in their FFN.

    x ─┬─ RMSNorm ─ attention(+ bias) ─(+)─┬─ RMSNorm ─ cross-attention ─(+)─┬─ RMSNorm ─ FFN ─(+)─▶
       └───────────────────────────────┘   └──────── decoder alone ──────┘   └───────────────┘
"""

from __future__ import annotations

from collections.abc import Callable

from vitral.families.common.assemble import encoder_decoder, pre_norm
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import Names, Rule
from vitral.nn import Attention, Bucketed, BucketedBothSides, Causal, Cross, Full, Kind, RMSNorm, Spec

_TABLE = "shared.weight"


def name_map(ffn: Callable[[str, str], dict[str, Rule]]) -> Names:
    """The name map; `ffn` gives the rules of a feed-forward mixer, from its place in the file and its place here."""
    rules: dict[str, Rule] = {_TABLE: "embed.tokens.weight", "lm_head.weight": "head.proj.weight"}
    for theirs, ours, last in (("encoder", "encoder.stack", 1), ("decoder", "stack", 2)):
        layer, block = f"{theirs}.block.{{}}.layer", f"{ours}.blocks.{{}}"
        bias = f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rules |= {bias: f"{ours}.shared.0.table.weight", f"{theirs}.final_layer_norm.weight": f"{ours}.norm.weight"}
        rules |= {f"{layer}.0.SelfAttention.{{}}.weight": f"{block}.attn.mixer.{{}}.weight"}
        rules |= {f"{layer}.1.EncDecAttention.{{}}.weight": f"{block}.cross.mixer.{{}}.weight"}
        places = {0: "attn", 1: "cross", last: "ffn"}  # an encoder's layer 1 is its FFN
        rules |= {f"{layer}.{i}.layer_norm.weight": f"{block}.{place}.pre.weight" for i, place in places.items()}
        rules |= ffn(f"{layer}.{last}", f"{block}.ffn.mixer")
    return Names(
        rules=rules,
        ignore=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),  # in old files, never used
        tied=dict.fromkeys(("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), _TABLE),
    )


def frame(c: Config, ffn: Callable[[Kind, int], Spec], *, tied: bool, scaled: bool) -> Spec:
    """The model of a config.

    Args:
        ffn: makes the feed-forward mixer of the layer at a depth of the side whose attention has that mask kind.
        tied: whether the head is the token table. scaled: whether logits are scaled by d^-0.5.
    """
    d, n_heads = c.size("d_model"), c.size("num_heads")
    norm = Spec(RMSNorm, d=d, eps=c.number("layer_norm_epsilon", 1e-6))
    shape = {"d_model": d, "n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": c.size("d_kv"), "scale": 1.0}
    buckets = {
        "n_heads": n_heads,
        "n_buckets": c.size("relative_attention_num_buckets", 32),
        "max_distance": c.size("relative_attention_max_distance", 128),
    }
    n_encoder = c.size("num_layers", most=DEEPEST)
    n_decoder = c.size("num_decoder_layers", n_encoder, most=DEEPEST)

    def side(n: int, kind: Kind, position: Spec, reads: bool) -> list[Spec]:
        def block(depth: int) -> Spec:
            attention = Spec(Attention, **shape, kind=kind, position=position)
            return pre_norm(norm, attention, ffn(kind, depth), cross=Spec(Cross, **shape) if reads else None)

        return [block(depth) for depth in range(n)]

    sides = (
        side(n_encoder, Full(), Spec(BucketedBothSides, **buckets), reads=False),
        side(n_decoder, Causal(), Spec(Bucketed, **buckets), reads=True),
    )
    context = c.size("n_positions", 512, most=LONGEST)
    scale = d**-0.5 if scaled else None
    return encoder_decoder(c, d=d, sides=sides, context=context, norm=norm, tied=tied, scale=scale)
