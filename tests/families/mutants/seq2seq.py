"""Mutants of the encoder–decoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.families.mutants import Mutant, Patch
from tests.families.mutants.decoders import (
    absent,
    copied_table,
    counting_padding,
    eps,
    scaled,
    seen_padding,
    swapped_activation,
)
from tests.families.parity import tied_head
from tests.families.seq2seq import (
    cached_pass,
    encoder_states,
    filled_once,
    fork_and_truncate,
    long_pass,
    ragged_batch,
    source_padding,
    target_padding,
    whole_pass,
)
from vitral.families import switch, t5
from vitral.nn import (
    GELU,
    Attention,
    Bucketed,
    BucketedBothSides,
    Causal,
    Concat,
    Cross,
    GELUTanh,
    Learned,
    Limited,
    Memory,
    Position,
    Router,
    SiLU,
    Sinusoid,
)
from vitral.nn.cache import KeyValue

# ── 9: scales ───────────────────────────────────────────────────────────────────────────────────────────────


def head_scale(value: Callable[[Any], float | None]) -> Callable[[Any], None]:
    return lambda ours: setattr(ours.head, "scale", value(ours))


def embed_scale(value: float | None) -> Callable[[Any], None]:
    def graft(ours: Any) -> None:
        ours.embed.scale = ours.encoder.embed.scale = value

    return graft


# ── 7: relative positions; 18: absolute ones ────────────────────────────────────────────────────────────────


def first_layer_only(ours: Any) -> None:
    """The bias where its table lies in the file, and nowhere else."""
    for stack in (ours.stack, ours.encoder.stack):
        for block in stack.blocks[1:]:
            object.__setattr__(block.attn.mixer, "position", Position())


def one_table(ours: Any) -> None:
    ours.stack.shared[0].table.weight.data = ours.encoder.stack.shared[0].table.weight.data


def looking_ahead(ours: Any) -> None:
    """The encoder's two-sided buckets in the decoder."""
    bias = ours.stack.shared[0]
    bias.__class__ = BucketedBothSides
    bias.per_side //= 2


def distance_off(by: int) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(
        Bucketed, "buckets", lambda self, back: self.by_distance((back + by).clamp_min(0))
    )


def mirrored(patch: Patch) -> None:
    buckets = BucketedBothSides.buckets
    patch.setattr(BucketedBothSides, "buckets", lambda self, back: buckets(self, -back))


def farther(factor: float) -> Callable[[Any], None]:
    """Another distance at which all become one."""

    def graft(ours: Any) -> None:
        for part in (ours.stack.shared[0], ours.encoder.stack.shared[0]):
            part.max_distance *= factor

    return graft


def layout(halves: bool) -> Callable[[Any], None]:
    def graft(ours: Any) -> None:
        for module in ours.modules():
            if isinstance(module, Sinusoid):
                module.halves = halves

    return graft


def no_offset(ours: Any) -> None:
    for module in ours.modules():
        if isinstance(module, Learned):
            module.offset = 0


def swapped_halves(patch: Patch) -> None:
    forward = Concat.forward
    patch.setattr(Concat, "forward", lambda self, x, y: forward(self, y.expand(*x.shape[:-1], -1), x))


# ── 19, 20: memory ──────────────────────────────────────────────────────────────────────────────────────────


def all_of_it(patch: Patch) -> None:
    """No mask on the source's padding in cross-attention."""
    patch.setattr(Memory, "at", lambda self, positions, dtype: self)


def filled_again(patch: Patch) -> None:
    patch.setattr(Memory, "stored", lambda self: self)


def never_stored(patch: Patch) -> None:
    patch.setattr(KeyValue, "fill", lambda self, k, v: (k, v))


def memory_left_behind(patch: Patch) -> None:
    patch.setattr(Memory, "rows", lambda self, index: self)


def of_the_decoder(patch: Patch) -> None:
    """Cross-attention that reads the decoder itself."""

    def forward(self: Cross, x: Tensor, step: Any) -> Tensor:
        q = self.split(self.q(x)).transpose(1, 2)
        k, v = self.keys_and_values(x)
        return self.o(self.kernel(q, k, v, None, None, self.scale).transpose(1, 2).flatten(-2))

    patch.setattr(Cross, "forward", forward)


def future_seen(patch: Patch) -> None:
    patch.setattr(Causal, "sees", lambda self, q, k: torch.ones_like(k <= q))


# ── 15, 16: routing ─────────────────────────────────────────────────────────────────────────────────────────


def capacity(change: Callable[[int], int]) -> Callable[[Any], None]:
    def graft(ours: Any) -> None:
        for module in ours.modules():
            if isinstance(module, Limited):
                module.capacity = change(module.capacity)

    return graft


def of_the_batch(patch: Patch) -> None:
    """Places counted over the whole batch, as one text."""
    forward = Limited.forward

    def one_text(self: Limited, x: Tensor, step: Any) -> Any:
        found = forward(self, x.reshape(1, -1, x.shape[-1]), replace(step, valid=None))
        shape = (*x.shape[:2], -1)
        return replace(found, ids=found.ids.view(shape), weights=found.weights.view(shape))

    patch.setattr(Limited, "forward", one_text)


