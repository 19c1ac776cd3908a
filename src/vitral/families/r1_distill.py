"""DeepSeek-R1-Distill (arXiv:2501.12948 §2.4): Qwen2 and Llama 3 bodies, tuned on the long answers of a larger model.

Not a new architecture: a config says `qwen2` or `llama`, and the family of that name reads it. Two traps lie in the
numbers: the small ones keep the rotary base 10,000 of their mathematical bases, and the 1.5B is not tied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.errors import CheckpointError, did_you_mean
from vitral.families import llama3, qwen2
from vitral.families.common.assemble import Card
from vitral.nn import Spec

CARD = Card(
    title="DeepSeek-R1-Distill",
    year=2025,
    org="DeepSeek",
    kind="decoder",
    source="arXiv:2501.12948",
    idea="800,000 written-out chains of thought teach small dense models to reason, with no reinforcement learning",
    licence="MIT",
    licences={"llama-8b": "MIT; Llama 3.1 Community License", "llama-70b": "MIT; Llama 3.3 Community License"},
    traps=(
        "1.5B and 7B keep the rotary base of their mathematics models, 10,000",
        "greedy decoding loops: sample at .5 to .7",
    ),
    recipe="SFT alone on 800k samples, 2 to 3 epochs, length 32,768; evaluated at temperature .6, top-p .95",
)

BODIES = {"qwen2": qwen2, "llama": llama3}
DEFAULTS: dict[str, Any] = {}
NAMES = qwen2.NAMES


def spec(config: Mapping[str, Any]) -> Spec:
    """The model that a config of one of the bodies describes."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in BODIES:
        raise CheckpointError(f"config.json: model_type is {kind!r:.60}", did_you_mean(str(kind), BODIES))
    made: Spec = BODIES[kind].spec(config)
    return made


def preset(layers: int, d: int, n_heads: int, n_kv_heads: int, d_ff: int, **other: Any) -> dict[str, Any]:
    """A config.json of the Qwen2 bodies by its published numbers."""
    mine = {"vocab_size": 152064, "max_position_embeddings": 131072, "tie_word_embeddings": False}
    return qwen2.preset(layers, d, n_heads, n_kv_heads, d_ff, **{**mine, **other})


PRESETS = {
    "qwen-1.5b": preset(28, 1536, 12, 2, 8960, rope_theta=10000.0, vocab_size=151936),
    "qwen-7b": preset(28, 3584, 28, 4, 18944, rope_theta=10000.0),
    "qwen-14b": preset(48, 5120, 40, 8, 13824, rms_norm_eps=1e-5),
    "qwen-32b": preset(64, 5120, 40, 8, 27648, rms_norm_eps=1e-5),
    "llama-8b": llama3.PRESETS["3.1-8b"],
    "llama-70b": llama3.PRESETS["3.1-70b"],
}
