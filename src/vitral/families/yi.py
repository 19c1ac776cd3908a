"""Yi (arXiv:2403.04652): the Llama block with grouped queries at both sizes, and a slow rotation for long texts."""

from __future__ import annotations

from typing import Any

from vitral.families.common.assemble import Card
from vitral.families.llama1 import DEFAULTS, MODEL_TYPE, NAMES, spec
from vitral.families.llama1 import preset as llama1

__all__ = ["CARD", "DEFAULTS", "MODEL_TYPE", "NAMES", "PRESETS", "spec"]

CARD = Card(
    title="Yi",
    year=2023,
    org="01.AI",
    kind="decoder",
    source="arXiv:2403.04652",
    idea="grouped queries even at 6B; 3.1T tokens chosen for quality, fewer than 10,000 polished dialogues to tune on",
    licence="Apache-2.0",
    traps=(
        "even the 6B groups its queries: 4 key-value heads",
        "the rotary base is 5,000,000",
    ),
    recipe="3.1T tokens, learning rates 3e-4 (6B) and 1.5e-4 (34B); SFT on fewer than 10k polished dialogues",
)


def preset(layers: int, d: int, n_heads: int, n_kv_heads: int, d_ff: int) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    mine = {"rms_norm_eps": 1e-5, "rope_theta": 5000000.0, "max_position_embeddings": 4096, "vocab_size": 64000}
    return llama1(layers, d, n_heads, d_ff, num_key_value_heads=n_kv_heads, **mine)


PRESETS = {"6b": preset(32, 4096, 32, 4, 11008), "34b": preset(60, 7168, 56, 8, 20480)}
