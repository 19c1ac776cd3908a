"""Llama 2 (Touvron et al. 2023, arXiv:2307.09288): LLaMA with twice the context, and grouped queries in the largest."""

from __future__ import annotations

from typing import Any

from vitral.families.common.assemble import Card
from vitral.families.llama1 import DEFAULTS, MODEL_TYPE, NAMES, spec
from vitral.families.llama1 import preset as llama1

__all__ = ["CARD", "DEFAULTS", "MODEL_TYPE", "NAMES", "PRESETS", "spec"]

CARD = Card(
    title="Llama 2",
    year=2023,
    org="Meta",
    kind="decoder",
    source="arXiv:2307.09288",
    idea="grouped-query attention at 70B; open chat models tuned by RLHF",
    licence="Llama 2 Community License",
    traps=(
        "only the 70B (and an unreleased 34B) groups its queries",
        "the 70B's d_ff of 28672 follows no rule of the smaller ones: 1.3 × in multiples of 4096",
    ),
    recipe="2.0T tokens, batch 4M; chat: 27,540 demonstrations, rejection sampling and PPO with two reward models",
)


def preset(layers: int, d: int, n_heads: int, d_ff: int, **other: Any) -> dict[str, Any]:
    return llama1(layers, d, n_heads, d_ff, rms_norm_eps=1e-5, max_position_embeddings=4096, **other)


PRESETS = {
    "7b": preset(32, 4096, 32, 11008),
    "13b": preset(40, 5120, 40, 13824),
    "70b": preset(80, 8192, 64, 28672, num_key_value_heads=8),
}
