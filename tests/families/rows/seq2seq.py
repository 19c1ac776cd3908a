"""Rows of the encoder–decoders: T5, UL2, Switch, BART, Marian, and the Transformer of 2017."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

from tests.families.parity import Row
from tests.families.seq2seq import ByDistance, Renamed, Routed, Seq2SeqNumpy, Seq2SeqReference
from tests.references import transformer

QUIET = {"SelfAttention.q.weight": 0.4, "EncDecAttention.q.weight": 0.4, "encoder.final_layer_norm.weight": 0.6}
"""Scores that are not divided by sqrt(D) made small, where rounding would grow with every layer."""
LOUD = {**QUIET, "shared.weight": 3.0}
"""The same, and tables whose logits are of order 1 though they are scaled by d^-0.5."""
# With these the residual stream's variance comes near eps, so that every norm's eps shows.
TINY_T5 = {**QUIET, "shared.weight": 2e-2, "o.weight": 5e-3, "wo.weight": 5e-3}
TINY_POST = {
    **{"shared.weight": 1e-2, "embed_positions.weight": 1e-2},
    **{f"{place}.{name}": 2e-3 for place in ("layer_norm", "layernorm_embedding") for name in ("weight", "bias")},
    **{f"{place}.{name}": 2e-3 for place in ("out_proj", "fc2") for name in ("weight", "bias")},
    **{f"layers.1.final_layer_norm.{name}": 500.0 for name in ("weight", "bias")},
}


def t5(
    name: str,
    *,
    families: tuple[str, ...] = ("t5",),
    model: str = "T5ForConditionalGeneration",
    scales: Any = None,
    old: Any = None,
    tensors: Any = None,
    untied: bool = False,
    **config: Any,
) -> Row:
    small = {"vocab_size": 61, "d_model": 48, "d_kv": 10, "d_ff": 72, "num_layers": 2, "num_heads": 5}
    small |= {"layer_norm_epsilon": 3e-5, "decoder_start_token_id": 0}

    def make() -> Any:
        made = getattr(hf, model)(hf.T5Config(**{**small, **config}, attn_implementation="eager"))
        if untied:  # transformers ties every new one, and keeps them apart where a file holds both
            made.lm_head.weight = nn.Parameter(torch.empty(61, 48))
        return made

    return Row(
        name=f"t5-{name}",
        families=families,
        make=make,
        config=old,
        tensors=tensors,
        scales=scales or LOUD,
        same_names=tensors is None,
        reference=ByDistance,
    )


def switch(name: str, *, scales: Any = None, **config: Any) -> Row:
    small = {"vocab_size": 61, "d_model": 48, "d_kv": 10, "d_ff": 40, "num_layers": 4, "num_decoder_layers": 4}
    small |= {"num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2, "num_heads": 5, "num_experts": 4}
    small |= {"layer_norm_epsilon": 3e-5, "decoder_start_token_id": 0}

    def make() -> Any:
        config_ = hf.SwitchTransformersConfig(**{**small, **config}, attn_implementation="eager")
        return hf.SwitchTransformersForConditionalGeneration(config_)

    return Row(
        name=f"switch-{name}", families=("switch",), make=make, scales={**LOUD, **(scales or {})}, reference=Routed
    )


def post_norm(
    name: str,
    family: str,
    kind: Any,
    model: Any,
    *,
    scales: Any = None,
    old: Any = None,
    tensors: Any = None,
    **config: Any,
) -> Row:
    """BART and Marian, whose configs have the same keys."""
    small = {"vocab_size": 61, "d_model": 48, "max_position_embeddings": 64, "encoder_layers": 2, "decoder_layers": 2}
    small |= {"encoder_attention_heads": 6, "decoder_attention_heads": 6, "encoder_ffn_dim": 72, "decoder_ffn_dim": 72}
    small |= {"pad_token_id": 1, "decoder_start_token_id": 2}

    def make() -> Any:
        return model(kind(**{**small, **config}, attn_implementation="eager"))

    return Row(
        name=f"{family}-{name}",
        families=(family,),
        make=make,
        config=old,
        tensors=tensors,
        scales=scales,
        same_names=tensors is None and model is not hf.MarianModel,  # which saves its sinusoids
        reference=Seq2SeqReference,
    )


def bart(name: str, *, model: Any = hf.BartForConditionalGeneration, **options: Any) -> Row:
    return post_norm(name, "bart", hf.BartConfig, model, **options)


def marian(name: str, *, model: Any = hf.MarianMTModel, **options: Any) -> Row:
    return post_norm(name, "marian", hf.MarianConfig, model, **{"activation_function": "swish", **options})


# ── what older files say in place of what transformers writes today ─────────────────────────────────────────


def old_t5(config: dict[str, Any]) -> dict[str, Any]:
    """v1.0 on the hub."""
    new = ("scale_decoder_outputs", "dense_act_fn", "is_gated_act", "classifier_dropout", "is_decoder", "dtype")
    config = {key: value for key, value in config.items() if key not in new}
    more = {"n_positions": 512, "output_past": True, "architectures": ["T5ForConditionalGeneration"]}
    return {**config, **more, "task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}}}


def old_v1_1(config: dict[str, Any]) -> dict[str, Any]:
    return {**old_t5(config), "tie_word_embeddings": False}


def hub_t5(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The table under each of its names, and a bias of the cross-attention that no code reads."""
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    spare = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.randn(32, 5)}
    return {**tensors, **{name: tensors["shared.weight"].clone() for name in names}, **spare}