def places_for_padding(patch: Patch) -> None:
    forward = Limited.forward
    patch.setattr(Limited, "forward", lambda self, x, step: forward(self, x, replace(step, valid=None)))


def forgetful(patch: Patch) -> None:
    """A cached step that knows of no earlier one."""

    def only_these(self: Limited, asked: Tensor, step: Any) -> Tensor:
        return F.one_hot(asked.flatten(1), self.n_experts + 1).sum(1)

    patch.setattr(Limited, "_asked_so_far", only_these)


def unweighed(patch: Patch) -> None:
    patch.setattr(Router, "weigh", lambda self, scores: torch.ones_like(scores))


def no_router_bias(ours: Any) -> None:
    for module in ours.modules():
        if isinstance(module, Router):
            assert module.proj.bias is not None
            module.proj.bias.data.zero_()


def even_layers(patch: Patch) -> None:
    """Experts in layers 0, 2, …"""
    patch.setattr(switch, "_sparse_step", lambda c, side, layers: 1)


# ── 22: names and parts ─────────────────────────────────────────────────────────────────────────────────────


def gate_up_swap(patch: Patch) -> None:
    patch.setattr(t5, "GATED_NAMES", t5._ffn(wi_0="up", wi_1="gate", wo="down"))


def swapped_norms(ours: Any) -> None:
    for block in ours.stack.blocks:
        block.cross.pre, block.ffn.pre = block.ffn.pre, block.cross.pre


def always_tied(patch: Patch) -> None:
    patch.setattr(t5, "complete", lambda config, tensors: config)


def no_bias(place: str) -> Callable[[Any], None]:
    def graft(ours: Any) -> None:
        hit = [p for name, p in ours.named_parameters() if name.endswith(place)]
        assert hit, place
        for parameter in hit:
            parameter.data.zero_()

    return graft


def crossed_first(ours: Any) -> None:
    """Cross-attention before attention."""
    for block in ours.stack.blocks:
        block._modules = {name: block._modules[name] for name in ("cross", "attn", "ffn")}


def last_norm_added(ours: Any) -> None:
    ours.stack.norm = nn.LayerNorm(ours.embed.tokens.weight.shape[1])


def divided(depth: int, attention: Attention) -> float:
    return attention.head_dim**-0.5


