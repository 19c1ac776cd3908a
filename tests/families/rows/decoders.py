"""Rows of the first decoders and encoders: Llama, Qwen2, Qwen3, GPT-2, BERT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from tests.families.parity import Row

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 8192
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
# With these the residual stream's variance comes near eps, so that every norm's eps shows.
TINY_STREAM = {"embed_tokens.weight": 4e-2, "o_proj.weight": 5e-3, "down_proj.weight": 5e-3}
TINY_GPT2 = {"wte.weight": 3e-2, "wpe.weight": 3e-2, "c_proj.weight": 5e-3, "c_proj.bias": 5e-3}
TINY_BERT = {
    **{f"{name}_embeddings.weight": 1e-2 for name in ("word", "position", "token_type")},
    **{f"{place}.LayerNorm.{name}": 2e-3 for place in ("embeddings", "output") for name in ("weight", "bias")},
    **{f"output.dense.{name}": 2e-3 for name in ("weight", "bias")},
    "transform.dense.bias": 5e-3,
}


def llama(
    name: str, *, body: bool = False, scales: Any = None, grows: bool = False, old: Any = None, **config: Any
) -> Row:
    config = {"num_attention_heads": 6, "num_key_value_heads": 2, **config}
    model = hf.LlamaModel if body else hf.LlamaForCausalLM
    families = ("llama1", "llama2", "llama3")
    return rotary(f"llama-{name}", families, hf.LlamaConfig, model, scales=scales, grows=grows, old=old, **config)


def qwen2(name: str, *, old: Any = None, **config: Any) -> Row:
    return rotary(f"qwen2-{name}", ("qwen2",), hf.Qwen2Config, hf.Qwen2ForCausalLM, old=old, **config)


def qwen3(name: str, *, scales: Any = None, old: Any = None, **config: Any) -> Row:
    config = {"head_dim": 10, **config}
    return rotary(f"qwen3-{name}", ("qwen3",), hf.Qwen3Config, hf.Qwen3ForCausalLM, scales=scales, old=old, **config)


def rotary(
    name: str,
    families: tuple[str, ...],
    kind: Any,
    model: Any,
    *,
    scales: Any = None,
    grows: bool = False,
    old: Any = None,
    **config: Any,
) -> Row:
    """A row of a small Llama-like decoder; `kind` and `model` are its classes in transformers."""
    small = {"vocab_size": 61, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 3e-5}
    small |= {"rope_parameters": dict(PLAIN), "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}

    def make() -> Any:
        return model(kind(**{**small, **config}, attn_implementation="eager"))

    return Row(name=name, families=families, make=make, config=old, scales=scales, grows=grows)


def gpt2(
    name: str, *, body: bool = False, scales: Any = None, tensors: Any = None, old: Any = None, **config: Any
) -> Row:
    small = {"vocab_size": 61, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 64, "layer_norm_epsilon": 3e-5}
    small |= {"bos_token_id": 1, "eos_token_id": 1}

    def make() -> Any:
        config_ = hf.GPT2Config(**{**small, **config}, attn_implementation="eager")
        return (hf.GPT2Model if body else hf.GPT2LMHeadModel)(config_)

    return Row(
        name=f"gpt2-{name}",
        families=("gpt2",),
        make=make,
        scales=scales,
        tensors=tensors,
        config=old,
        same_names=tensors is None,
    )


def bert(
    name: str, model: Any, *, scales: Any = None, tensors: Any = None, same_names: bool = True, **config: Any
) -> Row:
    small = {"vocab_size": 61, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 6, "max_position_embeddings": 64, "layer_norm_eps": 3e-6}

    def make() -> Any:
        return model(hf.BertConfig(**{**small, **config}, attn_implementation="eager"))

    return Row(
        name=f"bert-{name}",
        families=("bert", "minilm"),
        make=make,
        scales=scales,
        tensors=tensors,
        same_names=same_names,
    )


# ── what older files say in place of what transformers writes today ─────────────────────────────────────────


def old_rope(scaling: dict[str, Any] | None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """`rope_theta` beside `rope_scaling`, and `type` for `rope_type`: config.json before 2025."""

    def change(config: dict[str, Any]) -> dict[str, Any]:
        theta = config.pop("rope_parameters")["rope_theta"]
        return {**config, "rope_theta": theta, "rope_scaling": scaling, "torch_dtype": config.pop("dtype")}

    return change


def without(*keys: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda config: {k: v for k, v in config.items() if k not in keys}


def hub_gpt2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names on the hub: no prefix, and each layer's causal mask as a buffer."""
    out = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    out |= {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64).tril() for i in range(3)}
    return out | {f"h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(3)}


def hub_bert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of 2018: gamma and beta, position ids as a buffer, the tied matrix and its bias written out twice."""
    out = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    out["bert.embeddings.position_ids"] = torch.arange(64)[None]
    out["cls.predictions.decoder.weight"] = out["bert.embeddings.word_embeddings.weight"].clone()
    out["cls.predictions.decoder.bias"] = out["cls.predictions.bias"].clone()
    return out


def hub_gpt2_config(config: dict[str, Any]) -> dict[str, Any]:
    return {
        **config,
        "n_ctx": 64,
        "summary_type": "cls_index",
        "task_specific_params": {"text-generation": {"max_length": 50}},
    }


ROWS = (
    llama("mha", num_key_value_heads=6),
    llama("gqa-6-2"),
    llama("gqa-7-1", hidden_size=56, num_attention_heads=7, num_key_value_heads=1),
    llama("gqa-9-3", hidden_size=72, num_attention_heads=9, num_key_value_heads=3),
    llama("head-dim", head_dim=16, attention_bias=True, mlp_bias=True),
    llama("tied", tie_word_embeddings=True),
    llama("body", body=True),
    llama("body-tied", body=True, tie_word_embeddings=True),
    llama("tanh", hidden_act="gelu_pytorch_tanh"),
    llama("tiny-stream", scales=TINY_STREAM),
    llama("theta", rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    llama("linear", rope_parameters={**PLAIN, "rope_type": "linear", "factor": 4.0}),
    llama("dynamic", rope_parameters={**PLAIN, "rope_type": "dynamic", "factor": 2.0}),
    llama(
        "dynamic-grown",
        rope_parameters={**PLAIN, "rope_type": "dynamic", "factor": 2.0},
        max_position_embeddings=16,
        grows=True,
    ),
    llama("llama3", head_dim=16, rope_parameters=LLAMA3, max_position_embeddings=131072),
    llama("yarn", head_dim=16, rope_parameters=YARN),
    llama("yarn-mscale", head_dim=16, rope_parameters={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}),
    llama("yarn-mscales", head_dim=16, rope_parameters={**YARN, "mscale": 1.5, "mscale_all_dim": 0.5}),
    llama("yarn-attention", head_dim=16, rope_parameters={**YARN, "attention_factor": 1.4}),
    llama("yarn-betas", head_dim=16, rope_parameters={**YARN, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False}),
    llama("old-plain", rope_parameters={**PLAIN, "rope_theta": 500.0}, old=old_rope(None)),
    llama("old-linear", old=old_rope({"type": "linear", "factor": 3.0})),
    llama(
        "old-llama3",
        head_dim=16,
        rope_parameters=LLAMA3,
        max_position_embeddings=131072,
        old=old_rope({k: v for k, v in LLAMA3.items() if k != "rope_theta"}),
    ),
    llama(
        "old-yarn", head_dim=16, old=old_rope({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32})
    ),
    qwen2("plain", tie_word_embeddings=True),
    qwen2("window-off", use_sliding_window=False, sliding_window=5, max_window_layers=1),
    qwen2("window", use_sliding_window=True, sliding_window=5, max_window_layers=1, num_hidden_layers=3),
    qwen2(
        "layer-types",
        use_sliding_window=True,
        sliding_window=3,
        num_hidden_layers=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    *(
        qwen2(
            f"old-window-{first}",
            use_sliding_window=True,
            sliding_window=4,
            max_window_layers=first,
            old=without("layer_types"),
        )
        for first in (0, 1, 2)
    ),
    qwen2(
        "old-window-unsaid", use_sliding_window=True, sliding_window=4, old=without("layer_types", "max_window_layers")
    ),
    qwen2("yarn", head_dim=16, rope_parameters={**YARN, "rope_theta": 1e6}),
    qwen3("plain"),
    qwen3("tied-bias", attention_bias=True, tie_word_embeddings=True),
    qwen3("window", use_sliding_window=True, sliding_window=4, max_window_layers=1, num_hidden_layers=3),
    qwen3("tiny-stream", scales={**TINY_STREAM, "q_proj.weight": 2e-3, "k_proj.weight": 2e-3}),
    rotary("olmo2", ("olmo2",), hf.Olmo2Config, hf.Olmo2ForCausalLM, attention_bias=True, head_dim=10),
    gpt2("plain"),
    gpt2("square", n_inner=48),
    gpt2("by-depth", scale_attn_by_inverse_layer_idx=True),
    gpt2("unscaled", scale_attn_weights=False, n_inner=100),
    gpt2("erf", activation_function="gelu"),
    gpt2("quick", activation_function="quick_gelu"),
    gpt2("untied-relu", activation_function="relu", tie_word_embeddings=False),
    gpt2("body", body=True),
    gpt2("hub", tensors=hub_gpt2, old=hub_gpt2_config),
    gpt2("tiny-stream", scales=TINY_GPT2, tie_word_embeddings=False),
    bert("model", hf.BertModel),
    bert("masked", hf.BertForMaskedLM),
    bert("pretraining", hf.BertForPreTraining),
    bert("next", hf.BertForNextSentencePrediction),
    bert("tanh", hf.BertForMaskedLM, hidden_act="gelu_new"),
    bert("untied", hf.BertForMaskedLM, tie_word_embeddings=False, same_names=False),
    bert("hub", hf.BertForPreTraining, tensors=hub_bert, same_names=False),
    bert("segments", hf.BertModel, type_vocab_size=3),
    bert("tiny-stream", hf.BertForMaskedLM, scales=TINY_BERT, tie_word_embeddings=False, same_names=False),
    bert(
        "minilm", hf.BertModel, num_hidden_layers=6, num_attention_heads=12, intermediate_size=192, layer_norm_eps=1e-12
    ),
)
