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
    licence="Llama 3 Community License",
    licences={
        **dict.fromkeys(("3.1-8b", "3.1-70b", "3.1-405b"), "Llama 3.1 Community License"),
        **dict.fromkeys(("3.2-1b", "3.2-3b", "3.2-11b-vision", "3.2-90b-vision"), "Llama 3.2 Community License"),
    },
    traps=(
        "scaling keeps wavelengths under 2048 and divides those over 8192; between them it interpolates",
        "3.2 1B has heads of 64, all others of 128",
        "the vision models' cross-attention stands in layers of its own, without self-attention beside it",
        "their tower hands on what enters blocks 3, 7, 15, 23 and 30; transformers 5.24 takes what leaves them",
        "patches are padded to a multiple of 8 with vectors that are seen, and so are tiles that are not there",
    ),
    recipe="15.6T tokens; SFT, rejection sampling and DPO in rounds; 3.2 1B and 3B pruned and distilled",
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


def seeing(text: dict[str, Any], every: int) -> dict[str, Any]:
    """The config.json of a model whose every `every`-th layer, from the fourth on, looks at pictures."""
    layers = text["num_hidden_layers"]
    text |= {"model_type": "mllama_text_model", "cross_attention_layers": list(range(3, layers, every))}
    tower = {"model_type": "mllama_vision_model", "hidden_size": 1280, "num_hidden_layers": 32, "num_global_layers": 8}
    tower |= {"attention_heads": 16, "intermediate_size": 5120, "patch_size": 14, "image_size": 560, "max_num_tiles": 4}
    parts = {"text_config": text, "vision_config": tower}
    return {"model_type": "mllama", "architectures": ["MllamaForConditionalGeneration"], **parts}


PRESETS = {
    "3-8b": preset(32, 4096, 32, 14336),
    "3-70b": preset(80, 8192, 64, 28672),
    "3.1-8b": preset(32, 4096, 32, 14336, factor=8.0),
    "3.1-70b": preset(80, 8192, 64, 28672, factor=8.0),
    "3.1-405b": preset(126, 16384, 128, 53248, factor=8.0),
    "3.2-1b": preset(16, 2048, 32, 8192, factor=32.0, head_dim=64, tie_word_embeddings=True),
    "3.2-3b": preset(28, 3072, 24, 8192, factor=32.0, head_dim=128, tie_word_embeddings=True),
    "3.2-11b-vision": seeing(preset(40, 4096, 32, 14336, factor=8.0), every=5),
    "3.2-90b-vision": seeing(preset(100, 8192, 64, 28672, factor=8.0), every=5),
}
