"""MiniLM sentence embedders (arXiv:2002.10957): BERT's body, small, tuned so that a mean over tokens says what a text
means.
"""

from __future__ import annotations

from vitral.families.bert import DEFAULTS, MODEL_TYPE, NAMES, complete, preset, spec
from vitral.families.common.assemble import Card

__all__ = ["CARD", "DEFAULTS", "MODEL_TYPE", "NAMES", "PRESETS", "complete", "spec"]

CARD = Card(
    title="MiniLM sentence embedder",
    year=2021,
    org="Microsoft / sentence-transformers",
    kind="encoder",
    source="arXiv:2002.10957",
    idea="a distilled encoder trained by in-batch contrast on a billion pairs: cosine is meaning",
    licence="Apache-2.0",
    traps=(
        "the mean over tokens must leave padding out",
        "the pooler in the file is not used",
        "texts are cut at 256 tokens (L6) or 128 (L12), though positions go to 512",
    ),
    recipe="in-batch contrast on 1.17B pairs, batch 1024, AdamW 2e-5, cosine × 20, 100k steps at length 128",
)
PRESETS = {"all-MiniLM-L6-v2": preset(6, 384, 12), "all-MiniLM-L12-v2": preset(12, 384, 12)}
