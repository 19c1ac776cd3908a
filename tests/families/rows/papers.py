"""Rows of the families that were published without code, and of GPT and Qwen.

GPT and the dense GPT-3 are checked against classes of transformers; the others against `tests/references/`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from tests.families.numpy_reference import NumpyRow, numpy_row
from tests.families.parity import Reference, Row, tied_head
from tests.references import glam, gopher, gpt3, lamda, palm, qwen1
from vitral.nn import Model
from vitral.weights.load import load_model, open_checkpoint

# ── GPT, against transformers ───────────────────────────────────────────────────────────────────────────────

TINY_GPT = {"tokens_embed.weight": 3e-2, "positions_embed.weight": 3e-2, "ln_1.weight": 2e-3, "ln_1.bias": 2e-3}
TINY_GPT |= {"c_proj.weight": 5e-3, "c_proj.bias": 5e-3}


def gpt1(name: str, *, body: bool = False, scales: Any = None, tensors: Any = None, **config: Any) -> Row:
    small = {"vocab_size": 61, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 64, "layer_norm_epsilon": 3e-5}

    def make() -> Any:
        config_ = hf.OpenAIGPTConfig(**{**small, **config}, attn_implementation="eager")
        return (hf.OpenAIGPTModel if body else hf.OpenAIGPTLMHeadModel)(config_)

    return Row(
        name=f"gpt1-{name}",
        families=("gpt1",),
        make=make,
        scales=scales,
        tensors=tensors,
        config=hub_config if tensors else None,
        same_names=tensors is None,
    )


def hub(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published file: no prefix, and each layer's causal mask as a buffer."""
    out = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    return out | {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64).tril() for i in range(3)}


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "n_ctx": 64, "n_special": 0, "predict_special_tokens": True}


# ── GPT-3 and InstructGPT ───────────────────────────────────────────────────────────────────────────────────


class AsGPT3(Reference):
    """A file of GPT-2 read as one of GPT-3, whose dense body it is."""

    def load(self, dtype: torch.dtype = torch.float32) -> Model:
        found = open_checkpoint(self.folder)
        kept = {key: found.config[key] for key in ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size")}
        config = {**kept, "model_type": "gpt3", "tie_word_embeddings": True}
        return load_model(replace(found, config=config), dtype=dtype)[0]


def dense_gpt3() -> Row:
    def make() -> Any:
        small = {"vocab_size": 61, "n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": 2048}
        return hf.GPT2LMHeadModel(hf.GPT2Config(**small, attn_implementation="eager"))

    return Row(name="gpt3-as-gpt2", families=("gpt3",), make=make, reference=AsGPT3)


def papers_gpt3(name: str, *, families: tuple[str, ...] = ("gpt3",), **config: Any) -> NumpyRow:
    small = {"model_type": families[0], "vocab_size": 61, "n_embd": 48, "n_layer": 4, "n_head": 6, "n_positions": 64}
    small |= {"layer_norm_epsilon": 3e-5, "activation_function": "gelu_new", "tie_word_embeddings": True}
    skips = () if config.get("language_head", True) else (tied_head,)
    return numpy_row(f"{families[0]}-{name}", families, gpt3, {**small, **config}, skips=skips)


# ── the others ──────────────────────────────────────────────────────────────────────────────────────────────

SMALL = {"vocab_size": 61, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6}
SMALL |= {"intermediate_size": 72, "max_position_embeddings": 128, "rms_norm_eps": 3e-5, "tie_word_embeddings": True}
# With these the stream's variance comes near eps, so that every norm's eps shows.
TINY_STREAM = {"embed.tokens.weight": 4e-2, "mixer.o.weight": 5e-3, "down.weight": 5e-3, "attn.o.weight": 5e-3}


def papers_gopher(name: str, *, scales: Any = None, **config: Any) -> NumpyRow:
    config = {"model_type": "gopher", **SMALL, "hidden_act": "gelu_pytorch_tanh", **config}
    families = ("gopher", "chinchilla") if config["model_type"] == "gopher" else ("chinchilla",)
    return numpy_row(f"{config['model_type']}-{name}", families, gopher, config, scales=scales)


BUCKETS = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "hidden_act": "gelu"}


