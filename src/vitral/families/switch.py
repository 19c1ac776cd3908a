"""Switch Transformer (Fedus et al. 2021, arXiv:2101.03961): T5 with every other FFN a set of experts, of which each
token meets one, as long as that one has room. See `common/text_to_text.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families.common.assemble import Card, only_classes
from vitral.families.common.config import Config
from vitral.families.common.rules import Names, Rule, Stacked
from vitral.families.common.text_to_text import frame, name_map
from vitral.nn import Gated, GatedExperts, Kind, Limited, MoE, Plain, PlainExperts, Router, Spec

CARD = Card(
    title="Switch Transformer",
    year=2021,
    org="Google",
    kind="encoder-decoder",
    source="arXiv:2101.03961 §2, Table 9",
    idea="one expert a token: more parameters at the same cost, by a router and a capacity",
    licence="Apache-2.0",
    traps=(
        "the expert's answer is weighed by the router's probability, the only path of its gradient",
        "experts stand in the odd layers (1, 3, …)",
        "a full expert passes further tokens by; its capacity counts within one text, in the order of the text",
        "the router runs in float32 whatever the model's dtype",
    ),
    recipe="span corruption on C4; balance loss 0.01, router noise 0.01, initial weights scaled by 0.1",
)
MODEL_TYPE = "switch_transformers"
DEFAULTS = {"dense_act_fn": "relu", "vocab_size": 32128, "expert_capacity": 64, "tie_word_embeddings": True}
TRAINING = ("router_z_loss_coef", "router_aux_loss_coef", "router_jitter_noise", "add_router_probs")


def _ffn(**parts: str) -> Names:
    def rules(theirs: str, ours: str) -> dict[str, Rule]:
        found: dict[str, Rule] = {f"{theirs}.mlp.router.classifier.{{}}": f"{ours}.router.router.proj.{{}}"}
        for file, part in parts.items():
            found[f"{theirs}.mlp.{file}.weight"] = f"{ours}.{part}.weight"
            found[f"{theirs}.mlp.experts.expert_{{}}.{file}.weight"] = Stacked(f"{ours}.experts.{part}")
        return found

    return name_map(rules)


NAMES = _ffn(wi="up", wo="down")
GATED_NAMES = _ffn(wi_0="gate", wi_1="up", wo="down")


def names(config: Mapping[str, Any]) -> Names:
    """The name map of the files that this config describes."""
    return GATED_NAMES if config.get("is_gated_act") else NAMES


def _sparse_step(c: Config, side: str, layers: str) -> int:
    """Every how many layers of a side one has experts: 2 means layers 1, 3, …"""
    n, sparse = c.size(layers, c.get("num_layers")), c.size(f"num_sparse_{side}_layers", 3, least=0)
    return c.size(f"{side}_sparse_step", n // sparse if sparse else n)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Switch `config.json` describes."""
    c = Config(config, "switch", DEFAULTS)
    only_classes(c, "SwitchTransformersForConditionalGeneration", "SwitchTransformersModel")
    d, d_ff, n = c.size("d_model"), c.size("d_ff"), c.size("num_experts")
    act, capacity, bias = c.activation("dense_act_fn"), c.size("expert_capacity"), c.flag("router_bias")
    steps = {True: _sparse_step(c, "decoder", "num_decoder_layers"), False: _sparse_step(c, "encoder", "num_layers")}
    c.only("router_type", "tokens_masked")
    c.only("router_dtype", "float32")
    gated = c.flag("is_gated_act")
    for key in (*TRAINING, "feed_forward_proj", "router_ignore_padding_tokens"):  # padding never takes a place here
        c.get(key, None)

    def ffn(kind: Kind, depth: int) -> Spec:
        if depth % steps[kind.causal] != 1 % steps[kind.causal]:
            return Spec(Gated if gated else Plain, d_model=d, d_ff=d_ff, act=act.replace(), bias=False)
        router = Spec(Router, d_model=d, n_experts=n, top_k=1, bias=bias)
        experts = Spec(GatedExperts if gated else PlainExperts, n=n, d_model=d, d_ff=d_ff, act=act.replace())
        return Spec(MoE, router=Spec(Limited, router=router, capacity=capacity, kind=kind), experts=experts)

    c.only("tie_word_embeddings", True)
    return frame(c, ffn, tied=True, scaled=True)


def preset(layers: int, d: int, d_ff: int, n_heads: int, n_experts: int, step: int = 2, **other: Any) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["SwitchTransformersForConditionalGeneration"],
        "is_encoder_decoder": True,
        **{"num_layers": layers, "num_decoder_layers": layers},
        **{f"num_sparse_{side}_layers": layers // step for side in ("encoder", "decoder")},
        **{f"{side}_sparse_step": step for side in ("encoder", "decoder")},
        **{"d_model": d, "d_ff": d_ff, "num_heads": n_heads, "d_kv": 64, "num_experts": n_experts},
        **{"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
        **{**DEFAULTS, **other},
    }


PRESETS = {
    **{f"base-{n}": preset(12, 768, 3072, 12, n) for n in (8, 16, 32, 64, 128, 256)},
    "large-128": preset(24, 1024, 4096, 16, 128),
    "xxl": preset(24, 4096, 10240, 64, 128, is_gated_act=True, dense_act_fn="gelu_new"),
    "c-2048": preset(15, 2080, 6144, 32, 2048, step=1),
}
