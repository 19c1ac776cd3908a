"""Qwen2 and Qwen2.5 (arXiv:2407.10671, arXiv:2412.15115): the Llama block with biases on q, k and v alone.

Files carry a sliding window that is off unless `use_sliding_window` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.errors import CheckpointError
from vitral.families import llama1
from vitral.families.common.assemble import Card, decoder, pre_norm, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.nn import Attention, Causal, Gated, Kind, RMSNorm, Spec, Window

CARD = Card(
    title="Qwen2 / Qwen2.5",
    year=2024,
    org="Alibaba",
    kind="decoder",
    source="arXiv:2407.10671, arXiv:2412.15115",
    idea="biases on q, k, v; 152k multilingual vocabulary; seven to eighteen trillion tokens",
    licence="Apache-2.0",
    licences={"2.5-3b": "Qwen Research License", "72b": "Qwen License"},
    traps=(
        "files carry a sliding window, and use_sliding_window turns it off",
        "biases on q, k and v, none on o; vocabulary rows are padded differently by size",
    ),
    recipe="7T (2; 0.5B: 12T) or 18T tokens (2.5); SFT on more than 1M samples, DPO, then GRPO (2.5)",
)
MODEL_TYPE = "qwen2"
DEFAULTS = {"max_position_embeddings": 32768, "rms_norm_eps": 1e-6}
NAMES = llama1.NAMES
LAYER_TYPES = ("full_attention", "sliding_attention")


def kinds(c: Config, layers: int) -> list[Kind]:
    """The mask kind of each layer: from `layer_types`, or from the older window keys."""
    size = c.get("sliding_window", None)  # read also where it is off: published files carry it
    first = c.size("max_window_layers", 28, least=0) if c.flag("use_sliding_window") and size is not None else layers
    c.get("max_window_layers", None)
    return named_kinds(c, layers, ["full_attention"] * min(first, layers) + ["sliding_attention"] * (layers - first))


def named_kinds(c: Config, layers: int, otherwise: list[str]) -> list[Kind]:
    """The mask kind that `layer_types` names for each layer, or `otherwise` where the file does not say."""
    types = c.get("layer_types", otherwise)
    if not isinstance(types, list) or len(types) != layers or any(t not in LAYER_TYPES for t in types):
        raise CheckpointError(
            f"config.json: layer_types is {types!r:.80}",
            f"It must name {' or '.join(LAYER_TYPES)} for each of {layers} layers",
        )
    if "sliding_attention" not in types:
        return [Causal()] * layers
    size = c.size("sliding_window", most=LONGEST)
    return [Window(size) if kind == "sliding_attention" else Causal() for kind in types]


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Qwen2 `config.json` describes."""
    c = Config(config, "qwen2", DEFAULTS)
    d = c.size("hidden_size")
    shape = sizes(c, d)
    context = c.size("max_position_embeddings", most=LONGEST)
    eps = c.number("rms_norm_eps")
    c.only("use_mrope", False)  # positions in three axes, of the vision models; published text files say so
    rotary, context = c.rotary(shape["head_dim"], context)
    norm = Spec(RMSNorm, d=d, eps=eps)

    def block(kind: Kind) -> Spec:
        attention = Spec(Attention, **shape, kind=kind, position=rotary, bias=True)
        ffn = Spec(Gated, d_model=d, d_ff=c.size("intermediate_size"), act=c.activation("hidden_act"))
        return pre_norm(norm, attention, ffn)

    blocks = [block(kind) for kind in kinds(c, c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context)


def preset(layers: int, d: int, n_heads: int, n_kv_heads: int, d_ff: int, **other: Any) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["Qwen2ForCausalLM"],
        "num_hidden_layers": layers,
        "hidden_size": d,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "intermediate_size": d_ff,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 32768,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        **other,
    }


_LARGE = {"vocab_size": 152064, "max_position_embeddings": 131072, "tie_word_embeddings": False}
_EXPERTS = {  # read by qwen2_moe
    "model_type": "qwen2_moe",
    "architectures": ["Qwen2MoeForCausalLM"],
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2560,
    "shared_expert_intermediate_size": 20480,
    "norm_topk_prob": False,
    "tie_word_embeddings": False,
}
PRESETS = {
    "0.5b": preset(24, 896, 14, 2, 4864),
    "1.5b": preset(28, 1536, 12, 2, 8960),
    "2.5-3b": preset(36, 2048, 16, 2, 11008),
    "7b": preset(28, 3584, 28, 4, 18944, **_LARGE),
    "2.5-14b": preset(48, 5120, 40, 8, 13824, **_LARGE),
    "2.5-32b": preset(64, 5120, 40, 8, 27648, **_LARGE),
    "72b": preset(80, 8192, 64, 8, 29568, **_LARGE),
    "2-57b-a14b": preset(28, 3584, 28, 4, 18944, **_EXPERTS),
}
