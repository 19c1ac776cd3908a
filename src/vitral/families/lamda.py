"""LaMDA (Thoppilan et al. 2022, arXiv:2201.08239): a decoder for dialogue with T5's relative bias and gated GELU.

The heads together are twice as wide as the model (128 × 128 at 8192), the feed-forward layer eight times. Printed for
137B only, and taken for the others too. Not published, and taken here as in T5 v1.1: RMSNorm before each sublayer and
at the end, no biases, 32 buckets up to 128; scores scaled by head_dim^-0.5, the exact GELU, a tied head, 2048 tokens.
No file was published: files use our names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families.common.assemble import Card, decoder, pre_norm, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import OWN
from vitral.nn import Attention, Bucketed, Gated, RMSNorm, Spec

CARD = Card(
    title="LaMDA",
    year=2022,
    org="Google",
    kind="decoder",
    source="arXiv:2201.08239 §3, §6, Table 27",
    idea="trained on dialogue, then tuned to be sensible, specific and safe, and to look facts up with tools",
    licence="closed",
    traps=(
        "heads × head_dim is twice the width",
        "printed sizes leave out the embedding",
        "the judge of quality is the same model, tuned to write ratings: not a separate network",
    ),
    facts=("16 candidates from top-k 40, ranked by 3·sensible + specific + interesting after a safety filter",),
    unpublished=("weights", "norms and their place", "biases", "tying", "context"),
    stand_in="llama2/7b",
    recipe="2.81T tokens of dialogue and web text, 256k tokens a batch",
)
MODEL_TYPE = "lamda"
DEFAULTS = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "tie_word_embeddings": True,
}
NAMES = OWN


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a LaMDA config describes."""
    c = Config(config, "lamda", DEFAULTS)
    d = c.size("hidden_size")
    shape = sizes(c, d)
    context = c.size("max_position_embeddings", most=LONGEST)
    norm = Spec(RMSNorm, d=d, eps=c.number("rms_norm_eps"))
    bias = buckets(c, shape["n_heads"])

    def block() -> Spec:
        attention = Spec(Attention, **shape, position=bias)
        ffn = Spec(Gated, d_model=d, d_ff=c.size("intermediate_size"), act=c.activation("hidden_act"))
        return pre_norm(norm, attention, ffn)

    blocks = [block() for _ in range(c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context)


def buckets(c: Config, n_heads: int) -> Spec:
    """The bias by bucket of distance that a config describes."""
    number, longest = c.size("relative_attention_num_buckets"), c.size("relative_attention_max_distance")
    return Spec(Bucketed, n_heads=n_heads, n_buckets=number, max_distance=longest)


def preset(layers: int, d: int, n_heads: int) -> dict[str, Any]:
    """A config of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "num_hidden_layers": layers,
        "hidden_size": d,
        "num_attention_heads": n_heads,
        "head_dim": 128,
        "intermediate_size": 8 * d,
        "max_position_embeddings": 2048,
        "vocab_size": 32000,
        "tie_word_embeddings": True,
    }


PRESETS = {"2b": preset(10, 2560, 40), "8b": preset(16, 4096, 64), "137b": preset(64, 8192, 128)}
