"""Published presets shrunk to a few thousand parameters that keep their character.

Two layers; as many queries to a key-value head, the same places where experts, windows, towers and biases stand. What
is a proportion stays one (d_ff to d, heads · head size to d), what is a size becomes small.
"""

from __future__ import annotations

from typing import Any

from vitral.families import preset_config

LAYERS, VOCABULARY, CONTEXT, HEAD, WINDOW = 2, 64, 64, 16, 8
SIDE = 4
"""Patches along the side of a picture; PATCH pixels along the side of a patch."""
PATCH = 4
_WIDTHS = ("hidden_size", "d_model", "n_embd")
_HEADS = ("num_attention_heads", "num_heads", "n_head", "attention_heads")
_HEAD_SIZES = ("head_dim", "d_kv", "kv_channels")
_FFN = ("intermediate_size", "d_ff", "n_inner", "moe_intermediate_size", "shared_expert_intermediate_size")
_SIDES = ("encoder", "decoder")
_SMALL = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers"), LAYERS),
    **{f"{side}_layers": LAYERS for side in _SIDES},
    **dict.fromkeys(("max_position_embeddings", "n_positions", "seq_length"), CONTEXT),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_sparse_encoder_layers", "num_sparse_decoder_layers", "first_k_dense_replace"), 1),
    **dict.fromkeys(("encoder_sparse_step", "decoder_sparse_step", "sliding_window_pattern", "moe_every"), 2),
    **{"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "expert_capacity": 8, "sliding_window": WINDOW},
    **{"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16},
    **{"vocab_size": VOCABULARY, "num_labels": 8, "projection_dim": 32, "mm_tokens_per_image": 4},
    **{"num_global_layers": 1, "max_num_tiles": 4},
}
"""A size is at most this."""
_IDS = ("eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id", "image_token_index")


def tiny_config(path: str, **changes: Any) -> dict[str, Any]:
    """The config.json of a published preset, shrunk: `tiny_config("llama3/3.2-1b")`; `changes` win over all of it."""
    return {**shrunk(preset_config(path)), **changes}


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """A config with every size made small."""
    small = {key: min(value, _SMALL[key]) if _is_size(key, value) else value for key, value in config.items()}
    for key in ("text_config", "vision_config"):
        if key in small:
            small[key] = shrunk(small[key])
    small |= _widths(config)
    small |= {key: min(small[key], VOCABULARY - 1 - n) for n, key in enumerate(_IDS) if isinstance(small.get(key), int)}
    if "bad_words_ids" in small:
        small["bad_words_ids"] = [[small["pad_token_id"]]]
    if "patch_size" in small:
        border = config["image_size"] % config["patch_size"]  # pixels that fill no patch
        small |= {"patch_size": PATCH, "image_size": SIDE * PATCH + min(border, PATCH - 1)}
    if "cross_attention_layers" in small:
        small["cross_attention_layers"] = [LAYERS - 1]
    if "global" in "".join(small):  # a tiled tower keeps states of both its layers
        small["intermediate_layers_indices"] = list(range(LAYERS))
    return small


def _is_size(key: str, value: Any) -> bool:
    return key in _SMALL and isinstance(value, int) and not isinstance(value, bool)


def _widths(config: dict[str, Any]) -> dict[str, int]:
    """Width, heads, head size and feed-forward widths, in the proportions they had."""
    found: dict[str, int] = {}
    width = next((key for key in _WIDTHS if key in config), None)
    if width is None:
        return found
    heads = next(key for key in (*_HEADS, *(f"{side}_attention_heads" for side in _SIDES)) if key in config)
    group = config[heads] // config.get("num_key_value_heads", config[heads])
    kv_heads = 4 if group == 1 else 1 if group > 4 else 2
    n_heads = kv_heads * min(group, 8)
    size = next((key for key in _HEAD_SIZES if key in config), None)
    wider = config[heads] * config[size] / config[width] if size else 1.0
    head_dim = HEAD if n_heads <= 4 else HEAD // 2
    d = max(_round(n_heads * head_dim / wider), 2 * HEAD)
    found |= {key: n_heads for key in (heads, *(f"{side}_attention_heads" for side in _SIDES)) if key in config}
    found |= {"num_key_value_heads": kv_heads} if "num_key_value_heads" in config else {}
    found |= {width: d} | ({size: head_dim} if size else {})
    wide = (*_FFN, *(f"{side}_ffn_dim" for side in _SIDES))
    found |= {key: max(_round(d * config[key] / config[width]), 8) for key in wide if config.get(key)}
    if "query_pre_attn_scalar" in config:
        found["query_pre_attn_scalar"] = round(head_dim * config["query_pre_attn_scalar"] / config["head_dim"])
    return found


def _round(size: float) -> int:
    """To a multiple of 8."""
    return 8 * round(size / 8)
