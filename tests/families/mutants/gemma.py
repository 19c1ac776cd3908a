"""Mutants of Gemma and Gemma 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.families.mutants import Mutant, Patch
from tests.families.mutants.decoders import eps, instead, names, scaled, swapped_activation, untied
from tests.families.parity import cached_pass, padding
from vitral.families import gemma, gemma2
from vitral.nn import GELU, Causal, Eager, Fused, GELUTanh, RMSNorm, Window


def plain_norms(*places: str) -> Callable[[Any], None]:
    """Norm weights applied as w where 1 + w is meant."""

    def graft(ours: Any) -> None:
        for name, module in ours.named_modules():
            if isinstance(module, RMSNorm) and (not places or name.endswith(places)):
                module.offset = 0.0

    return graft


def embed_scale(value: float | None) -> Callable[[Any], None]:
    def graft(ours: Any) -> None:
        ours.embed.scale = value

    return graft


def capped(scores: float | None = -1.0, logits: float | None = -1.0) -> Callable[[Any], None]:
    """Other caps than the published; -1 leaves a cap as it is."""

    def graft(ours: Any) -> None:
        for module in ours.modules():
            if isinstance(module, Eager) and scores != -1.0:
                module.softcap = scores
        if logits != -1.0:
            ours.head.softcap = logits

    return graft


def cap_after_mask(patch: Patch) -> None:
    """The cap laid on the masked scores: what is hidden comes back at -cap."""

    def forward(self: Eager, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Any, scale: float) -> Tensor:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) * scale
        scores = scores if mask is None else scores + mask
        return torch.softmax(self.softcap * torch.tanh(scores / self.softcap), -1) @ v

    patch.setattr(Fused, "forward", forward)


def fused_without_cap(patch: Patch) -> None:
    """A fused kernel that cannot cap, used all the same."""

    def forward(self: Fused, q: Tensor, k: Tensor, v: Tensor, mask: Any, bias: Any, scale: float) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)

    patch.setattr(Fused, "forward", forward)


def windows(change: Callable[[list[Any]], list[Any]]) -> Callable[[Patch], None]:
    def sow(patch: Patch) -> None:
        kinds = gemma2.kinds
        patch.setattr(gemma2, "kinds", lambda *args: change(kinds(*args)))

    return sow


def other(kinds: list[Any]) -> list[Any]:
    """Global layers local and local ones global."""
    local = next(kind for kind in kinds if isinstance(kind, Window))
    return [Causal() if isinstance(kind, Window) else local for kind in kinds]


def wider(by: int) -> Callable[[list[Any]], list[Any]]:
    return lambda kinds: [Window(kind.size + by) if isinstance(kind, Window) else kind for kind in kinds]


def literal_gelu(patch: Patch) -> None:
    patch.setattr(gemma, "GELUTanh", GELU)


def without(place: str) -> Callable[[Any], None]:
    def graft(ours: Any) -> None:
        for name in [name for name, _ in ours.named_modules() if name.endswith(place)]:
            ours.set_submodule(name, nn.Identity())

    return graft


MUTANTS = (
    Mutant(9, "scale-by-head", "gemma2-plain", graft=scaled(lambda depth, a: a.head_dim**-0.5)),
    Mutant(9, "scale-by-width", "gemma2-plain", graft=scaled(lambda depth, a: (48 / 6) ** -0.5)),
    Mutant(9, "scale-by-width", "gemma-wide", graft=scaled(lambda depth, a: (48 / 6) ** -0.5)),
    Mutant(10, "scores-uncapped", "gemma2-loud", graft=capped(scores=None)),
    Mutant(10, "logits-uncapped", "gemma2-loud", graft=capped(logits=None)),
    Mutant(10, "caps-exchanged", "gemma2-loud", graft=capped(scores=30.0, logits=50.0)),
    Mutant(10, "capped-all-the-same", "gemma2-no-caps", graft=capped(scores=50.0, logits=30.0)),
    Mutant(10, "scores-uncapped-by-default", "gemma2-caps-unsaid", graft=capped(scores=None)),
    Mutant(10, "logits-uncapped-by-default", "gemma2-caps-unsaid", graft=capped(logits=None)),
    Mutant(10, "capped-after-the-mask", "gemma2-low-caps", sow=cap_after_mask),
    Mutant(10, "capped-after-the-mask-decoding", "gemma2-low-caps", cached_pass, sow=cap_after_mask),
    Mutant(10, "fused-without-cap", "gemma2-gqa-7-1", sow=fused_without_cap),
    Mutant(11, "weight-alone", "gemma-gqa-6-2", graft=plain_norms()),
    Mutant(11, "weight-alone-last", "gemma-gqa-6-2", graft=plain_norms("stack.norm")),
    Mutant(11, "weight-alone-behind", "gemma2-plain", graft=plain_norms("attn.post", "ffn.post")),
    Mutant(12, "embedding-unscaled", "gemma-gqa-6-2", graft=embed_scale(None)),
    Mutant(12, "embedding-scaled-by-d", "gemma2-plain", graft=embed_scale(48.0)),
    Mutant(12, "embedding-scaled-in-bf16-always", "gemma-gqa-6-2", graft=embed_scale(6.9375)),
    Mutant(7, "window-wider", "gemma2-plain", sow=windows(wider(1))),
    Mutant(7, "window-narrower", "gemma2-layer-types", sow=windows(wider(-1))),
    Mutant(7, "window-wider-decoding", "gemma2-plain", cached_pass, sow=windows(wider(1))),
    Mutant(8, "first-layer-global", "gemma2-plain", sow=windows(other)),
    Mutant(8, "first-layer-global-padded", "gemma2-plain", padding, sow=windows(other)),
    Mutant(8, "layer-types-ignored", "gemma2-layer-types", sow=windows(other)),
    Mutant(8, "all-global", "gemma2-old", sow=windows(lambda kinds: [Causal()] * len(kinds))),
    Mutant(13, "gelu-taken-at-its-word", "gemma-hidden-act-gelu", sow=literal_gelu),
    Mutant(13, "erf-by-default", "gemma-act-unsaid", graft=swapped_activation(GELUTanh, GELU)),
    Mutant(13, "erf-for-tanh", "gemma2-plain", graft=swapped_activation(GELUTanh, GELU)),
    *(
        Mutant(14, f"eps-{place}", row, graft=eps(1e-6, place))
        for row, places in (
            ("gemma-tiny-stream", ("attn.pre", "ffn.pre", "stack.norm")),
            ("gemma2-tiny-stream", ("attn.pre", "attn.post", "ffn.pre", "ffn.post", "stack.norm")),
        )
        for place in places
    ),
    Mutant(17, "head-not-tied", "gemma-gqa-6-2", sow=untied),
    Mutant(22, "norm-behind-lost", "gemma2-plain", graft=without("attn.post")),
    Mutant(
        22,
        "norms-exchanged",
        "gemma2-plain",
        sow=names(
            gemma2,
            post_attention_layernorm_weight=instead("attn.post", "ffn.pre"),
            pre_feedforward_layernorm_weight=instead("ffn.pre", "attn.post"),
        ),
    ),
)
