"""Marian as published by OPUS-MT (Junczys-Dowmunt et al. 2018, Tiedemann & Thottingal 2020): the Transformer of 2017
with swish and a bias everywhere, one small model for each pair of languages. See `common/seq2seq.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families.common.assemble import Card, only_classes
from vitral.families.common.config import Config
from vitral.families.common.rules import Names
from vitral.families.common.seq2seq import EMBED, frame, name_map
from vitral.families.common.seq2seq import preset as sizes
from vitral.nn import Embed, Sinusoid, Spec

CARD = Card(
    title="Marian",
    year=2020,
    org="Helsinki-NLP",
    kind="encoder-decoder",
    source="config.json of Helsinki-NLP/opus-mt-en-de",
    idea="the translation model of 2017 made small and quick, and published for a thousand pairs of languages",
    licence="CC-BY-4.0",
    licences={"opus-mt-en-de": "CC-BY-4.0"},
    traps=(
        "sinusoids are laid out as halves, all sines first, not in pairs",
        "the decoder starts from the padding id, which must itself never be generated",
        "tokens are scaled by sqrt(d) only where scale_embedding says so",
        "the logits have a fixed shift, final_logits_bias",
    ),
)
MODEL_TYPE = "marian"
DEFAULTS = {"vocab_size": 58101, "max_position_embeddings": 1024, "activation_function": "gelu"}
_FILE: dict[str, Any] = {
    "prefix": "model.",
    "ignore": ("encoder.embed_positions.weight", "decoder.embed_positions.weight"),
}
NAMES = name_map(**_FILE)
TWO_TABLES = name_map(
    {"encoder.embed_tokens.weight": f"encoder.{EMBED}", "decoder.embed_tokens.weight": EMBED}, **_FILE
)


def names(config: Mapping[str, Any]) -> Names:
    """The name map of the files that this config describes."""
    return TWO_TABLES if config.get("share_encoder_decoder_embeddings") is False else NAMES


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Marian `config.json` describes."""
    c = Config(config, "marian", DEFAULTS)
    only_classes(c, "MarianMTModel", "MarianModel")
    target = None if c.flag("share_encoder_decoder_embeddings", True) else c.size("decoder_vocab_size")
    if target is None:
        c.only("decoder_vocab_size", c.size("vocab_size"))
    c.only("tie_word_embeddings", True)
    c.only("static_position_embeddings", True)
    c.only("normalize_embedding", False)
    d = c.size("d_model")
    scale = d**0.5 if c.flag("scale_embedding") else None

    def embed(table: Spec) -> Spec:
        return Spec(Embed, tokens=table, positions=Spec(Sinusoid, d=d, halves=True), scale=scale)

    return frame(c, embed, shifted=True, target=target)


PRESETS = {
    "opus-mt-en-de": {
        "model_type": MODEL_TYPE,
        "architectures": ["MarianMTModel"],
        **sizes(6, 512, 2048, 8),
        "activation_function": "swish",
        "scale_embedding": True,
        "max_position_embeddings": 512,
        "vocab_size": 58101,
        "decoder_start_token_id": 58100,
        "pad_token_id": 58100,
        "eos_token_id": 0,
        "bad_words_ids": [[58100]],
    }
}
