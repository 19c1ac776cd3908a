"""The Transformer (Vaswani et al. 2017, arXiv:1706.03762): attention alone, no recurrence. See `common/seq2seq.py`.

No file of it was published in a form that has a name, so the `config.json` is this project's own; its keys are those of
its later kin. Attention has no biases (§3.2), the FFN has (eq. 2); one table embeds both languages and is the head
(§3.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.errors import CheckpointError
from vitral.families.common.assemble import Card
from vitral.families.common.config import Config
from vitral.families.common.seq2seq import frame, name_map
from vitral.families.common.seq2seq import preset as sizes
from vitral.nn import Concat, Embed, Sinusoid, Spec

CARD = Card(
    title="Transformer",
    year=2017,
    org="Google",
    kind="encoder-decoder",
    source="arXiv:1706.03762 §3, §5, Table 3",
    idea="a sequence read and written by attention alone: every position sees every other in one step",
    licence="unknown",
    traps=(
        "the paper lays sines and cosines out in pairs; most implementations put all sines first",
        "tokens are scaled by sqrt(d) before positions are added",
        "norms follow the addition, and none follows the last block",
        "attention has no biases in the paper",
    ),
    unpublished=("eps of the norms (1e-6 here, as in the authors' tensor2tensor)", "a longest text", "weights"),
    recipe="Adam (0.9, 0.98), warm-up of 4000 steps then 1/sqrt, label smoothing 0.1, 100k steps (base) or 300k (big)",
)
MODEL_TYPE = "transformer"
DEFAULTS = {
    "activation_function": "relu",
    "layer_norm_eps": 1e-6,
    "max_position_embeddings": 1024,
    "scale_embedding": True,
    "tie_word_embeddings": True,
}
NAMES = name_map()
LAYOUTS = {"pairs": False, "halves": True}


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a `config.json` with these keys describes.

    `sinusoid` is the layout of the positions: pairs (the paper's) or halves. With `position_width` they fill that many
    of the d_model numbers beside the token's vector instead of being added to it. `attention_bias` as in later kin.
    """
    c = Config(config, "transformer", DEFAULTS)
    c.only("sinusoid", *LAYOUTS)
    halves = LAYOUTS[c.get("sinusoid", "pairs")]
    d, beside = c.size("d_model"), c.size("position_width", 0, least=0)
    if beside and (beside >= d or c.flag("tie_word_embeddings")):
        raise CheckpointError(
            f"config.json: with 'position_width' {beside} a token's vector is not as wide as d_model {d}",
            "Keep it below d_model, and set tie_word_embeddings to false",
        )
    positions = Spec(Sinusoid, d=beside or d, halves=halves)
    scale = d**0.5 if c.flag("scale_embedding") else None

    def embed(table: Spec) -> Spec:
        join = Spec(Concat) if beside else None
        return Spec(Embed, tokens=table, positions=positions.replace(), scale=scale, join=join)

    eps, bias, tied = c.number("layer_norm_eps"), c.flag("attention_bias"), c.flag("tie_word_embeddings")
    return frame(c, embed, eps=eps, bias=bias, beside=beside, tied=tied)


def preset(d: int, d_ff: int, n_heads: int) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    named = {"model_type": MODEL_TYPE, "architectures": ["Transformer"]}
    return {**named, **sizes(6, d, d_ff, n_heads), "vocab_size": 37000, **DEFAULTS}


PRESETS = {"base": preset(512, 2048, 8), "big": preset(1024, 4096, 16)}
