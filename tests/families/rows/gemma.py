"""Rows of Gemma and Gemma 2."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import transformers as hf
from torch import Tensor

from tests.families.parity import Row
from tests.families.rows.decoders import PLAIN, TINY_STREAM, old_rope, rotary, without

SMALL = {"head_dim": 10, "tie_word_embeddings": True, "rms_norm_eps": 3e-5}
QUIET = {"norm.weight": 0.3}
"""Norm weights are applied as 1 + w: near zero they leave logits of order 1."""
# Scores and logits large enough for caps of 50 and 30 to show, small enough for an absolute tolerance.
LOUD = {"q_proj.weight": 2.0, "model.norm.weight": 1.5}
TINY = {**TINY_STREAM, "embed_tokens.weight": 6e-3}


def gemma(name: str, *, old: Any = None, scales: Any = None, body: bool = False, **config: Any) -> Row:
    model = hf.GemmaModel if body else hf.GemmaForCausalLM
    scales = {**QUIET, **(scales or {})}
    return rotary(f"gemma-{name}", ("gemma",), hf.GemmaConfig, model, scales=scales, old=old, **{**SMALL, **config})


def gemma2(name: str, *, old: Any = None, scales: Any = None, **config: Any) -> Row:
    config = {**SMALL, "num_hidden_layers": 3, "sliding_window": 5, "query_pre_attn_scalar": 24, **config}
    kind, model, scales = hf.Gemma2Config, hf.Gemma2ForCausalLM, {**QUIET, **(scales or {})}
    return rotary(f"gemma2-{name}", ("gemma2",), kind, model, scales=scales, old=old, **config)


def faint(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the norms behind the sublayers let through is almost nothing: their weights are applied as 1 + w."""
    behind = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")
    return {name: 1e-1 * value - 1 if name.endswith(behind) else value for name, value in tensors.items()}


def renamed(**values: Any) -> Any:
    """The config of a first release: keys with their values, `...` for a key it did not have."""
    return lambda config: {k: v for k, v in {**config, **values}.items() if v is not ...}


ROWS = (
    gemma("gqa-6-2"),
    gemma("mqa-7-1", hidden_size=56, num_attention_heads=7, num_key_value_heads=1, head_dim=16),
    gemma("wide", num_key_value_heads=6, head_dim=16, attention_bias=True),
    gemma("untied", tie_word_embeddings=False),
    gemma("body", body=True),
    gemma("tiny-stream", scales=TINY, tie_word_embeddings=False),
    gemma("hidden-act-gelu", old=renamed(hidden_act="gelu")),
    gemma("both-acts", old=renamed(hidden_act="gelu", hidden_activation="gelu_pytorch_tanh")),
    gemma("act-unsaid", old=without("hidden_act", "tie_word_embeddings")),
    gemma("old", rope_parameters={**PLAIN, "rope_theta": 500.0}, old=old_rope(None)),
    gemma2("plain"),
    gemma2("loud", scales=LOUD),
    gemma2("low-caps", attn_logit_softcapping=1.5, final_logit_softcapping=2.0),
    gemma2("no-caps", attn_logit_softcapping=None, final_logit_softcapping=None),
    gemma2("caps-unsaid", scales=LOUD, old=without("attn_logit_softcapping", "final_logit_softcapping")),
    gemma2(
        "gqa-7-1", hidden_size=56, num_attention_heads=7, num_key_value_heads=1, head_dim=16, attn_logit_softcapping=2.0
    ),
    gemma2("layer-types", layer_types=["full_attention", "sliding_attention", "full_attention"], sliding_window=3),
    gemma2("old", old=renamed(layer_types=..., hidden_act="gelu_pytorch_tanh", sliding_window_size=5)),
    replace(gemma2("tiny-stream", scales=TINY, tie_word_embeddings=False), tensors=faint),
)
