"""Qwen1.5: the shape that Qwen2 kept, at eight sizes, and a mixture of experts grown out of the 1.8B.

Not a new architecture to a reader: a config says `qwen2` or `qwen2_moe`, and the file of that name reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.errors import CheckpointError, did_you_mean
from vitral.families import qwen2, qwen2_moe
from vitral.families.common.assemble import Card
from vitral.nn import Spec

CARD = Card(
    title="Qwen1.5",
    year=2024,
    org="Alibaba",
    kind="decoder (+ MoE)",
    source="Qwen1.5 config.json files; Qwen team 2024, Introducing Qwen1.5; Qwen1.5-MoE",
    idea="eight sizes from 0.5B to 110B; sixty narrow experts and a shared one do a 7B's work at 2.7B a token",
    licence="Tongyi Qianwen License",
    traps=(
        "the weights of the chosen experts are not scaled to sum to 1",
        "the shared expert is weighed by a sigmoid gate of its own",
        "biases on q, k, v and on nothing else",
        "0.5B is tied, the others are not",
    ),
    recipe="not published; the chat models by SFT, then DPO and PPO",
    licences=dict.fromkeys(("0.5b", "1.8b", "4b"), "Tongyi Qianwen Research License"),
)
BODIES = {"qwen2": qwen2, "qwen2_moe": qwen2_moe}
DEFAULTS = qwen2.DEFAULTS
NAMES = qwen2.NAMES


def spec(config: Mapping[str, Any]) -> Spec:
    """The model that a config of one of the two kinds describes."""
    kind = config.get("model_type")
    if kind not in BODIES:
        raise CheckpointError(f"config.json: model_type is {kind!r:.60}", did_you_mean(str(kind), BODIES))
    made: Spec = BODIES[kind].spec(config)
    return made


def preset(layers: int, d: int, n_heads: int, d_ff: int, n_kv_heads: int | None = None, **other: Any) -> dict[str, Any]:
    """A config.json of a dense model by its published numbers."""
    mine = {"tie_word_embeddings": False, **other}
    return qwen2.preset(layers, d, n_heads, n_kv_heads or n_heads, d_ff, **mine)


_LARGE = {"vocab_size": 152064}
_EXPERTS = {
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
}
PRESETS = {
    "0.5b": preset(24, 1024, 16, 2816, tie_word_embeddings=True),
    "1.8b": preset(24, 2048, 16, 5504),
    "4b": preset(40, 2560, 20, 6912),
    "7b": preset(32, 4096, 32, 11008),
    "14b": preset(40, 5120, 40, 13696, **_LARGE),
    "32b": preset(64, 5120, 40, 27392, n_kv_heads=8, **_LARGE),
    "72b": preset(80, 8192, 64, 24576, **_LARGE),
    "110b": preset(80, 8192, 64, 49152, n_kv_heads=8, **_LARGE),
    "moe-a2.7b": qwen2_moe.preset(24, 2048, 16, 16, 5632, **_EXPERTS),
}
