"""Rows of the families that see."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import Tensor

from tests.families.parity import Row
from tests.families.rows.decoders import LLAMA3
from tests.families.rows.gemma import QUIET, TINY, faint
from tests.families.vision import DualReference, ImageReference, SoftReference, TileReference

IMAGE = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 80}
IMAGE |= {"image_size": 32, "patch_size": 8}
TEXT = {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 60}
TEXT |= {"vocab_size": 99, "max_position_embeddings": 11}


def vit(name: str, made: Any = hf.ViTModel, *, scales: Any = None, **config: Any) -> Row:
    config = {**IMAGE, **config}
    make = lambda: made(hf.ViTConfig(**config))  # noqa: E731
    return Row(name=f"vit-{name}", families=("vit",), make=make, scales=scales, reference=ImageReference)


def clip(name: str, *, old: Any = None, text: Any = None, image: Any = None, tensors: Any = None, **config: Any) -> Row:
    text_config = {**TEXT, "eos_token_id": 98, "bos_token_id": 97, "pad_token_id": 1, **(text or {})}
    config = {"projection_dim": 24, **config}

    def make() -> Any:
        return hf.CLIPModel(hf.CLIPConfig(text_config=text_config, vision_config={**IMAGE, **(image or {})}, **config))

    return Row(
        name=f"clip-{name}",
        families=("clip",),
        make=make,
        config=old,
        tensors=tensors,
        same_names=tensors is None,
        reference=DualReference,
    )


def siglip(name: str, *, text: Any = None, image: Any = None) -> Row:
    text_config, vision_config = {**TEXT, "eos_token_id": 98, **(text or {})}, {**IMAGE, **(image or {})}
    return Row(
        name=f"siglip-{name}",
        families=("siglip",),
        make=lambda: hf.SiglipModel(hf.SiglipConfig(text_config=text_config, vision_config=vision_config)),
        reference=DualReference,
    )


def hub_clip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The files of 2021 carry position ids."""
    ids = {"text_model.embeddings.position_ids": torch.arange(11)[None]}
    return {**tensors, **ids, "vision_model.embeddings.position_ids": torch.arange(17)[None]}


WORDS = {"vocab_size": 99, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 7, "head_dim": 16}
WORDS |= {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 5, "query_pre_attn_scalar": 60}
WORDS |= {"rms_norm_eps": 3e-5}
ROPE = {"sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}
ROPE |= {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0}}
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
TOWER |= {"image_size": 32, "patch_size": 4, "vision_use_head": False}


def gemma3(
    name: str, *, old: Any = None, scales: Any = None, tensors: Any = None, body: bool = False, **config: Any
) -> Row:
    made = hf.Gemma3TextModel if body else hf.Gemma3ForCausalLM
    config = {**WORDS, **config}

    def make() -> Any:
        return made(hf.Gemma3TextConfig(**config, attn_implementation="eager"))

    return Row(
        name=f"gemma3-{name}",
        families=("gemma3",),
        make=make,
        config=old,
        tensors=tensors,
        scales={**QUIET, **(scales or {})},
    )


