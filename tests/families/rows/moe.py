"""Rows of the mixtures of experts: Mixtral, Qwen1.5 and Qwen2 (`qwen2_moe`), Qwen3 (`qwen3_moe`), Grok-1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from tests.families.numpy_reference import NumpyReference, NumpyRow, numpy_row
from tests.families.parity import Check, Reference, Row, checks, worst
from tests.families.rows.decoders import PLAIN, TINY_STREAM, YARN, old_rope, rotary, without
from tests.references import grok1 as grok1_reference
from vitral.nn import Model, Router

EAGER = {"experts_implementation": "eager"}  # one expert after the other: equal bits, and sizes of any number

# ── the same experts for every token ────────────────────────────────────────────────────────────────────────


def chosen(model: nn.Module, kind: Any, ids: Any, run: Any) -> list[Tensor]:
    """What each router of a model chose in one run, layer by layer: [tokens, k], in the order of the numbers."""
    found: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        found.append(ids(output).flatten(0, -2).sort(-1).values)

    with ExitStack() as undo, torch.no_grad():
        for module in model.modules():
            if kind(module):
                undo.callback(module.register_forward_hook(keep).remove)
        run()
    return found


def ours_chosen(ours: Model, ids: Tensor) -> list[Tensor]:
    return chosen(ours, lambda m: isinstance(m, Router), lambda routing: routing.ids, lambda: ours(ids))


def same_routes(ref: Reference, ours: Model) -> float:
    """How many tokens of all layers meet other experts than in the reference. One is too many."""
    theirs, mine = ref.chosen(), ours_chosen(ours, ref.ids)  # type: ignore[attr-defined]
    assert theirs, "the reference has no routers"
    if [each.shape for each in theirs] != [each.shape for each in mine]:
        return float("inf")
    return float(sum((a != b).any(-1).sum().item() for a, b in zip(theirs, mine, strict=True)))


class Routed(Reference):
    """A mixture of experts of transformers, its experts run one by one."""

    @staticmethod
    def checks(row: Row) -> Iterator[Check]:
        yield from checks(row)
        yield same_routes

    def _rewrite(self) -> None:
        super()._rewrite()
        self.theirs = self.read(type(self.theirs), self.folder)

    def read(self, kind: Any, folder: Path) -> Any:
        """A model of transformers from a folder. Its numbers get memory of their own: where in a file they lie may
        change the last bit of a product.
        """
        model = kind.from_pretrained(folder, attn_implementation="eager", **EAGER).eval()
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return model

    def answers_again(self, folder: Path) -> float:
        return worst(self.full, self.ask(self.ids, self.read(type(self.theirs), folder)))

    def body_again(self, folder: Path) -> float:
        bodies = self.theirs.base_model, self.read(hf.AutoModel, folder)
        return worst(*(self.ask(self.ids, body) for body in bodies))

    def chosen(self) -> list[Tensor]:
        def is_router(module: nn.Module) -> bool:
            return type(module).__name__.endswith("TopKRouter")

        return chosen(self.theirs, is_router, lambda output: output[2], lambda: self.theirs(self.ids))


class RoutedNumpy(NumpyReference):
    """A mixture of experts written in NumPy."""

    @staticmethod
    def checks(row: Row) -> Iterator[Check]:
        yield from NumpyReference.checks(row)
        yield same_routes

    def chosen(self) -> list[Tensor]:
        tensors, config = self.theirs
        routes: list[Any] = []
        self.row.module.logits(tensors, config, self.ids.numpy(), routes=routes)
        layers = config["num_hidden_layers"]
        per_layer = [routes[depth::layers] for depth in range(layers)]  # they come text by text
        return [torch.cat([torch.from_numpy(each).sort(-1).values for each in layer]) for layer in per_layer]


# ── the rows ────────────────────────────────────────────────────────────────────────────────────────────────

TINY_EXPERTS = {**TINY_STREAM, "experts.down_proj": 5e-3}


def mixtral(
    name: str, *, model: Any = hf.MixtralForCausalLM, scales: Any = None, old: Any = None, **config: Any
) -> Row:
    config = {**EAGER, "num_local_experts": 5, "num_experts_per_tok": 2, **config}
    scales = {"lm_head.weight": 0.6, **(scales or {})}
    row = rotary(f"mixtral-{name}", ("mixtral",), hf.MixtralConfig, model, scales=scales, old=old, **config)
    return replace(row, reference=Routed)


def qwen2_moe(name: str, *, scales: Any = None, old: Any = None, **config: Any) -> Row:
    config = {**EAGER, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20, **config}
    config = {"shared_expert_intermediate_size": 28, **config}
    kind, model = hf.Qwen2MoeConfig, hf.Qwen2MoeForCausalLM
    row = rotary(f"qwen2-moe-{name}", ("qwen15", "qwen2"), kind, model, scales=scales, old=old, **config)
    return replace(row, reference=Routed)


def qwen3_moe(name: str, *, scales: Any = None, old: Any = None, **config: Any) -> Row:
    config = {
        **EAGER,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 20,
        "head_dim": 10,
        **config,
    }
    kind, model = hf.Qwen3MoeConfig, hf.Qwen3MoeForCausalLM
    row = rotary(f"qwen3-moe-{name}", ("qwen3",), kind, model, scales=scales, old=old, **config)
    return replace(row, reference=Routed)


def grok1(name: str, *, scales: Any = None, **config: Any) -> NumpyRow:
    small = {"model_type": "grok1", "vocab_size": 61, "hidden_size": 48, "intermediate_size": 72, "head_dim": 10}
    small |= {"num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "rms_norm_eps": 3e-5}
    small |= {"num_experts": 5, "num_experts_per_tok": 2, "max_position_embeddings": 128}
    small |= {"attn_output_multiplier": 0.4, "embedding_multiplier_scale": 6.5, "output_multiplier_scale": 0.577}
    row = numpy_row(f"grok1-{name}", ("grok1",), grok1_reference, {**small, **config}, scales=scales)
    return replace(row, reference=RoutedNumpy)


NORMALISED = {"norm_topk_prob": True}
EVERY_OTHER = {"decoder_sparse_step": 2, "num_hidden_layers": 4}
ROWS = (
    mixtral("plain"),
    mixtral("top-1", num_experts_per_tok=1),
    mixtral("all", num_experts_per_tok=5),
    mixtral("gqa-7-1", hidden_size=56, num_attention_heads=7, num_key_value_heads=1, head_dim=10),
    mixtral("tied", tie_word_embeddings=True, hidden_act="gelu"),
    mixtral("body", model=hf.MixtralModel),
    mixtral("window", sliding_window=5),
    mixtral("yarn", head_dim=16, rope_parameters={**YARN, "rope_theta": 1e6}),
    mixtral("tiny-stream", scales=TINY_EXPERTS),
    mixtral("old", rope_parameters={**PLAIN, "rope_theta": 1e4}, old=old_rope(None)),
    qwen2_moe("plain"),
    qwen2_moe("normalised", **NORMALISED),
    qwen2_moe("no-bias-tied", qkv_bias=False, tie_word_embeddings=True),
    qwen2_moe("every-other", **EVERY_OTHER),
    qwen2_moe("some-dense", mlp_only_layers=[1], num_hidden_layers=3, decoder_sparse_step=1),
    qwen2_moe("window", use_sliding_window=True, sliding_window=4, max_window_layers=3, num_hidden_layers=4),
    qwen2_moe(
        "old-window",
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=3,
        num_hidden_layers=4,
        old=without("layer_types"),
    ),
    qwen2_moe("old-window-off", max_window_layers=1, old=without("layer_types", "norm_topk_prob")),
    qwen2_moe("tiny-stream", scales=TINY_EXPERTS),
    qwen3_moe("plain", **NORMALISED),
    qwen3_moe("unsaid", old=without("norm_topk_prob", "decoder_sparse_step", "mlp_only_layers")),
    qwen3_moe("tied-bias", attention_bias=True, tie_word_embeddings=True, **NORMALISED),
    qwen3_moe("every-other", **EVERY_OTHER, **NORMALISED),
    qwen3_moe("some-dense", mlp_only_layers=[0, 2], num_hidden_layers=3),
    qwen3_moe("window", use_sliding_window=True, sliding_window=5, max_window_layers=1),
    qwen3_moe("tiny-stream", scales={**TINY_EXPERTS, "q_proj.weight": 2e-3, "k_proj.weight": 2e-3}),
    grok1("plain"),
    grok1("gqa-7-1", hidden_size=56, num_attention_heads=7, num_key_value_heads=1, head_dim=8),
    grok1("square", intermediate_size=48),
    grok1("capped", attn_output_multiplier=4.0),
    grok1("tiny-stream", embedding_multiplier_scale=1e-2, scales={".post.weight": 5e-3}),
)