MUTANTS = (
    Mutant(9, "scores-divided", "t5-v1.0", whole_pass, graft=scaled(divided)),
    Mutant(9, "scores-divided", "switch-plain", whole_pass, graft=scaled(divided)),
    Mutant(9, "scores-not-divided", "bart-plain", whole_pass, graft=scaled(lambda depth, a: 1.0)),
    Mutant(9, "head-scale-lost", "t5-v1.0", whole_pass, graft=head_scale(lambda ours: None)),
    Mutant(9, "head-scale-lost", "switch-plain", whole_pass, graft=head_scale(lambda ours: None)),
    Mutant(9, "head-scale-kept", "t5-v1.1", whole_pass, graft=head_scale(lambda ours: 48**-0.5)),
    Mutant(9, "head-scale-kept", "t5-v1.1-tied", whole_pass, graft=head_scale(lambda ours: 48**-0.5)),
    Mutant(12, "embed-scale-lost", "marian-scaled", whole_pass, graft=embed_scale(None)),
    Mutant(12, "embed-scale-lost", "transformer-plain", whole_pass, graft=embed_scale(None)),
    Mutant(12, "embed-scale-added", "marian-plain", whole_pass, graft=embed_scale(48**0.5)),
    Mutant(12, "embed-scale-added", "bart-plain", whole_pass, graft=embed_scale(48**0.5)),
    Mutant(1, "bias-in-one-layer", "t5-v1.0", whole_pass, graft=first_layer_only),
    Mutant(1, "bias-of-the-other-side", "t5-v1.0", whole_pass, graft=one_table),
    Mutant(1, "buckets-of-both-sides", "t5-v1.0", whole_pass, graft=looking_ahead),
    Mutant(1, "buckets-late", "t5-v1.0", whole_pass, sow=distance_off(1)),
    Mutant(1, "buckets-early", "t5-few-buckets", whole_pass, sow=distance_off(-1)),
    Mutant(1, "buckets-mirrored", "t5-v1.0", encoder_states, sow=mirrored),
    Mutant(1, "distance-ends-late", "t5-v1.0", long_pass, graft=farther(1.5)),
    Mutant(1, "distance-ends-early", "t5-few-buckets", long_pass, graft=farther(0.8)),
    Mutant(1, "sinusoids-in-pairs", "marian-plain", whole_pass, graft=layout(halves=False)),
    Mutant(1, "sinusoids-in-halves", "transformer-plain", whole_pass, graft=layout(halves=True)),
    Mutant(1, "offset-lost", "bart-plain", whole_pass, graft=no_offset),
    Mutant(1, "positions-first", "transformer-beside", whole_pass, sow=swapped_halves),
    Mutant(13, "erf-for-tanh", "t5-v1.1", whole_pass, graft=swapped_activation(GELUTanh, GELU)),
    Mutant(13, "tanh-for-erf", "t5-erf", whole_pass, graft=swapped_activation(GELU, GELUTanh)),
    Mutant(13, "tanh-for-erf", "bart-plain", whole_pass, graft=swapped_activation(GELU, GELUTanh)),
    Mutant(13, "erf-for-tanh", "bart-scaled-tanh", whole_pass, graft=swapped_activation(GELUTanh, GELU)),
    Mutant(13, "gelu-for-swish", "marian-plain", whole_pass, graft=swapped_activation(SiLU, GELU)),
    Mutant(13, "gelu-for-swish", "t5-ul2", whole_pass, graft=swapped_activation(SiLU, GELU)),
    *(
        Mutant(14, f"eps-{place}", row, whole_pass, graft=eps(value, place))
        for row, value, places in (
            ("t5-tiny-stream", 1e-6, ("attn.pre", "cross.pre", "ffn.pre", "stack.norm")),
            ("bart-tiny-stream", 1e-12, ("embed.norm", "attn.after", "cross.after", "ffn.after")),
        )
        for place in places
    ),
    Mutant(15, "not-weighed", "switch-plain", whole_pass, sow=unweighed),
    Mutant(15, "router-bias-lost", "switch-every-layer", whole_pass, graft=no_router_bias),
    Mutant(15, "experts-in-all-layers", "switch-plain", whole_pass, sow=even_layers),
    Mutant(16, "no-capacity", "switch-full-experts", whole_pass, graft=capacity(lambda n: 10**6)),
    Mutant(16, "capacity-one-more", "switch-full-experts", whole_pass, graft=capacity(lambda n: n + 1)),
    Mutant(16, "capacity-of-the-batch", "switch-full-experts", whole_pass, sow=of_the_batch),
    Mutant(16, "padding-takes-places", "switch-full-experts", source_padding, sow=places_for_padding),
    Mutant(16, "places-forgotten", "switch-full-experts", cached_pass, sow=forgetful),
    Mutant(17, "own-head-not-seen", "t5-v1.1", whole_pass, sow=always_tied),
    Mutant(17, "head-copied", "t5-v1.0", tied_head, graft=copied_table),
    Mutant(17, "head-copied", "bart-plain", tied_head, graft=copied_table),
    Mutant(19, "padding-in-the-memory", "t5-v1.0", source_padding, sow=all_of_it),
    Mutant(19, "padding-in-the-memory", "marian-plain", source_padding, sow=all_of_it),
    Mutant(19, "padding-in-the-memory", "bart-plain", ragged_batch, sow=all_of_it),
    Mutant(19, "padding-seen", "t5-v1.0", source_padding, sow=seen_padding),
    Mutant(19, "padding-seen", "bart-plain", target_padding, sow=seen_padding),
    Mutant(19, "padding-counted", "bart-plain", source_padding, sow=counting_padding),
    Mutant(19, "padding-counted", "marian-plain", target_padding, sow=counting_padding),
    Mutant(20, "memory-filled-again", "t5-v1.0", filled_once, sow=filled_again),
    Mutant(20, "memory-never-stored", "t5-v1.0", cached_pass, sow=never_stored),
    Mutant(20, "memory-never-stored", "bart-plain", ragged_batch, sow=never_stored),
    Mutant(20, "memory-left-behind", "t5-v1.0", fork_and_truncate, sow=memory_left_behind),
    Mutant(20, "future-seen", "bart-plain", whole_pass, sow=future_seen),
    Mutant(22, "cross-reads-itself", "bart-plain", whole_pass, sow=of_the_decoder),
    Mutant(22, "cross-first", "marian-plain", whole_pass, graft=crossed_first),
    Mutant(22, "gate-up-swap", "t5-ul2", whole_pass, sow=gate_up_swap),
    Mutant(22, "norms-swapped", "t5-v1.0", whole_pass, graft=swapped_norms),
    Mutant(22, "shift-lost", "marian-plain", whole_pass, graft=absent("head.shift")),
    Mutant(22, "embedding-norm-left-out", "bart-plain", whole_pass, graft=absent("embed.norm")),
    Mutant(22, "encoder-embedding-norm-left-out", "bart-plain", encoder_states, graft=absent("encoder.embed.norm")),
    Mutant(22, "final-norm-left-out", "t5-v1.0", whole_pass, graft=absent("stack.norm")),
    Mutant(22, "final-norm-added", "bart-plain", whole_pass, graft=last_norm_added),
    Mutant(22, "bias-lost", "marian-plain", whole_pass, graft=no_bias("cross.mixer.v.bias")),
    Mutant(22, "bias-lost", "transformer-plain", whole_pass, graft=no_bias("ffn.mixer.down.bias")),
)
