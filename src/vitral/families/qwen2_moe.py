"""The mixtures of experts of Qwen1.5 and Qwen2 (`qwen2_moe`): many narrow experts, and one that all tokens meet.

             ┌─ router ─ k of E SwiGLU ──────┐
    x ─ norm ┤                               (+)─▶
             └─ SwiGLU · sigmoid(gate(x)) ───┘

The weights of the chosen are not scaled to sum to 1 unless `norm_topk_prob` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vitral.families import llama1, qwen2
from vitral.families.common.assemble import decoder, pre_norm, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.experts import expert_names, mixture, number, sparse_layers, training_only
from vitral.nn import Attention, Gated, Kind, Parallel, RMSNorm, Spec, Weighed

MODEL_TYPE = "qwen2_moe"
DEFAULTS = {**qwen2.DEFAULTS, "max_window_layers": 28}
NAMES = replace(
    llama1.NAMES,
    rules={
        **llama1.NAMES.rules,
        **expert_names("layers.{}.mlp", "stack.blocks.{}.ffn.mixer.moe", down="down_proj"),
        "layers.{}.mlp.shared_expert_gate.weight": "stack.blocks.{}.ffn.mixer.shared.gate.weight",
        "layers.{}.mlp.shared_expert.gate_proj.weight": "stack.blocks.{}.ffn.mixer.shared.mixer.gate.weight",
        "layers.{}.mlp.shared_expert.up_proj.weight": "stack.blocks.{}.ffn.mixer.shared.mixer.up.weight",
        "layers.{}.mlp.shared_expert.down_proj.weight": "stack.blocks.{}.ffn.mixer.shared.mixer.down.weight",
    },
)


def kinds(c: Config, layers: int) -> list[Kind]:
    """The mask kind of each layer. Where `layer_types` is silent and the window on, every other layer has it, among
    the first `max_window_layers`.
    """
    first = c.size("max_window_layers", least=0) if c.flag("use_sliding_window") else 0
    windows = ["full_attention" if depth % 2 or depth >= first else "sliding_attention" for depth in range(layers)]
    c.get("sliding_window", None), c.get("max_window_layers", None)  # files carry them also where they are off
    return qwen2.named_kinds(c, layers, windows)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Qwen2-MoE `config.json` describes."""
    c = Config(config, "qwen2_moe", DEFAULTS)
    d, layers = c.size("hidden_size"), c.size("num_hidden_layers", most=DEEPEST)
    shape = sizes(c, d)
    rotary, context = c.rotary(shape["head_dim"], c.size("max_position_embeddings", most=LONGEST))
    norm, act = Spec(RMSNorm, d=d, eps=c.number("rms_norm_eps")), c.activation("hidden_act")
    bias = c.flag("qkv_bias", True)
    n, d_ff = number(c), c.size("moe_intermediate_size")
    renormalised = c.flag("norm_topk_prob")
    widths = c.size("intermediate_size"), c.size("shared_expert_intermediate_size")
    sparse = sparse_layers(c, layers)
    training_only(c)

    def block(depth: int, kind: Kind) -> Spec:
        dense, shared = (Spec(Gated, d_model=d, d_ff=each, act=act.replace()) for each in widths)
        moe = mixture(c, d, act, n=n, d_ff=d_ff, renormalised=renormalised)
        both = Spec(Parallel, moe=moe, shared=Spec(Weighed, mixer=shared, d_model=d))
        attention = Spec(Attention, **shape, kind=kind, position=rotary, bias=bias)
        return pre_norm(norm, attention, both if sparse(depth) else dense)

    blocks = [block(depth, kind) for depth, kind in enumerate(kinds(c, layers))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context)


def preset(layers: int, d: int, n_heads: int, n_kv_heads: int, d_ff: int, **other: Any) -> dict[str, Any]:
    """A config.json of this architecture by its published numbers; d_ff of the layers without experts."""
    mine = {"model_type": MODEL_TYPE, "architectures": ["Qwen2MoeForCausalLM"], "tie_word_embeddings": False}
    mine |= {"decoder_sparse_step": 1, "norm_topk_prob": False}
    return qwen2.preset(layers, d, n_heads, n_kv_heads, d_ff, **{**mine, **other})
