"""Reading the configs and names of models with latent attention, groups of experts and drafts (arXiv:2412.19437)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from vitral.families.common.assemble import share
from vitral.families.common.config import Config
from vitral.families.common.rules import Names, Rule, Stacked
from vitral.nn import (
    Gated,
    GatedExperts,
    Grouped,
    Interleaved,
    Latent,
    LowRank,
    MoE,
    Parallel,
    RMSNorm,
    Rotary,
    Spec,
    Yarn,
)

LATENT_EPS = 1e-6
"""Of the norms inside the attention, whatever `rms_norm_eps` says: published code leaves them at this."""
DRAFTS = "_vitral_drafts"
"""Where `complete` notes how many drafts the tensors hold: `num_nextn_predict_layers` stays when they are left out."""


def rotary(c: Config, context: int) -> tuple[Spec, int]:
    """The rotation of the part of a head that has one, and the context."""
    made, context = c.rotary(c.size("qk_rope_head_dim"), context)
    return Spec(Interleaved if c.flag("rope_interleave", True) else Rotary, **made.args), context


def attention(c: Config, d: int, position: Spec) -> Spec:
    """Latent attention of width d."""
    n_heads = c.size("num_attention_heads")
    c.only("num_key_value_heads", n_heads)
    n, p = c.size("qk_nope_head_dim"), c.size("qk_rope_head_dim")
    c.only("head_dim", p, n + p)
    c.only("qk_head_dim", n + p)
    rank, bias = c.size("kv_lora_rank"), c.flag("attention_bias")
    q = Spec(nn.Linear, in_features=d, out_features=n_heads * (n + p), bias=False)
    if c.get("q_lora_rank", None) is not None:
        low = c.size("q_lora_rank")
        norm = Spec(RMSNorm, d=low, eps=LATENT_EPS)
        q = Spec(LowRank, d=d, rank=low, out=n_heads * (n + p), norm=norm, bias=bias)
    return Spec(
        Latent,
        d_model=d,
        n_heads=n_heads,
        rank=rank,
        key_dim=n,
        value_dim=c.size("v_head_dim"),
        position=position,
        q=q,
        norm=Spec(RMSNorm, d=rank, eps=LATENT_EPS),
        bias=bias,
        scale=scale(n + p, position.args["scaling"]),
    )


def scale(size: int, scaling: Any) -> float:
    """Of the scores. YaRN's temperature multiplies queries and keys, all their numbers and not only the turning ones:
    so it stands here, squared.
    """
    by = scaling.mscale_all_dim if isinstance(scaling, Yarn) else None
    return float(size**-0.5 * (scaling.temperature(by) ** 2 if by else 1))


def experts(c: Config, d: int, act: Spec) -> Spec:
    """Routed experts in groups, and those that every token meets."""
    for training in ("aux_loss_alpha", "seq_aux", "ep_size", "output_router_logits"):
        c.get(training, None)
    c.only("moe_layer_freq", 1)
    c.only("scoring_func", "sigmoid")
    c.only("topk_method", "noaux_tc")
    n, groups, size = c.size("n_routed_experts"), c.size("n_group"), c.size("moe_intermediate_size")
    share("n_routed_experts", n, "n_group", groups)
    router = Spec(
        Grouped,
        d_model=d,
        n_experts=n,
        top_k=c.size("num_experts_per_tok"),
        n_groups=groups,
        top_groups=c.size("topk_group", most=groups),
        scale=c.number("routed_scaling_factor"),
        renormalise=c.flag("norm_topk_prob"),
    )
    branches = {
        "moe": Spec(MoE, router=router, experts=Spec(GatedExperts, n=n, d_model=d, d_ff=size, act=act.replace()))
    }
    shared = c.size("n_shared_experts", 0, least=0)
    if shared:
        branches["shared"] = Spec(Gated, d_model=d, d_ff=shared * size, act=act.replace())
    return Spec(Parallel, **branches)


def complete(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The config with the number of drafts that a file with these tensor names really holds."""
    layers, held = config.get("num_hidden_layers"), set(names)
    drafts = 0
    while isinstance(layers, int) and any(
        f"{at}layers.{layers + drafts}.eh_proj.weight" in held for at in ("model.", "")
    ):
        drafts += 1
    return {**config, DRAFTS: drafts}


def draft_names(names: Names, config: Mapping[str, Any]) -> Names:
    """The names of a file whose drafts stand where further layers would."""
    rules: dict[str, Rule] = {}
    tied = dict(names.tied)
    for k in range(config.get(DRAFTS, 0)):
        at, to = f"layers.{config['num_hidden_layers'] + k}.", f"drafts.{k}."
        parts = {"enorm": "embed_norm", "hnorm": "hidden_norm", "eh_proj": "join", "shared_head.norm": "norm"}
        rules |= {f"{at}{old}.weight": f"{to}{new}.weight" for old, new in parts.items()}
        tied |= {f"{at}embed_tokens.weight": "embed_tokens.weight", f"{at}shared_head.head.weight": "lm_head.weight"}
        for old, rule in names.rules.items():
            if old.startswith("layers.{}."):
                rules[old.replace("layers.{}.", at, 1)] = _moved(rule, to)
    return replace(names, rules={**rules, **names.rules}, tied=tied)


def _moved(rule: Rule, to: str) -> Rule:
    """The rule of a layer's tensor as that of the block of a draft."""
    if isinstance(rule, Stacked):
        return Stacked(rule.into.replace("stack.blocks.{}.", f"{to}block.", 1))
    assert isinstance(rule, str)
    return rule.replace("stack.blocks.{}.", f"{to}block.", 1)
