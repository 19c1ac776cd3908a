"""What the metadata of a GGUF file may say under its architecture's name, as data, and the check that it says no more.

Every `<arch>.*` key is read, known to say nothing about the numbers, or an error: a key that nobody reads may be the
one that changes the mathematics. What a key means is what llama.cpp makes of it (llama-model.cpp, llama-context.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from vitral.errors import CheckpointError, did_you_mean

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertModel",
}
"""GGUF architecture (which is also the Hugging Face model_type) → Hugging Face class."""

_LLAMA_KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
KEYS: dict[str, dict[str, str]] = {
    "llama": _LLAMA_KEYS,
    "qwen2": _LLAMA_KEYS,
    "qwen3": _LLAMA_KEYS,
    "gpt2": {
        "context_length": "n_positions",
        "embedding_length": "n_embd",
        "block_count": "n_layer",
        "feed_forward_length": "n_inner",
        "attention.head_count": "n_head",
        "attention.layer_norm_epsilon": "layer_norm_epsilon",
    },
    "bert": {
        "context_length": "max_position_embeddings",
        "embedding_length": "hidden_size",
        "block_count": "num_hidden_layers",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.layer_norm_epsilon": "layer_norm_eps",
    },
}
"""By architecture: metadata key (after `<arch>.`) → config key. All are required."""
FIXED: dict[str, dict[str, Any]] = {
    "llama": {"hidden_act": "silu"},
    "qwen2": {"hidden_act": "silu", "use_sliding_window": False},
    "qwen3": {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False},
    "gpt2": {
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    },
    "bert": {"hidden_act": "gelu", "position_embedding_type": "absolute"},
}
"""By architecture: what the architecture's name stands for, with no metadata key of its own."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (0, 1),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "attention.scale": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "use_parallel_residual": (0,),
    "swin_norm": (0,),
    "rope.scaling.alpha": (0,),
    "rope.scaling.yarn_log_multiplier": (0,),
}
"""Keys that would change the arithmetic, with the values that do not: any other value is refused, not overlooked."""
_BYSTANDERS = frozenset({"vocab_size", "tensor_data_layout", "rope.scaling.finetuned"})
_READ = frozenset(
    """
    pooling_type attention.head_count_kv attention.key_length attention.value_length attention.causal
    rope.dimension_count rope.freq_base rope.scale_linear rope.scaling.type rope.scaling.factor
    rope.scaling.original_context_length rope.scaling.attn_factor rope.scaling.yarn_ext_factor
    rope.scaling.yarn_attn_factor rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow
    """.split()  # noqa: SIM905
)
"""Keys that are read one by one, here or in `gguf_config` and `gguf_rope`."""


def architecture(metadata: Mapping[str, Any]) -> str:
    """The file's architecture, once it is one we read and everything said about it is understood.

    Raises:
        CheckpointError: another architecture, a key nobody knows, or a value that asks for other arithmetic.
    """
    arch = metadata.get("general.architecture")
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        raise CheckpointError(
            f"GGUF architecture {arch!r:.40} is not supported", f"Supported: {', '.join(sorted(ARCHITECTURES))}"
        )
    known = {f"{arch}.{key}" for key in (*KEYS[arch], *_NEUTRAL, *_BYSTANDERS, *_READ)}
    if unknown := sorted(key for key in metadata if key.startswith(f"{arch}.") and key not in known):
        raise CheckpointError(
            f"The GGUF metadata has a key we do not know: {unknown[0]!r:.80}",
            "It may change what the model computes. " + did_you_mean(unknown[0], known),
        )
    neutral = {**_NEUTRAL, "attention.causal": (arch != "bert",), **_plain_heads(arch, metadata)}
    for key, values in neutral.items():
        if metadata.get(f"{arch}.{key}", values[0]) not in values:
            raise CheckpointError(
                f"A GGUF model with {arch}.{key} = {metadata[f'{arch}.{key}']!r:.40} is not supported"
            )
    return arch


def _plain_heads(arch: str, metadata: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The sizes that GPT-2 and BERT fix, and that the newer converter writes for them as well."""
    heads = metadata.get(f"{arch}.attention.head_count")
    width = metadata.get(f"{arch}.embedding_length")
    if arch not in ("gpt2", "bert") or type(heads) is not int or type(width) is not int or heads < 1:
        return {}
    size = (width // heads,)
    return {"attention.head_count_kv": (heads,), "attention.key_length": size, "attention.value_length": size}


def number(metadata: Mapping[str, Any], key: str, default: float) -> float:
    """A number of the metadata, as the shortest decimal of its float32.

    Raises:
        CheckpointError: it is no finite number.
    """
    value = metadata.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= 1e30:
        wrong(key, value)
    return decimal(value)


def decimal(value: float) -> float:
    """The shortest decimal of a float32, so that 9.99999974e-06 reads as the 1e-05 somebody wrote."""
    return float(str(np.float32(value)))


def wrong(key: str, value: Any) -> NoReturn:
    """Raise the error for a value that cannot be meant."""
    raise CheckpointError(f"The GGUF metadata has {key} = {value!r:.60}", "Convert the model again")
