"""Gopher (Rae et al. 2021, arXiv:2112.11446): GPT-2 with RMSNorm and with relative positions by content.

Each layer has a matrix W_r for distances (arXiv:1901.02860): only with it, and with a tied head, do all six sizes of
Table 1 close. Not stated, and taken here: GELU in its tanh form, no biases, eps 1e-6, u and v of each layer its own.
No file was published: files use our names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families.common.assemble import Card, decoder, pre_norm, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import OWN
from vitral.nn import Attention, Plain, Relative, RMSNorm, Spec

CARD = Card(
    title="Gopher",
    year=2021,
    org="DeepMind",
    kind="decoder",
    source="arXiv:2112.11446 Table 1, §3",
    idea="six sizes over 152 tasks: what scale brings (reading, facts) and what it does not (logic, mathematics)",
    licence="closed",
    traps=(
        "without W_r the 280B model counts 258B",
        "positions are relative in every layer: there is no table of positions",
    ),
    unpublished=("weights", "activation", "biases", "tying (inferred from the sizes)"),
    stand_in="llama1/7b",
    recipe="300B tokens, Adam, 1500 steps of warm-up, cosine to a tenth, clip 1 (0.25 for 7.1B and 280B), bfloat16",
)
MODEL_TYPE = "gopher"
DEFAULTS = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
NAMES = OWN


def build(c: Config) -> Spec:
    """The model that the keys of this architecture describe."""
    d = c.size("hidden_size")
    shape = sizes(c, d)
    context = c.size("max_position_embeddings", most=LONGEST)
    norm = Spec(RMSNorm, d=d, eps=c.number("rms_norm_eps"))
    c.only("num_key_value_heads", shape["n_heads"])

    def block() -> Spec:
        distances = Spec(Relative, d_model=d, n_heads=shape["n_heads"], head_dim=shape["head_dim"])
        attention = Spec(Attention, **shape, position=distances)
        act = c.activation("hidden_act")
        return pre_norm(norm, attention, Spec(Plain, d_model=d, d_ff=c.size("intermediate_size"), act=act, bias=False))

    blocks = [block() for _ in range(c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Gopher config describes."""
    return build(Config(config, "gopher", DEFAULTS))


def preset(layers: int, d: int, n_heads: int, model_type: str = MODEL_TYPE) -> dict[str, Any]:
    """A config of this architecture by its published numbers; head_dim is d / heads in every row."""
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": d,
        "num_attention_heads": n_heads,
        "intermediate_size": 4 * d,
        "max_position_embeddings": 2048,
        "vocab_size": 32000,
        "tie_word_embeddings": True,
    }


PRESETS = {
    "44m": preset(8, 512, 16),
    "117m": preset(12, 768, 12),
    "417m": preset(12, 1536, 12),
    "1.4b": preset(24, 2048, 16),
    "7.1b": preset(32, 4096, 32),
    "280b": preset(80, 16384, 128),
}