def old_post_norm(**more: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(config: dict[str, Any]) -> dict[str, Any]:
        config = {key: value for key, value in config.items() if key not in ("is_decoder", "dtype")}
        beside = {"num_hidden_layers": 2, "normalize_before": False, "add_final_layer_norm": False, "max_length": 512}
        return {**config, **beside, "add_bias_logits": False, "classif_dropout": 0.0, **more}

    return change


def hub_names(static: bool) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The table under each of its names, and sinusoids written out as tables."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        names = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
        tensors = {**tensors, **{name: tensors["model.shared.weight"].clone() for name in names}}
        if static:
            table = MarianSinusoidalPositionalEmbedding(64, 48).create_weight()
            tensors |= {f"model.{side}.embed_positions.weight": table.clone() for side in ("encoder", "decoder")}
        return tensors

    return change


# ── the Transformer of 2017 ─────────────────────────────────────────────────────────────────────────────────


def original(name: str, **config: Any) -> Row:
    """Beside the NumPy reference; what is not given is as in the preset, but small."""
    small = {
        "model_type": "transformer",
        "architectures": ["Transformer"],
        "is_encoder_decoder": True,
        "vocab_size": 61,
    }
    small |= {"d_model": 48, "max_position_embeddings": 64, "activation_function": "relu", "layer_norm_eps": 3e-5}
    small |= {"encoder_layers": 2, "encoder_attention_heads": 6, "encoder_ffn_dim": 72, "tie_word_embeddings": True}
    small |= {"decoder_layers": 2, "decoder_attention_heads": 6, "decoder_ffn_dim": 72, "scale_embedding": True}
    return Row(
        name=f"transformer-{name}",
        families=("transformer",),
        make=lambda: (transformer, {**small, **config}),
        reference=Seq2SeqNumpy,
    )


def as_marian() -> Row:
    """Marian with ReLU is the same model with biases, halves, and another eps: given that name, it must stay itself."""

    def make() -> Any:
        config = {
            "vocab_size": 61,
            "d_model": 48,
            "max_position_embeddings": 64,
            "activation_function": "relu",
            "pad_token_id": 1,
        }
        config |= {f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in SIZES.items()}
        return hf.MarianMTModel(hf.MarianConfig(**config, scale_embedding=True, attn_implementation="eager"))

    def rename(config: dict[str, Any]) -> dict[str, Any]:
        kept = ("d_model", "vocab_size", "max_position_embeddings", "activation_function", "is_encoder_decoder")
        ours = {"model_type": "transformer", "layer_norm_eps": 1e-5, "attention_bias": True, "sinusoid": "halves"}
        return {**{k: v for k, v in config.items() if k in kept or k.endswith(tuple(SIZES))}, **ours}

    def bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("model."): value for name, value in tensors.items() if name != "final_logits_bias"}

    row = Row(name="transformer-marian", families=("transformer",), make=make, config=rename, tensors=bare)
    return replace(row, scales={"final_logits_bias": 0.0}, reference=Renamed)


SIZES = {"layers": 2, "attention_heads": 6, "ffn_dim": 72}
V1_1 = {"feed_forward_proj": "gated-gelu", "scale_decoder_outputs": False}
ROWS = (
    original("plain"),
    original("odd", d_model=54, encoder_layers=1, decoder_layers=3, decoder_attention_heads=9, decoder_ffn_dim=50),
    original("untied", tie_word_embeddings=False, attention_bias=True, sinusoid="halves", scale_embedding=False),
    original("beside", tie_word_embeddings=False, position_width=15),
    as_marian(),
    t5("v1.0"),
    t5("hub", old=old_t5, tensors=hub_t5),
    t5("odd", num_heads=7, d_kv=12, num_decoder_layers=3, num_layers=1),
    t5("few-buckets", relative_attention_num_buckets=8, relative_attention_max_distance=20),
    t5("erf", feed_forward_proj="gelu"),
    t5("tiny-stream", **V1_1, tie_word_embeddings=False, untied=True, scales=TINY_T5),
    t5("body", model="T5Model"),
    t5("v1.1", **V1_1, tie_word_embeddings=False, untied=True, scales=QUIET),
    t5("v1.1-hub", **V1_1, tie_word_embeddings=False, untied=True, scales=QUIET, old=old_v1_1),
    t5("v1.1-tied", **V1_1, tie_word_embeddings=False, scales=QUIET),
    t5("gated-scaled", feed_forward_proj="gated-relu"),
    t5("ul2", families=("ul2",), feed_forward_proj="gated-silu", tie_word_embeddings=False, untied=True, scales=QUIET),
    switch("plain"),
    switch("full-experts", expert_capacity=3),
    switch("every-layer", num_layers=2, num_decoder_layers=2, router_bias=True, expert_capacity=7),
    switch("every-third", num_layers=6, num_decoder_layers=3, num_sparse_decoder_layers=1),
    bart("plain"),
    bart(
        "odd",
        encoder_layers=1,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=12,
        decoder_ffn_dim=50,
    ),
    bart("scaled-tanh", scale_embedding=True, activation_function="gelu_new"),
    bart("body", model=hf.BartModel),
    bart("tiny-stream", model=hf.BartModel, scales=TINY_POST),
    bart("hub", old=old_post_norm(normalize_embedding=True, extra_pos_embeddings=2), tensors=hub_names(static=False)),
    marian("plain"),
    marian("scaled", scale_embedding=True),
    marian(
        "odd", encoder_layers=1, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=12, d_model=60
    ),
    marian("two-tables", share_encoder_decoder_embeddings=False, decoder_vocab_size=47),
    marian("body", model=hf.MarianModel),
    marian("tiny-stream", model=hf.MarianModel, scales=TINY_POST),
    marian(
        "hub",
        scale_embedding=True,
        old=old_post_norm(normalize_embedding=False, static_position_embeddings=True, bad_words_ids=[[60]]),
        tensors=hub_names(static=True),
    ),
)