def papers_lamda(name: str, *, scales: Any = None, **config: Any) -> NumpyRow:
    config = {"model_type": "lamda", **SMALL, **BUCKETS, "head_dim": 16, **config}
    return numpy_row(f"lamda-{name}", ("lamda",), lamda, config, scales=scales)


def papers_glam(name: str, *, scales: Any = None, **config: Any) -> NumpyRow:
    config = {"model_type": "glam", **SMALL, **BUCKETS, "num_hidden_layers": 4, "num_experts": 5, **config}
    return numpy_row(f"glam-{name}", ("glam",), glam, config, scales=scales)


def papers_palm(name: str, *, scales: Any = None, **config: Any) -> NumpyRow:
    small = {key: value for key, value in SMALL.items() if key != "rms_norm_eps"} | {"layer_norm_eps": 3e-5}
    config = {"model_type": "palm", **small, "num_key_value_heads": 1, "head_dim": 10, **config}
    scales = {"embed.tokens.weight": 48**0.5} if scales is None else scales  # input is not scaled, logits are
    return numpy_row(f"palm-{name}", ("palm",), palm, config, scales=scales)


def papers_qwen1(name: str, *, grows: bool = False, old: Any = None, **config: Any) -> NumpyRow:
    small = {key: value for key, value in SMALL.items() if key != "rms_norm_eps"}
    small |= {"model_type": "qwen", "layer_norm_epsilon": 3e-5, "tie_word_embeddings": False, "kv_channels": 8}
    small |= {"intermediate_size": 144, "rotary_emb_base": 10000, "seq_length": 64}
    config = {**small, "use_dynamic_ntk": True, "use_logn_attn": True, **config}
    return numpy_row(f"qwen1-{name}", ("qwen1",), qwen1, config, grows=grows, config=old)


def published(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that every published file of Qwen carries."""
    code = {"AutoConfig": "configuration_qwen.QWenConfig", "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"}
    config |= {"auto_map": code, "no_bias": True, "onnx_safe": None, "rotary_pct": 1.0, "scale_attn_weights": True}
    config |= {"use_flash_attn": "auto", "bf16": False, "fp16": False, "fp32": False, "use_cache": True}
    config |= {"attn_dropout_prob": 0.0, "emb_dropout_prob": 0.0, "tokenizer_class": "QWenTokenizer"}
    return config | {"initializer_range": 0.02, "transformers_version": "4.32.0", "torch_dtype": "bfloat16"}


ROWS = (
    gpt1("plain"),
    gpt1("body", body=True),
    gpt1("relu", afn="relu"),
    gpt1("hub", tensors=hub),
    gpt1("tiny-stream", scales=TINY_GPT, tie_word_embeddings=False),
    dense_gpt3(),
    papers_gpt3("dense"),
    papers_gpt3("banded", attention_pattern=["dense", "banded"], band=5),
    papers_gpt3("strided", attention_pattern=["banded", "strided"], band=4, stride=4),
    papers_gpt3("printed", head_dim=10, n_inner=96),
    papers_gpt3("policy", families=("instructgpt",), score=True),
    papers_gpt3("reward", families=("instructgpt",), score=True, language_head=False),
    papers_gopher("plain"),
    papers_gopher("wide-heads", head_dim=12),
    papers_gopher("tiny-stream", scales=TINY_STREAM, tie_word_embeddings=False),
    papers_gopher("plain", model_type="chinchilla"),
    papers_lamda("plain"),
    papers_lamda("tiny-stream", scales=TINY_STREAM, tie_word_embeddings=False),
    papers_glam("plain"),
    papers_glam("dense", num_experts=0),
    papers_palm("plain"),
    papers_palm("base", rope_theta=500.0),
    papers_palm("tiny-stream", scales=TINY_STREAM | {"head.proj.weight": 48**0.5}, tie_word_embeddings=False),
    papers_qwen1("plain"),
    papers_qwen1("hub", old=published),
    papers_qwen1("grown", seq_length=16, grows=True),
    papers_qwen1("grown-far", seq_length=7, use_logn_attn=False, grows=True),
    papers_qwen1("log-n", seq_length=6, use_dynamic_ntk=False),
    papers_qwen1("wide-heads", kv_channels=12, seq_length=6, use_dynamic_ntk=False),
)
