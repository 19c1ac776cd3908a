"""Llama 3, 3.1 and 3.2 (arXiv:2407.21783): grouped queries everywhere, 128k vocabulary, rotary scaled by wavelength."""

from __future__ import annotations

from typing import Any

from vitral.families.common.assemble import Card
from vitral.families.llama1 import DEFAULTS, MODEL_TYPE, NAMES, spec
from vitral.families.llama1 import preset as llama1

__all__ = ["CARD", "DEFAULTS", "MODEL_TYPE", "NAMES", "PRESETS", "spec"]

CARD = Card(
    title="Llama 3 / 3.1 / 3.2",
    year=2024,
    org="Meta",
    kind="decoder",
    source="arXiv:2407.21783",
    idea="15T tokens on a plain dense decoder; context stretched to 128k by scaling rotary frequencies by wavelength",
    licence="Llama 3 Community License (3.1 and 3.2: their own)",
)


def preset(layers: int, d: int, n_heads: int, d_ff: int, factor: float | None = None, **other: Any) -> dict[str, Any]:
    stretched = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return llama1(
        layers,
        d,
        n_heads,
        d_ff,
        num_key_value_heads=8,
        vocab_size=128256,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=stretched if factor else None,
        max_position_embeddings=131072 if factor else 8192,
        **other,
    )


PRESETS = {
    "3-8b": preset(32, 4096, 32, 14336),
    "3-70b": preset(80, 8192, 64, 28672),
    "3.1-8b": preset(32, 4096, 32, 14336, factor=8.0),
    "3.1-70b": preset(80, 8192, 64, 28672, factor=8.0),
    "3.1-405b": preset(126, 16384, 128, 53248, factor=8.0),
    "3.2-1b": preset(16, 2048, 32, 8192, factor=32.0, head_dim=64, tie_word_embeddings=True),
    "3.2-3b": preset(28, 3072, 24, 8192, factor=32.0, head_dim=128, tie_word_embeddings=True),
}
