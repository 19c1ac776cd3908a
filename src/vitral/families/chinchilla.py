"""Chinchilla (Hoffmann et al. 2022, arXiv:2203.15556): Gopher's architecture, a quarter of its size, four times its
tokens. The same assumptions hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families import gopher
from vitral.families.common.assemble import Card
from vitral.families.common.config import Config
from vitral.nn import Spec

CARD = Card(
    title="Chinchilla",
    year=2022,
    org="DeepMind",
    kind="decoder",
    source="arXiv:2203.15556 Table 4, Table A3",
    idea="compute-optimal training: parameters and tokens grow alike, about 20 tokens a parameter",
    licence="closed",
    traps=("the printed exponents 0.34 and 0.28 are rounded: with them the law allots 32B where it says 40B",),
    unpublished=("weights", "activation", "biases"),
    stand_in="llama1/7b",
    recipe="1.4T tokens, AdamW, 1e-4 with cosine to a tenth, batches of 1.5M, later 3M tokens",
)
MODEL_TYPE = "chinchilla"
DEFAULTS = gopher.DEFAULTS
NAMES = gopher.NAMES


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Chinchilla config describes."""
    return gopher.build(Config(config, "chinchilla", DEFAULTS))


PRESETS = {"70b": gopher.preset(80, 8192, 64, MODEL_TYPE)}
