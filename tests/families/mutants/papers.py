"""Mutants of the families that were published without code, and of GPT and Qwen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.families.mutants import Mutant, Patch
from tests.families.mutants.decoders import (
    absent,
    eps,
    instead,
    interleaved,
    names,
    reordered,
    seen_padding,
    swapped_activation,
    untied,
)
from tests.families.parity import cached_pass, fork_and_truncate, padding, ragged_batch
from vitral.families import gpt1, gpt3, instructgpt, qwen1
from vitral.nn import (
    GELU,
    Attention,
    Banded,
    Bucketed,
    DynamicNTK,
    Gated,
    GELUTanh,
    LayerNorm,
    LogN,
    Model,
    Relative,
    Renormalised,
    Scaling,
    SteppedNTK,
    Strided,
    Sublayer,
)

Graft = Callable[[Any], None]


def on(kind: type, change: Callable[[Any], None]) -> Graft:
    """A change of every part of one kind."""

    def graft(ours: Model) -> None:
        for module in ours.modules():
            if isinstance(module, kind):
                change(module)

    return graft


def cleared(*leaves: str) -> Callable[[Any], None]:
    def change(part: Any) -> None:
        for leaf in leaves:
            part.get_parameter(leaf).data.zero_()

    return change


# ── relative positions by content ───────────────────────────────────────────────────────────────────────────


def swap_u_and_v(part: Any) -> None:
    part.u, part.v = part.v, part.u


def farther(by: int) -> Callable[[Patch], None]:
    """The relative shift off by one: every distance too long, or too short."""

    def sow(patch: Patch) -> None:
        prepare = Relative.prepare

        def shifted(self: Relative, positions: Tensor, key_positions: Tensor) -> Any:
            return prepare(self, positions + by, key_positions)

        patch.setattr(Relative, "prepare", shifted)

    return sow


def by_slot(patch: Patch) -> None:
    """Distances counted in slots of the batch, as a shift of the score matrix does: a row that rests is left behind."""
    prepare = Relative.prepare

    def counted(self: Relative, positions: Tensor, key_positions: Tensor) -> Any:
        T, S = positions.shape[1], key_positions.shape[1]
        return prepare(self, torch.arange(S - T, S)[None], torch.arange(S)[None])

    patch.setattr(Relative, "prepare", counted)


def unscaled(part: Any) -> None:
    part.scale = 1.0


def first_layers_matrix(ours: Any) -> None:
    """One W_r for all layers."""
    parts = [module for module in ours.modules() if isinstance(module, Relative)]
    for part in parts:
        part.r = parts[0].r


# ── places of norms ─────────────────────────────────────────────────────────────────────────────────────────


def before(sublayer: Any) -> None:
    sublayer.pre, sublayer.after = sublayer.after, sublayer.pre


def final_norm(kind: type[torch.nn.Module]) -> Graft:
    def graft(ours: Any) -> None:
        ours.stack.norm = kind(ours.embed.tokens.weight.shape[1])

    return graft


def twice(sublayer: Any) -> None:
    """A norm of its own for each branch, after the shared one."""
    sublayer.pre = torch.nn.Sequential(sublayer.pre, sublayer.pre)


def serial(patch: Patch) -> None:
    """The feed-forward reads what the attention has added."""

    def forward(self: Sublayer, x: Tensor, step: Any) -> Tensor:
        attn, ffn = self.mixer.attn, self.mixer.ffn
        y = x + attn(self.pre(x), step.at("attn"))
        return y + ffn(self.pre(y), step.at("ffn"))

    patch.setattr(Sublayer, "forward", forward)


def no_mean(patch: Patch) -> None:
    def forward(self: LayerNorm, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight

    patch.setattr(LayerNorm, "forward", forward)


# ── masks ───────────────────────────────────────────────────────────────────────────────────────────────────


def band(by: int) -> Callable[[Patch], None]:
    def sees(self: Banded, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (k >= q - self.size - by)

    return lambda patch: patch.setattr(Banded, "sees", sees)


def short_band_ring(patch: Patch) -> None:
    patch.setattr(Banded, "capacity", lambda self, length, chunk: min(length, self.size + chunk - 1))


def from_the_start(patch: Patch) -> None:
    """Strides counted from the start of the text: the columns of the fixed pattern."""
    patch.setattr(Strided, "sees", lambda self, q, k: (k <= q) & (k % self.stride == 0))


def pattern(change: Callable[[list[Any]], list[Any]]) -> Callable[[Patch], None]:
    kinds = gpt3.kinds
    return lambda patch: patch.setattr(gpt3, "kinds", lambda c, layers: change(kinds(c, layers)))


# ── buckets and experts ─────────────────────────────────────────────────────────────────────────────────────


def shared_tables(ours: Any) -> None:
    first, *others = ours.stack.shared
    for other in others:
        other.table = first.table


def halved(patch: Patch) -> None:
    """Half of the buckets for keys that come later, as in an encoder."""
    by_distance = Bucketed.by_distance

    def both_sides(self: Bucketed, distance: Tensor) -> Tensor:
        self.per_side //= 2
        found = by_distance(self, distance)
        self.per_side *= 2
        return found

    patch.setattr(Bucketed, "by_distance", both_sides)


def nearer(patch: Patch) -> None:
    buckets = Bucketed.buckets
    patch.setattr(Bucketed, "buckets", lambda self, back: buckets(self, back - 1))


def as_they_are(patch: Patch) -> None:
    patch.setattr(Renormalised, "weigh", lambda self, scores: scores)


def one_expert(patch: Patch) -> None:
    patch.setattr(Renormalised, "weigh", lambda self, scores: torch.cat((scores[..., :1], scores[..., 1:] * 0), -1))


def swap_weights(patch: Patch) -> None:
    weigh = Renormalised.weigh
    patch.setattr(Renormalised, "weigh", lambda self, scores: weigh(self, scores).flip(-1))


def swap_gate(ffn: Any) -> None:
    ffn.gate, ffn.up = ffn.up, ffn.gate


def swap_layers(ours: Any) -> None:
    """Experts in the first layer of each pair."""
    blocks = ours.stack.blocks
    for first, second in zip(blocks[::2], blocks[1::2], strict=True):
        first.ffn, second.ffn = second.ffn, first.ffn


# ── beyond the training length ──────────────────────────────────────────────────────────────────────────────


def no_factor(patch: Patch) -> None:
    patch.setattr(LogN, "relate", lambda self, q, ready: self.inner.relate(q, ready[:-1]))


def late_factor(patch: Patch) -> None:
    """The token at position p counted as the p-th, not as the one after p others."""
    prepare = LogN.prepare

    def late(self: LogN, positions: Tensor, key_positions: Tensor) -> Any:
        *inner, _ = prepare(self, positions, key_positions)
        return *inner, prepare(self, positions - 1, key_positions)[-1]

    patch.setattr(LogN, "prepare", late)


def factor_on_keys(patch: Patch) -> None:
    def encode(self: LogN, x: Tensor, ready: Any) -> Tensor:
        return self.inner.encode(x * ready[-1].to(x.dtype).sqrt(), ready[:-1])

    patch.setattr(LogN, "encode", encode)


def smooth_growth(patch: Patch) -> None:
    def at_length(self: SteppedNTK, theta: float, dim: int, length: Tensor) -> Tensor | None:
        return DynamicNTK(factor=2.0, original=self.original).at_length(theta, dim, length)

    patch.setattr(SteppedNTK, "at_length", at_length)


def plain_logits(ours: Any) -> None:
    ours.head.scale = None


def scaled_input(ours: Any) -> None:
    ours.embed.scale = ours.embed.tokens.weight.shape[1] ** 0.5


def swapped_w(patch: Patch) -> None:
    names(
        qwen1,
        **{"w1_{}": instead("mixer.up", "mixer.gate"), "w2_{}": instead("mixer.gate", "mixer.up")},
    )(patch)


def whole_width(patch: Patch) -> None:
    """The feed-forward layer as wide as the file says."""
    share = qwen1.share
    patch.setattr(
        qwen1, "share", lambda what, n, parts, m, *r: n if parts == "its halves" else share(what, n, parts, m)
    )


def scale_by_width(attention: Any) -> None:
    attention.scale = 48**-0.5


MUTANTS = (
    # GPT
    Mutant(12, "post-norm-as-pre-norm", "gpt1-plain", graft=on(Sublayer, before)),
    Mutant(12, "final-norm-added", "gpt1-plain", graft=final_norm(LayerNorm)),
    Mutant(13, "erf-for-tanh", "gpt1-plain", graft=swapped_activation(GELUTanh, GELU)),
    Mutant(14, "eps-attn", "gpt1-tiny-stream", graft=eps(1e-5, "attn.after")),
    Mutant(22, "conv-transpose-o", "gpt1-hub", sow=names(gpt1, attn_c_proj_weight=lambda rule: rule.to)),
    Mutant(22, "fused-order", "gpt1-plain", sow=names(gpt1, c_attn_weight=reordered(0, 2, 1))),
    # GPT-3, InstructGPT
    Mutant(7, "band-wider", "gpt3-banded", sow=band(1)),
    Mutant(7, "band-narrower", "gpt3-banded", sow=band(-1)),
    Mutant(7, "band-narrower-decoding", "gpt3-strided", cached_pass, sow=band(-1)),
    Mutant(7, "band-ring-too-short", "gpt3-banded", cached_pass, sow=short_band_ring),
    Mutant(7, "strides-from-the-start", "gpt3-strided", sow=from_the_start),
    Mutant(8, "band-dropped", "gpt3-banded", sow=pattern(lambda kinds: kinds[:1] * len(kinds))),
    Mutant(8, "pattern-reversed", "gpt3-banded", sow=pattern(lambda kinds: kinds[::-1])),
    Mutant(22, "score-bias-lost", "instructgpt-reward", graft=cleared("score.proj.bias")),
    Mutant(22, "score-before-the-norm", "instructgpt-policy", graft=absent("stack.norm")),
    Mutant(22, "score-lost", "instructgpt-policy", sow=lambda patch: patch.setattr(instructgpt, "NAMES", gpt3.NAMES)),
    # Gopher, Chinchilla
    Mutant(1, "w-r-lost", "gopher-plain", graft=on(Relative, cleared("r.weight"))),
    Mutant(1, "w-r-of-the-first-layer", "gopher-plain", graft=first_layers_matrix),
    Mutant(1, "u-lost", "gopher-plain", graft=on(Relative, cleared("u"))),
    Mutant(1, "v-lost", "chinchilla-plain", graft=on(Relative, cleared("v"))),
    Mutant(1, "u-v-swapped", "gopher-plain", graft=on(Relative, swap_u_and_v)),
    Mutant(1, "shift-off-by-one", "gopher-plain", sow=farther(1)),
    Mutant(1, "shift-off-by-one", "chinchilla-plain", cached_pass, sow=farther(-1)),
    Mutant(9, "second-term-unscaled", "gopher-wide-heads", graft=on(Relative, unscaled)),
    Mutant(9, "scale-by-width", "gopher-plain", graft=on(Attention, scale_by_width)),
    Mutant(12, "final-norm-left-out", "gopher-plain", graft=absent("stack.norm")),
    Mutant(13, "erf-for-tanh", "gopher-plain", graft=swapped_activation(GELUTanh, GELU)),
    Mutant(14, "eps", "gopher-tiny-stream", graft=eps(1e-6, "attn.pre")),
    Mutant(17, "head-not-tied", "gopher-plain", sow=untied),
    Mutant(19, "padding-seen", "gopher-plain", padding, sow=seen_padding),
    Mutant(20, "distances-by-slot", "gopher-plain", ragged_batch, sow=by_slot),
    # LaMDA
    Mutant(1, "buckets-of-both-sides", "lamda-plain", sow=halved),
    Mutant(1, "distance-off-by-one", "lamda-plain", sow=nearer),
    Mutant(1, "distance-off-by-one", "lamda-plain", fork_and_truncate, sow=nearer),
    Mutant(9, "unscaled-as-in-t5", "lamda-plain", graft=on(Attention, unscaled)),
    Mutant(13, "tanh-for-erf", "lamda-plain", graft=swapped_activation(GELU, GELUTanh)),
    Mutant(14, "eps", "lamda-tiny-stream", graft=eps(1e-6, "ffn.pre")),
    Mutant(22, "gate-up-swap", "lamda-plain", graft=on(Gated, swap_gate)),
    # GLaM
    Mutant(1, "one-table-for-all-layers", "glam-plain", graft=shared_tables),
    Mutant(15, "not-renormalised", "glam-plain", sow=as_they_are),
    Mutant(15, "one-expert", "glam-plain", sow=one_expert),
    Mutant(15, "weights-swapped", "glam-plain", sow=swap_weights),
    Mutant(16, "experts-in-the-first-layer", "glam-plain", graft=swap_layers),
    Mutant(22, "gate-up-swap", "glam-dense", graft=on(Gated, swap_gate)),
    # PaLM
    Mutant(1, "interleaved", "palm-plain", sow=interleaved),
    Mutant(9, "logits-unscaled", "palm-plain", graft=plain_logits),
    Mutant(9, "input-scaled", "palm-plain", graft=scaled_input),
    Mutant(12, "shared-norm-doubled", "palm-plain", graft=on(Sublayer, twice)),
    Mutant(12, "one-after-the-other", "palm-plain", sow=serial),
    Mutant(12, "mean-left-in", "palm-plain", sow=no_mean),
    Mutant(14, "eps", "palm-tiny-stream", graft=eps(1e-6, "both.pre")),
    Mutant(22, "halves-swapped", "palm-plain", graft=on(Gated, swap_gate)),
    Mutant(24, "scale-by-width", "palm-plain", graft=on(Attention, scale_by_width)),
    # Qwen
    Mutant(3, "log-n-lost", "qwen1-log-n", sow=no_factor),
    Mutant(3, "log-n-lost-decoding", "qwen1-log-n", ragged_batch, sow=no_factor),
    Mutant(3, "log-n-late", "qwen1-log-n", sow=late_factor),
    Mutant(3, "log-n-on-keys", "qwen1-log-n", sow=factor_on_keys),
    Mutant(5, "ntk-lost", "qwen1-grown", sow=lambda patch: patch.setattr(SteppedNTK, "at_length", Scaling.at_length)),
    Mutant(5, "ntk-without-steps", "qwen1-grown-far", sow=smooth_growth),
    Mutant(5, "ntk-lost-decoding", "qwen1-grown-far", cached_pass, sow=smooth_growth),
    Mutant(22, "gate-w1-w2-swapped", "qwen1-plain", sow=swapped_w),
    Mutant(22, "fused-order", "qwen1-plain", sow=names(qwen1, **{"c_attn_{}": reordered(1, 0, 2)})),
    Mutant(22, "bias-lost", "qwen1-plain", graft=on(Attention, cleared("v.bias"))),
    Mutant(21, "both-halves-as-one", "qwen1-plain", sow=whole_width),
)
