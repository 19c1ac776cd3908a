"""DeepSeek-V3, and R1 of the same shape (arXiv:2412.19437): latent attention, many small experts, a step of foresight.

The layer after the last is no layer of the model: it is the draft that guesses one token further. Files of the whole
model hold it, others leave it out, and the config says the same in both: the tensors decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vitral.families import llama1
from vitral.families.common import latent
from vitral.families.common.assemble import Card, decoder, pre_norm
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import Names, Stacked
from vitral.nn import Draft, Gated, RMSNorm, Spec

CARD = Card(
    title="DeepSeek-V3 / R1",
    year=2024,
    org="DeepSeek",
    kind="decoder MoE",
    source="arXiv:2412.19437",
    idea="a cache of one latent a token; 256 small experts balanced by a bias, not by a loss; trained in 8-bit floats",
    licence="DeepSeek Model License (R1: MIT)",
    traps=(
        "the scale is 192^-.5 times the square of YaRN's temperature",
        "the bias selects experts and never weighs them",
        "rotated pairs are neighbours; kv_b_proj lies head by head, keys before values",
    ),
    recipe="14.8T tokens in 8-bit floats, bias steps of 1e-3, sequence balance loss 1e-4, multi-token loss .3 then .1",
)
MODEL_TYPE = "deepseek_v3"
DEFAULTS = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-6}
CODE = {
    **{"AutoConfig": "configuration_deepseek.DeepseekV3Config", "AutoModel": "modeling_deepseek.DeepseekV3Model"},
    "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
}
"""The code that published folders bring along, and that is never run: it computes what is computed here."""
NAMES = replace(
    llama1.NAMES,
    rules={
        **llama1.NAMES.rules,
        "layers.{}.self_attn.q_a_proj.{}": "stack.blocks.{}.attn.mixer.q.down.{}",
        "layers.{}.self_attn.q_a_layernorm.weight": "stack.blocks.{}.attn.mixer.q.norm.weight",
        "layers.{}.self_attn.q_b_proj.weight": "stack.blocks.{}.attn.mixer.q.up.weight",
        "layers.{}.self_attn.kv_a_proj_with_mqa.{}": "stack.blocks.{}.attn.mixer.down.{}",
        "layers.{}.self_attn.kv_a_layernorm.weight": "stack.blocks.{}.attn.mixer.norm.weight",
        "layers.{}.self_attn.kv_b_proj.weight": "stack.blocks.{}.attn.mixer.up.weight",
        "layers.{}.mlp.gate.weight": "stack.blocks.{}.ffn.mixer.moe.router.proj.weight",
        "layers.{}.mlp.gate.e_score_correction_bias": "stack.blocks.{}.ffn.mixer.moe.router.bias",
        "layers.{}.mlp.experts.{}.gate_proj.weight": Stacked("stack.blocks.{}.ffn.mixer.moe.experts.gate"),
        "layers.{}.mlp.experts.{}.up_proj.weight": Stacked("stack.blocks.{}.ffn.mixer.moe.experts.up"),
        "layers.{}.mlp.experts.{}.down_proj.weight": Stacked("stack.blocks.{}.ffn.mixer.moe.experts.down"),
        "layers.{}.mlp.shared_experts.{}_proj.weight": "stack.blocks.{}.ffn.mixer.shared.{}.weight",
    },
)
complete = latent.complete


def names(config: Mapping[str, Any]) -> Names:
    """The names in the file of this config, drafts and all."""
    return latent.draft_names(NAMES, config)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a DeepSeek-V3 `config.json` describes."""
    c = Config(config, "deepseek_v3", DEFAULTS)
    d, layers = c.size("hidden_size"), c.size("num_hidden_layers", most=DEEPEST)
    first = c.size("first_k_dense_replace", least=0, most=DEEPEST)
    rotary, context = latent.rotary(c, c.size("max_position_embeddings", most=LONGEST))
    norm, act = Spec(RMSNorm, d=d, eps=c.number("rms_norm_eps")), c.activation("hidden_act")
    latent.experts(c, d, act)  # so that its keys are read also where no layer has any
    c.code(CODE)
    c.size("num_nextn_predict_layers", 0, least=0)  # the tensors decide

    def block(depth: int) -> Spec:
        dense = Spec(Gated, d_model=d, d_ff=c.size("intermediate_size"), act=act.replace())
        ffn = dense if depth < first else latent.experts(c, d, act)
        return pre_norm(norm, latent.attention(c, d, rotary), ffn)

    def draft(depth: int) -> Spec:
        norms = {name: norm.replace() for name in ("embed_norm", "hidden_norm", "norm")}
        return Spec(Draft, d=d, block=block(depth), **norms)

    drafts = [draft(layers + k) for k in range(config.get(latent.DRAFTS, 0))]
    model = decoder(c, d=d, blocks=[block(depth) for depth in range(layers)], norm=norm, context=context)
    return model.replace(drafts=drafts)


YARN = {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
LATENT = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
EXPERTS = {"n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8}
CHOICE = {"n_group": 8, "topk_group": 4, "norm_topk_prob": True, "routed_scaling_factor": 2.5}
PRESETS = {
    "v3": {
        "model_type": MODEL_TYPE,
        "architectures": ["DeepseekV3ForCausalLM"],
        "num_hidden_layers": 61,
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        **LATENT,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        **EXPERTS,
        **CHOICE,
        "first_k_dense_replace": 3,
        "num_nextn_predict_layers": 1,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, **YARN},
        "max_position_embeddings": 163840,
        "vocab_size": 129280,
        "tie_word_embeddings": False,
    }
}
