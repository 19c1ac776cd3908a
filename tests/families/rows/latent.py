"""Rows of the models with latent attention, and of Llama-likes whose traps are a number: Mistral, Yi, R1-Distill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from tests.families.numpy_reference import NumpyReference, NumpyRow
from tests.families.parity import (
    LENGTH,
    ROWS_OF_TEXT,
    Check,
    Outputs,
    Reference,
    Row,
    deviation,
    left_padded,
)
from tests.families.rows.decoders import LLAMA3, PLAIN, TINY_STREAM, YARN, old_rope, rotary, without
from tests.references import deepseek_mtp
from vitral.nn import Cache, Causal, Model, drafted

SMALL = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 72,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 12,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 128,
    "rms_norm_eps": 3e-5,
    "rope_parameters": PLAIN,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Softmaxes this flat keep a rounding error what it is: with sharp ones, and experts that weigh 2.5 together, the
# reference itself is 1e-5 away from its own float64.
CALM = {"q_b_proj.weight": 0.4, "q_proj.weight": 0.4, "lm_head.weight": 0.6}
YARN_1 = {**YARN, "factor": 40.0, "original_max_position_embeddings": 32, "mscale": 1.0, "mscale_all_dim": 1.0}
YARN_1 |= {"beta_fast": 32, "beta_slow": 1}


class OneByOne(Reference):
    """With experts run one by one, as odd shapes need."""

    def ask(self, ids: Tensor, theirs: Any = None, **options: Any) -> Outputs:
        theirs = theirs or self.theirs
        theirs.config._experts_implementation = "eager"
        return super().ask(ids, theirs, **options)


def latent(name: str, *, old: Any = None, scales: Any = None, **config: Any) -> Row:
    def make() -> Any:
        return hf.DeepseekV3ForCausalLM(hf.DeepseekV3Config(**{**SMALL, **config}, attn_implementation="eager"))

    return Row(
        name=f"latent-{name}",
        families=("deepseek_v3",),
        make=make,
        config=old,
        tensors=biased,
        scales=scales or CALM,
        reference=OneByOne,
    )


def biased(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A bias for the choice of experts in every router: it is a buffer, which nothing else fills."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in tensors.items():
        if name.endswith("e_score_correction_bias"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return tensors


def published(scaling: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The config.json of the published folder, key by key, with these sizes."""
    today = old_rope({"type": "yarn", **{k: v for k, v in scaling.items() if k not in ("rope_type", "rope_theta")}})
    drop = without("head_dim", "qk_head_dim", "rope_interleave", "output_router_logits", "num_mtp_layers")

    def change(config: dict[str, Any]) -> dict[str, Any]:
        return {
            **drop(today(config)),
            "aux_loss_alpha": 0.001,
            "auto_map": {
                "AutoConfig": "configuration_deepseek.DeepseekV3Config",
                "AutoModel": "modeling_deepseek.DeepseekV3Model",
                "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
            },
            "ep_size": 1,
            "moe_layer_freq": 1,
            "num_nextn_predict_layers": 1,
            "scoring_func": "sigmoid",
            "seq_aux": True,
            "topk_method": "noaux_tc",
        }

    return change


# ── the draft: what multi-token prediction adds, against NumPy ──────────────────────────────────────────────


class DraftReference(NumpyReference):
    """Files of the whole model: the draft stands where one more layer would."""

    @staticmethod
    def checks(row: Row) -> Iterator[Check]:
        yield from NumpyReference.checks(row)
        yield from (drafts_pass, drafts_cached, drafts_padded)

    def drafts(self, ids: Tensor) -> Tensor:
        tensors, config = self.theirs
        return torch.from_numpy(deepseek_mtp.drafts(tensors, config, ids.numpy()))


def drafts_pass(ref: Any, ours: Model) -> float:
    """Every guess over whole texts."""
    with torch.no_grad():
        (mine,) = drafted(ours, ref.ids)
    return deviation(ref.drafts(ref.ids), mine)


def drafts_cached(ref: Any, ours: Model) -> float:
    """The same when the text comes in pieces, through a cache of the draft's own."""
    (draft,) = ours.drafts
    cache = Cache(draft.new_cache, (Causal(),), rows=ROWS_OF_TEXT, length=LENGTH, chunk=5)
    out = []
    with torch.no_grad():
        hidden = ours.hidden(ref.ids)[:, :-1]
        for piece, ahead in zip(hidden.split(5, 1), ref.ids[:, 1:].split(5, 1), strict=True):
            step = cache.extend(ahead.shape[1])
            out.append(ours.head(draft(piece, ours.embed(ahead, step), step)))  # type: ignore[misc]
    return deviation(ref.drafts(ref.ids), torch.cat(out, 1))