def old_gemma3(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of 2025: bases side by side, one scaling, a pattern in place of a list."""
    rope = config["rope_parameters"]
    scaling = {key: value for key, value in rope["full_attention"].items() if key != "rope_theta"}
    new = {key: value for key, value in config.items() if key not in ("rope_parameters", "layer_types")}
    bases = {"rope_theta": rope["full_attention"]["rope_theta"]}
    bases |= {"rope_local_base_freq": rope["sliding_attention"]["rope_theta"]}
    return {**new, **bases, "rope_scaling": scaling, "sliding_window_pattern": 3, "cache_implementation": "hybrid"}


def gemma3_vision(name: str, *, old: Any = None, tensors: Any = None, image: Any = None, **text: Any) -> Row:
    def make() -> Any:
        words = hf.Gemma3TextConfig(**{**WORDS, **text})
        tower = hf.SiglipVisionConfig(**{**TOWER, **(image or {})})
        special = {"image_token_index": 98, "boi_token_index": 96, "eoi_token_index": 97, "mm_tokens_per_image": 4}
        return hf.Gemma3ForConditionalGeneration(hf.Gemma3Config(text_config=words, vision_config=tower, **special))

    same = tensors is published_tower
    return Row(
        name=f"gemma3-vision-{name}",
        families=("gemma3",),
        make=make,
        config=old,
        tensors=tensors,
        same_names=same,
        scales=QUIET,
        reference=SoftReference,
    )


def published_tower(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the published files, where the tower is a part of a model of its own."""
    return {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in tensors.items()}


def in_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that releases of 2025 wrote, with the tied head written out."""
    new = {}
    for name, value in tensors.items():
        name = name.replace("language_model.model.", "language_model.")
        new[f"model.{name}"] = value
    return {**new, "lm_head.weight": new["model.language_model.embed_tokens.weight"].clone()}


def old_gemma3_vision(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "text_config": old_gemma3(config["text_config"])}


def llama_vision(name: str, *, old: Any = None, image: Any = None, **text: Any) -> Row:
    def make() -> Any:
        words = {
            "vocab_size": 61,
            "hidden_size": 48,
            "intermediate_size": 72,
            "num_hidden_layers": 5,
            "rms_norm_eps": 3e-5,
        }
        words |= {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 1}
        words |= {"rope_parameters": LLAMA3, "cross_attention_layers": [1, 3], **text}
        tower = {"hidden_size": 32, "attention_heads": 4, "intermediate_size": 40, "num_hidden_layers": 4}
        tower |= {"image_size": 28, "patch_size": 7, "num_global_layers": 2, "intermediate_layers_indices": [1, 3]}
        tower |= {"vision_output_dim": 96, "norm_eps": 3e-5, **(image or {})}
        config = hf.MllamaConfig(text_config=words, vision_config=tower, image_token_index=61)
        return hf.MllamaForConditionalGeneration(config)

    return Row(name=f"llama-vision-{name}", families=("llama3",), make=make, config=old, reference=TileReference)


def old_llama_vision(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of 2024."""
    text = config["text_config"]
    rope = dict(text["rope_parameters"])
    new = {key: value for key, value in text.items() if key != "rope_parameters"}
    return {**config, "text_config": {**new, "rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "dropout": 0}}


TINY_VIT = {name: 4e-3 for name in ("projection.weight", "projection.bias", "cls_token", "position_embeddings")}
TINY_VIT |= {f"{part}.{kind}": 4e-3 for part in ("attention.o_proj", "mlp.fc2") for kind in ("weight", "bias")}
TINY_HEADS = {**TINY, "q_proj.weight": 2e-3, "k_proj.weight": 2e-3}
ROWS = (
    gemma3("plain"),
    gemma3("bias-odd", attention_bias=True, hidden_size=36, num_attention_heads=3, num_key_value_heads=1, head_dim=10),
    gemma3("linear", rope_parameters=ROPE),
    gemma3("old", rope_parameters=ROPE, old=old_gemma3),
    gemma3("types", layer_types=["full_attention", "sliding_attention"], num_hidden_layers=2),
    gemma3("body", body=True),
    gemma3("tiny-stream", scales=TINY_HEADS, tensors=faint, tie_word_embeddings=False),
    gemma3_vision("published", tensors=published_tower),
    gemma3_vision("flat"),
    gemma3_vision("memory", tensors=in_memory),
    gemma3_vision(
        "old",
        tensors=published_tower,
        old=old_gemma3_vision,
        rope_parameters=ROPE,
    ),
    gemma3_vision("narrow", tensors=published_tower, sliding_window=2),
    gemma3_vision("wide-window", tensors=published_tower, sliding_window=18, image={"hidden_act": "gelu"}),
    llama_vision("plain"),
    llama_vision("old", old=old_llama_vision, num_key_value_heads=6),
    llama_vision("one-kept", image={"intermediate_layers_indices": [2], "vision_output_dim": 64, "image_size": 21}),
    vit("model"),
    vit("classes", hf.ViTForImageClassification, num_labels=7),
    vit("no-qkv-bias", qkv_bias=False, layer_norm_eps=1e-6),
    vit("tiny-stream", scales=TINY_VIT, layer_norm_eps=3e-5),
    vit("tanh-odd", hidden_act="gelu_new", image_size=35, num_attention_heads=2, num_channels=1),
    clip("plain"),
    clip("old-end", text={"eos_token_id": 2}, tensors=hub_clip),
    clip("gelu", text={"hidden_act": "gelu"}, image={"hidden_act": "gelu", "image_size": 35}),
    siglip("plain", text={"hidden_size": 48, "num_attention_heads": 3}),
    siglip("erf-wider", text={"hidden_act": "gelu", "projection_size": 48}, image={"hidden_act": "gelu"}),
    siglip("border", text={"hidden_size": 48, "num_attention_heads": 6}, image={"image_size": 37, "patch_size": 14}),
)
