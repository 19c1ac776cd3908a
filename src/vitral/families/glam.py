"""GLaM (Du et al. 2021, arXiv:2112.06905): in every other layer 64 experts, of which a token meets two.

Experts are plain GELU networks of two matrices; the dense layers between them are gated (gating the experts too would
make 1.2T into 1.7T). The two are weighed by their scores scaled to sum to 1 (arXiv:2006.16668). Each layer has its own
relative bias. Not published, and taken here: experts in the second layer of each pair, no capacity (nothing is dropped,
in training either), a bias by bucket as in T5 (a W_r would not close with the sizes), no biases, the exact GELU, a tied
head. No file was published: files use our names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families import lamda
from vitral.families.common.assemble import Card, decoder, pre_norm, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import OWN
from vitral.nn import Attention, Gated, MoE, PlainExperts, Renormalised, RMSNorm, Spec

CARD = Card(
    title="GLaM",
    year=2021,
    org="Google",
    kind="decoder",
    source="arXiv:2112.06905 Table 4, §4, §5",
    idea="seven times GPT-3's parameters for a third of the energy of its training: a token meets 8% of them",
    licence="closed",
    traps=(
        "only dense layers are gated, experts are not",
        "printed sizes leave out the embedding, except the active 96.6B",
        "1.7B/32E is printed as 20B, and 32 experts make 13.9B",
    ),
    unpublished=("weights", "capacity of an expert", "tying (inferred)", "form of the relative bias"),
    stand_in="mixtral/8x7b",
    recipe="1.6T tokens, Adafactor, 0.01 for 10k steps then inverse square root, auxiliary loss 0.01, no dropout",
)
MODEL_TYPE = "glam"
DEFAULTS = lamda.DEFAULTS | {"max_position_embeddings": 1024, "num_experts_per_tok": 2, "moe_every": 2}
NAMES = OWN


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a GLaM config describes."""
    c = Config(config, "glam", DEFAULTS)
    d, d_ff = c.size("hidden_size"), c.size("intermediate_size")
    shape = sizes(c, d)
    context = c.size("max_position_embeddings", most=LONGEST)
    norm = Spec(RMSNorm, d=d, eps=c.number("rms_norm_eps"))
    act = c.activation("hidden_act")
    n, top_k, every = c.size("num_experts", 0, least=0), c.size("num_experts_per_tok"), c.size("moe_every")

    def ffn(depth: int) -> Spec:
        if not n or (depth + 1) % every:
            return Spec(Gated, d_model=d, d_ff=d_ff, act=act)
        router = Spec(Renormalised, d_model=d, n_experts=n, top_k=top_k)
        return Spec(MoE, router=router, experts=Spec(PlainExperts, n=n, d_model=d, d_ff=d_ff, act=act))

    def block(depth: int) -> Spec:
        attention = Spec(Attention, **shape, position=lamda.buckets(c, shape["n_heads"]))  # a table of its own
        return pre_norm(norm, attention, ffn(depth))

    blocks = [block(depth) for depth in range(c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context)


def preset(layers: int, d: int, n_heads: int, head_dim: int, d_ff: int, experts: int = 0) -> dict[str, Any]:
    """A config of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "num_hidden_layers": layers,
        "hidden_size": d,
        "num_attention_heads": n_heads,
        "head_dim": head_dim,
        "intermediate_size": d_ff,
        "num_experts": experts,
        "num_experts_per_tok": 2,
        "moe_every": 2,
        "max_position_embeddings": 1024,
        "vocab_size": 256000,
        "tie_word_embeddings": True,
    }


PRESETS = {
    "0.1B": preset(12, 768, 12, 64, 3072),
    "0.1B/64E": preset(12, 768, 12, 64, 3072, 64),
    "1.7B": preset(24, 2048, 16, 128, 8192),
    **{f"1.7B/{n}E": preset(24, 2048, 16, 128, 8192, n) for n in (32, 64, 128, 256)},
    "8B": preset(32, 4096, 32, 128, 16384),
    "8B/64E": preset(32, 4096, 32, 128, 16384, 64),
    "137B": preset(64, 8192, 128, 128, 65536),
    "64B/64E": preset(64, 8192, 128, 128, 32768, 64),
}
