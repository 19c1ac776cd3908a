"""BART (Lewis et al. 2019, arXiv:1910.13461): the Transformer of 2017 with GELU, learned positions and a norm after the
embedding, trained to mend spoilt text. See `common/seq2seq.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families.common.assemble import Card, only_classes
from vitral.families.common.config import LONGEST, Config
from vitral.families.common.seq2seq import frame, name_map
from vitral.families.common.seq2seq import preset as sizes
from vitral.nn import Embed, LayerNorm, Learned, Spec

CARD = Card(
    title="BART",
    year=2019,
    org="Facebook AI",
    kind="encoder-decoder",
    source="arXiv:1910.13461 §2, §4",
    idea="spoil a text in any way and learn to write it whole again: an encoder that reads, a decoder that writes",
    licence="Apache-2.0",
    traps=(
        "position p is read from row p + 2 of its table, which has two rows more than the context",
        "a norm follows the embedding on both sides, and none follows the last block",
        "the decoder starts from </s>",
    ),
    recipe="text infilling (30 % of tokens, spans of Poisson(3)) and shuffled sentences; 500k steps of 8000 texts",
)
MODEL_TYPE = "bart"
DEFAULTS = {"vocab_size": 50265, "max_position_embeddings": 1024, "activation_function": "gelu"}
NAMES = name_map(
    prefix="model.",
    ignore=("encoder.version", "decoder.version"),
    also={
        rule: f"{ours}.{part}.{{}}"
        for side, ours in (("encoder", "encoder.embed"), ("decoder", "embed"))
        for rule, part in (
            (f"{side}.embed_positions.{{}}", "positions.table"),
            (f"{side}.layernorm_embedding.{{}}", "norm"),
        )
    },
)
OFFSET = 2
"""Rows before that of position 0: they belonged to ids that no position has."""


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a BART `config.json` describes."""
    c = Config(config, "bart", DEFAULTS)
    only_classes(c, "BartForConditionalGeneration", "BartModel")
    c.only("tie_word_embeddings", True)
    c.only("static_position_embeddings", False)
    c.only("normalize_embedding", True)
    c.only("extra_pos_embeddings", OFFSET)
    d, context = c.size("d_model"), c.size("max_position_embeddings", most=LONGEST)
    scale = d**0.5 if c.flag("scale_embedding") else None

    def embed(table: Spec) -> Spec:
        positions = Spec(Learned, n=context + OFFSET, d=d, offset=OFFSET)
        return Spec(Embed, tokens=table, positions=positions, scale=scale, norm=Spec(LayerNorm, d=d, eps=1e-5))

    return frame(c, embed, shifted=True)


def preset(layers: int, d: int, n_heads: int) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["BartForConditionalGeneration"],
        **sizes(layers, d, 4 * d, n_heads),
        **DEFAULTS,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    }


PRESETS = {"base": preset(6, 768, 12), "large": preset(12, 1024, 16)}
