"""GGUF metadata is closed: a key under the architecture's name is read, known to say nothing, or an error."""

from __future__ import annotations

from typing import Any

import pytest

from tests.artefacts import artefact
from vitral.errors import CheckpointError
from vitral.weights.gguf import GGUFFile
from vitral.weights.gguf_config import ARCHITECTURES, hf_config

RMS = ("llama", "qwen2", "qwen3")
GENERAL = {
    "general.name": "x", "general.license": "mit", "general.quantization_version": 2, "quantize.imatrix.file": "x",
    "split.count": 1, "tokenizer.ggml.model": "gpt2", "mystery.key": 5,
}  # fmt: skip


def metadata(arch: str) -> dict[str, Any]:
    """What a small model of the architecture must say."""
    epsilon = "layer_norm_rms_epsilon" if arch in RMS else "layer_norm_epsilon"
    fields = {
        "context_length": 64, "embedding_length": 32, "block_count": 1, "feed_forward_length": 48, "vocab_size": 10,
        "attention.head_count": 2, f"attention.{epsilon}": 1e-5,
    }  # fmt: skip
    return {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in fields.items()}}


def refuse(arch: str, key: str, value: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        hf_config({**metadata(arch), f"{arch}.{key}": value}, [])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("key", ["atention.scale", "attention.temperature_scale", "rope.dimension_sections", "ssm.x"])
def test_a_key_nobody_knows_is_an_error(arch: str, key: str) -> None:
    assert f"{arch}.{key}" in refuse(arch, key, 0)


def test_a_misspelt_key_is_put_right() -> None:
    assert "Did you mean 'llama.rope.freq_base'" in refuse("llama", "rope.freq_bas", 1e4)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_keys_of_other_rooms_say_nothing(arch: str) -> None:
    assert hf_config({**metadata(arch), **GENERAL}, []) == hf_config(metadata(arch), [])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_direction_of_attention_is_the_architecture_s(arch: str) -> None:
    causal = arch != "bert"
    plain = hf_config(metadata(arch), [])
    assert hf_config({**metadata(arch), f"{arch}.attention.causal": causal}, []) == plain
    assert f"{arch}.attention.causal" in refuse(arch, "attention.causal", not causal)


@pytest.mark.parametrize("arch", RMS)
def test_what_llama_cpp_s_converter_writes_is_accepted(arch: str) -> None:
    said = {
        "attention.head_count_kv": 2, "attention.key_length": 16, "attention.value_length": 16,
        "rope.dimension_count": 16, "rope.freq_base": 10000.0, "expert_count": 0, "expert_used_count": 0,
        "attention.clamp_kqv": 0.0, "attention.max_alibi_bias": 0.0, "attention.sliding_window": 0,
        "rope.scaling.type": "none", "rope.scaling.finetuned": False, "rope.scaling.original_context_length": 64,
        "rope.scaling.attn_factor": 1.0, "rope.scaling.yarn_log_multiplier": 0.0, "use_parallel_residual": False,
        "tensor_data_layout": "Meta AI original pth", "pooling_type": 3, "logit_scale": 1.0,
    }  # fmt: skip
    found = hf_config({**metadata(arch), **{f"{arch}.{key}": value for key, value in said.items()}}, [])
    assert found == hf_config(metadata(arch), [])


@pytest.mark.parametrize("arch", ["gpt2", "bert"])
def test_grouped_queries_where_there_are_none(arch: str) -> None:
    """The newer converter writes the general keys for every architecture; they must agree with what there is."""
    said = {"attention.head_count_kv": 2, "attention.key_length": 16, "attention.value_length": 16}
    found = hf_config({**metadata(arch), **{f"{arch}.{key}": value for key, value in said.items()}}, [])
    assert found == hf_config(metadata(arch), [])
    for key in said:
        assert key in refuse(arch, key, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expert_count", 8), ("expert_used_count", 2), ("attention.clamp_kqv", 8.0), ("attention.max_alibi_bias", 8.0),
        ("logit_scale", 0.5), ("rope.scaling.yarn_log_multiplier", 0.1), ("rope.scaling.attn_factor", 1.2),
        ("rope.scaling.alpha", 1000.0), ("rope.scaling.yarn_ext_factor", 0.5), ("pooling_type", 4),
        ("pooling_type", "mean"), ("swin_norm", True), ("final_logit_softcapping", 30.0), ("rope.freq_base", "x"),
        ("rope.freq_base", 0.0), ("rope.scaling.factor", "2"), ("rope.scale_linear", -2.0),
    ],
)  # fmt: skip
def test_what_would_change_the_numbers_is_refused(key: str, value: Any) -> None:
    assert key in refuse("llama", key, value)


def test_a_real_file_is_accepted() -> None:
    held = GGUFFile(artefact("smollm2")).metadata
    hf_config(held, ["output.weight"])
    with pytest.raises(CheckpointError, match=r"llama\.attention\.tempo"):
        hf_config({**held, "llama.attention.tempo": 1}, [])
