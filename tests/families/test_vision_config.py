"""Configs of the families that see: as they lie on the hub, as transformers dumps them, and those that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import transformers as hf

from vitral.errors import CheckpointError
from vitral.families import family, of_config, preset_config
from vitral.nn import AtHighest, Window

CLIP = """{
  "architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592, "model_type": "clip",
  "projection_dim": 768,
  "text_config": {"_name_or_path": "", "add_cross_attention": false, "architectures": null, "attention_dropout": 0.0,
    "bad_words_ids": null, "bos_token_id": 0, "chunk_size_feed_forward": 0, "diversity_penalty": 0.0, "dropout": 0.0,
    "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 768, "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072, "is_decoder": false,
    "is_encoder_decoder": false, "layer_norm_eps": 1e-05, "max_position_embeddings": 77,
    "model_type": "clip_text_model", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1,
    "projection_dim": 768, "pruned_heads": {}, "tie_word_embeddings": true, "torchscript": false,
    "transformers_version": "4.16.0.dev0", "use_bfloat16": false, "vocab_size": 49408},
  "text_config_dict": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
    "num_hidden_layers": 12, "projection_dim": 768},
  "torch_dtype": "float32", "transformers_version": null,
  "vision_config": {"attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "quick_gelu", "hidden_size": 1024,
    "image_size": 224, "intermediate_size": 4096, "layer_norm_eps": 1e-05, "model_type": "clip_vision_model",
    "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768},
  "vision_config_dict": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
    "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768}
}"""
GEMMA3 = """{
  "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
  "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
  "model_type": "gemma3",
  "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
  "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
  "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
    "model_type": "siglip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14,
    "vision_use_head": false}
}"""
VIT = """{
  "architectures": ["ViTModel"], "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu",
  "hidden_dropout_prob": 0.0, "hidden_size": 768, "image_size": 224, "initializer_range": 0.02,
  "intermediate_size": 3072, "layer_norm_eps": 1e-12, "model_type": "vit", "num_attention_heads": 12,
  "num_channels": 3, "num_hidden_layers": 12, "patch_size": 16, "qkv_bias": true, "transformers_version": "4.13.0.dev0"
}"""
SIGLIP = """{
  "architectures": ["SiglipModel"], "initializer_factor": 1.0, "model_type": "siglip",
  "text_config": {"hidden_size": 1152, "intermediate_size": 4304, "model_type": "siglip_text_model",
    "num_attention_heads": 16, "num_hidden_layers": 27},
  "torch_dtype": "float32", "transformers_version": "4.37.0.dev0",
  "vision_config": {"hidden_size": 1152, "image_size": 384, "intermediate_size": 4304,
    "model_type": "siglip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14}
}"""
PUBLISHED = {"clip": (CLIP, 427_616_513), "gemma3": (GEMMA3, 4_300_079_472), "siglip": (SIGLIP, 877_960_498)}
PUBLISHED |= {"vit": (VIT, 86_389_248)}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_files_as_they_lie_on_the_hub_are_read(name: str) -> None:
    text, count = PUBLISHED[name]
    config = json.loads(text)
    assert of_config(config).spec(config).count().total == count


def test_an_old_end_of_text_is_the_highest_id() -> None:
    assert any(part.part is AtHighest for part in family("clip").spec(json.loads(CLIP)).walk())


def test_a_short_gemma3_config_means_the_pattern_of_its_class() -> None:
    config = json.loads(GEMMA3)
    kinds = [part.args["kind"] for part in of_config(config).spec(config).walk() if "kind" in part.args]
    windows = [kind == Window(1024) for kind in kinds if kind.causal]
    assert windows == [(depth + 1) % 6 != 0 for depth in range(34)]


CLASSES = [
    hf.ViTConfig,
    hf.CLIPConfig,
    hf.SiglipConfig,
    hf.Gemma3TextConfig,
    lambda: hf.Gemma3Config(vision_config={"model_type": "siglip_vision_model", "vision_use_head": False}),
    hf.MllamaConfig,
]


@pytest.mark.parametrize("published", CLASSES)
def test_every_key_transformers_writes_is_known(published: Any) -> None:
    dump = json.loads(published().to_json_string(use_diff=False))
    of_config(dump).spec(dump)


def changed(path: str, **changes: Any) -> dict[str, Any]:
    """A preset with keys of it, or of a config within it (`vision_config__hidden_size`), changed."""
    config = preset_config(path)
    for key, value in changes.items():
        outer, _, inner = key.rpartition("__")
        if outer:
            config[outer] = {**config[outer], inner: value}
        else:
            config[key] = value
    return config


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("vit/b16", {"image_size": [224, 224]}, "image_size"),
        ("vit/b16", {"image_size": 8}, "patch_size"),
        ("vit/b16", {"pooler_act": "relu"}, "pooler_act"),
        ("vit/b16", {"num_attention_heads": 7}, "num_attention_heads"),
        ("clip/b32", {"text_config__eos_token_id": [1, 2]}, "eos_token_id"),
        ("clip/b32", {"vision_config__model_type": "siglip_vision_model"}, "model_type"),
        ("clip/b32", {"vision_config": 5}, "vision_config"),
        ("clip/b32", {"text_config_dict": {"hidden_size": 9}}, "text_config_dict differ"),
        ("clip/b32", {"text_config__window": 5}, "text_config"),
        ("siglip/b16-224", {"vision_config__vision_use_head": False}, "vision_use_head"),
        ("gemma3/1b", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3/1b", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3/1b", {"rope_parameters": {"rope_type": "default"}}, "rope_parameters"),
        ("gemma3/1b", {"rope_parameters": {"sliding_attention": 5}}, "rope_parameters"),
        ("gemma3/1b", {"layer_types": ["full_attention"]}, "layer_types"),
        ("gemma3/4b", {"vision_config__vision_use_head": True}, "pooling head"),
        ("gemma3/4b", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("gemma3/4b", {"image_token_index": -1}, "image_token_index"),
        ("llama3/3.2-11b-vision", {"text_config__cross_attention_layers": [99]}, "cross_attention_layers"),
        ("llama3/3.2-11b-vision", {"vision_config__intermediate_layers_indices": [40]}, "intermediate_layers_indices"),
        ("llama3/3.2-11b-vision", {"vision_config__vision_output_dim": 5}, "vision_output_dim"),
        ("llama3/3.2-11b-vision", {"vision_config__supported_aspect_ratios": [[1, 1]]}, "supported_aspect_ratios"),
    ],
    ids=str,
)
def test_what_cannot_be_computed_is_named(path: str, change: dict[str, Any], said: str) -> None:
    config = changed(path, **change)
    with pytest.raises(CheckpointError, match=said) as error:
        of_config(config).spec(config)
    assert "\n" not in str(error.value)
