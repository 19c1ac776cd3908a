"""T5 and T5 v1.1 (Raffel et al. 2019, arXiv:1910.10683): any task as text to text. See `common/text_to_text.py`.

v1.0 ties its head to the token table and scales the logits by d^-0.5; v1.1 does neither, and gates its FFN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vitral.families.common.assemble import Card, only_classes
from vitral.families.common.config import Config
from vitral.families.common.rules import Names
from vitral.families.common.text_to_text import frame, name_map
from vitral.nn import Gated, Plain, Spec

CARD = Card(
    title="T5",
    year=2019,
    org="Google",
    kind="encoder-decoder",
    source="arXiv:1910.10683 §2, §3",
    idea="every task as text in, text out; positions as a learned bias by distance, shared by all layers",
    licence="Apache-2.0",
    traps=(
        "scores are not divided by sqrt(D): that is folded into the initialisation",
        "the bias table of a side lies in its layer 0 and belongs to all its layers; the decoder's looks back only",
        "v1.0 scales the logits of its tied head by d^-0.5, v1.1 does neither",
        "gated-gelu means the tanh form",
    ),
    recipe="span corruption (15 %, mean span 3) on C4, up to 2^20 steps of 1T tokens in all, AdaFactor",
)
MODEL_TYPE = "t5"
DEFAULTS = {"feed_forward_proj": "relu", "vocab_size": 32128}
GATED = {"gated-gelu": "gelu_new", "gated-silu": "silu", "gated-relu": "relu"}


def _ffn(**parts: str) -> Names:
    return name_map(
        lambda theirs, ours: {
            f"{theirs}.DenseReluDense.{file}.weight": f"{ours}.{part}.weight" for file, part in parts.items()
        }
    )


NAMES = _ffn(wi="up", wo="down")
GATED_NAMES = _ffn(wi_0="gate", wi_1="up", wo="down")


def names(config: Mapping[str, Any]) -> Names:
    """The name map of the files that this config describes."""
    return GATED_NAMES if config.get("feed_forward_proj") in GATED else NAMES


def complete(config: Mapping[str, Any], tensors: Iterable[str]) -> dict[str, Any]:
    """The config with what newer files leave to their tensors: whether unscaled logits have a head of their own."""
    return {**config, "_vitral_own_head": config.get("scale_decoder_outputs") is False and "lm_head.weight" in tensors}


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a T5 `config.json` describes."""
    c = Config(config, "t5", DEFAULTS)
    only_classes(c, "T5ForConditionalGeneration", "T5WithLMHeadModel", "T5Model")
    d, d_ff = c.size("d_model"), c.size("d_ff")
    act, gated = c.activation("feed_forward_proj", GATED), c.get("feed_forward_proj") in GATED
    c.only("is_gated_act", gated)
    c.get("dense_act_fn", None)  # says again what feed_forward_proj says
    tied = c.flag("tie_word_embeddings", True)
    scaled = c.flag("scale_decoder_outputs", tied)
    mixer = Spec(Gated if gated else Plain, d_model=d, d_ff=d_ff, act=act, bias=False)
    tied = tied and not config.get("_vitral_own_head", False)
    return frame(c, lambda kind, depth: mixer.replace(act=act.replace()), tied=tied, scaled=scaled)


def preset(layers: int, d: int, d_ff: int, n_heads: int, head_dim: int, **other: Any) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "num_layers": layers,
        "d_model": d,
        "d_ff": d_ff,
        "num_heads": n_heads,
        "d_kv": head_dim,
        "feed_forward_proj": "relu",
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "n_positions": 512,
        "vocab_size": 32128,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        **other,
    }


V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
PRESETS = {
    "small": preset(6, 512, 2048, 8, 64),
    "base": preset(12, 768, 3072, 12, 64),
    "large": preset(24, 1024, 4096, 16, 64),
    "3b": preset(24, 1024, 16384, 32, 128),
    "11b": preset(24, 1024, 65536, 128, 128),
    "v1_1-small": preset(8, 512, 1024, 6, 64, **V1_1),
    "v1_1-base": preset(12, 768, 2048, 12, 64, **V1_1),
    "v1_1-large": preset(24, 1024, 2816, 16, 64, **V1_1),
    "v1_1-xl": preset(24, 2048, 5120, 32, 64, **V1_1),
    "v1_1-xxl": preset(24, 4096, 10240, 64, 64, **V1_1),
}