def drafts_padded(ref: Any, ours: Model) -> float:
    """Texts of different lengths side by side, padded on the left."""
    texts = [ref.ids[0], ref.ids[1, :20], ref.ids[2, :7]]
    ids, valid = left_padded(texts)
    with torch.no_grad():
        (mine,) = drafted(ours, ids, valid)
    return max(deviation(ref.drafts(t[None])[0], row[1 - len(t) :]) for t, row in zip(texts, mine, strict=True))


def with_draft(name: str, **config: Any) -> Row:
    today = {key: value for key, value in SMALL.items() if key != "rope_parameters"}
    yarn = {"type": "yarn", **{k: v for k, v in YARN_1.items() if k not in ("rope_type", "rope_theta")}}
    mine = {"model_type": "deepseek_v3", "norm_topk_prob": True, "routed_scaling_factor": 2.5, "hidden_act": "silu"}
    mine |= {"num_nextn_predict_layers": 1, "rope_theta": 10000.0, "rope_scaling": yarn, "_vitral_drafts": 1}
    return NumpyRow(
        name=f"latent-{name}",
        families=("deepseek_v3",),
        module=deepseek_mtp,
        make=lambda: {**today, **mine, **config},
        tensors=biased,
        scales={"q.up.weight": 0.4, "head.proj.weight": 0.6},
        reference=DraftReference,
    )


def mistral(name: str, *, old: Any = None, scales: Any = None, **config: Any) -> Row:
    config = {"sliding_window": None, "rms_norm_eps": 1e-5, **config}
    kinds = hf.MistralConfig, hf.MistralForCausalLM
    return rotary(f"mistral-{name}", ("mistral",), *kinds, old=old, scales=scales, **config)


def llama(name: str, family: str, **config: Any) -> Row:
    return rotary(name, (family,), hf.LlamaConfig, hf.LlamaForCausalLM, **config)


def base(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


ROWS = (
    latent("plain"),
    latent("yarn", rope_parameters=YARN_1),
    latent("yarn-0.707", rope_parameters={**YARN_1, "mscale": 0.707, "mscale_all_dim": 0.707}),
    latent("yarn-mscales", rope_parameters={**YARN_1, "mscale": 1.5, "mscale_all_dim": 0.5}),
    latent("yarn-unscaled", rope_parameters={**YARN, "factor": 8.0}),
    latent("yarn-attention", rope_parameters={**YARN_1, "attention_factor": 1.3}),
    latent("full-rank-query", q_lora_rank=None),
    latent("half-split", rope_interleave=False),
    latent("bias", attention_bias=True),
    latent("tied", tie_word_embeddings=True),
    latent("one-group", n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0),
    latent("two-shared", n_shared_experts=2, first_k_dense_replace=0, n_group=2, topk_group=1),
    latent("all-dense", first_k_dense_replace=2),
    latent(
        "odd",
        hidden_size=45,
        kv_lora_rank=21,
        q_lora_rank=13,
        qk_nope_head_dim=7,
        qk_rope_head_dim=6,
        v_head_dim=5,
        num_attention_heads=3,
        num_key_value_heads=3,
        moe_intermediate_size=9,
    ),
    latent("tiny-stream", scales={**CALM, **TINY_STREAM, "kv_a_proj_with_mqa.weight": 2e-3, "q_a_proj.weight": 2e-3}),
    latent("published", rope_parameters=YARN_1, old=published(YARN_1)),
    with_draft("draft"),
    mistral("v0.1", sliding_window=5),
    mistral("v0.2", rope_parameters=base(1e6)),
    mistral("gqa-7-1", hidden_size=56, num_attention_heads=7, num_key_value_heads=1, sliding_window=1),
    mistral("head-dim", head_dim=10, sliding_window=37),
    mistral("tiny-stream", scales=TINY_STREAM, sliding_window=9),
    mistral("old", sliding_window=4, old=old_rope(None)),
    mistral("old-null", old=old_rope(None)),
    mistral("old-unsaid", old=without("sliding_window")),
    llama("yi", "yi", rope_parameters=base(5e6), rms_norm_eps=1e-5, num_attention_heads=8, num_key_value_heads=1),
    llama("yi-old", "yi", rms_norm_eps=1e-5, rope_parameters=base(5e6), old=old_rope(None)),
    llama("r1-llama", "r1_distill", head_dim=16, rope_parameters=LLAMA3, max_position_embeddings=131072),
    rotary(
        "r1-qwen",
        ("r1_distill",),
        hf.Qwen2Config,
        hf.Qwen2ForCausalLM,
        rope_parameters=base(1e4),
        tie_word_embeddings=False,
        use_sliding_window=False,
        sliding_window=4096,
        max_window_layers=21,
        old=without("layer_types"),
    ),
)
