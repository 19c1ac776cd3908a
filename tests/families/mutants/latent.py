"""Mutants of latent attention, of its router and draft, and of the Llama-likes whose traps are a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.families.mutants import Mutant, Patch
from tests.families.mutants.decoders import absent, eps, ignored, short_ring, tiled_groups, wider
from tests.families.parity import cached_pass, far_positions, ragged_batch
from tests.families.rows.latent import drafts_cached, drafts_padded, drafts_pass
from vitral.families import mistral
from vitral.families.common import latent
from vitral.nn import Causal, Draft, Grouped, Interleaved, Kind, Latent, Rotary, Window, Yarn
from vitral.nn.latent import Latents
from vitral.nn.router import highest

# ── 1, 6, 9: rotation and scale ─────────────────────────────────────────────────────────────────────────────


def encoded_as(part: type[Rotary], other: type[Rotary]) -> Callable[[Patch], None]:
    encode = other.encode
    return lambda patch: patch.setattr(part, "encode", encode)


def whole_head_turned(patch: Patch) -> None:
    """The turning numbers first in a head, where they come last."""
    split = Latent.split

    def swapped(self: Latent, x: Tensor, first: int, second: int) -> tuple[Tensor, Tensor]:
        if (first, second) != (self.key_dim, self.position.dim):
            return split(self, x, first, second)
        turning, still = split(self, x, second, first)
        return still, turning

    patch.setattr(Latent, "split", swapped)


def scale(value: Callable[[int, Any], float]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(latent, "scale", value)


def theta(value: float) -> Callable[[Any], None]:
    """The base of the rotation taken for what it usually is."""

    def graft(ours: Any) -> None:
        for module in ours.modules():
            if isinstance(module, Rotary):
                module.frequencies = module.scaling.frequencies(value, module.dim)

    return graft


# ── 7, 8: windows ───────────────────────────────────────────────────────────────────────────────────────────


def kind_is(kind: Kind) -> Callable[[Patch], None]:
    def whatever_it_says(c: Any) -> Kind:
        c.get("sliding_window", None)
        return kind

    return lambda patch: patch.setattr(mistral, "kind", whatever_it_says)


# ── 15: the router ──────────────────────────────────────────────────────────────────────────────────────────


def router(**methods: Any) -> Callable[[Patch], None]:
    def sow(patch: Patch) -> None:
        for name, method in methods.items():
            patch.setattr(Grouped, name, method)

    return sow


CHOOSE, SCORE, WEIGH = Grouped.choose, Grouped.score, Grouped.weigh


def biased_scores(self: Grouped, logits: Tensor) -> Tensor:
    return SCORE(self, logits) + self.bias


def choose_unbiased(self: Grouped, scores: Tensor) -> Tensor:
    return CHOOSE(self, scores - self.bias)


def choose_from_all(self: Grouped, scores: Tensor) -> Tensor:
    return highest(scores + self.bias, self.top_k)


def choose_by_the_best(self: Grouped, scores: Tensor) -> Tensor:
    """A group as good as its best expert alone."""
    wanted = (scores + self.bias).unflatten(-1, (self.n_groups, -1))
    best = highest(wanted.amax(-1), self.top_groups)
    closed = torch.ones_like(wanted[..., 0], dtype=torch.bool).scatter(-1, best, False)
    return highest(wanted.masked_fill(closed[..., None], -torch.inf).flatten(-2), self.top_k)


def number(name: str, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A number of every router changed."""

    def graft(ours: Any) -> None:
        for module in ours.modules():
            if isinstance(module, Grouped):
                setattr(module, name, change(getattr(module, name)))

    return graft


# ── 20, 22: caches, order, norms ────────────────────────────────────────────────────────────────────────────


def each(kind: type[nn.Module], change: Callable[[Any], None]) -> Callable[[Any], None]:
    def graft(ours: Any) -> None:
        hit = [module for module in ours.modules() if isinstance(module, kind)]
        assert hit, kind
        with torch.no_grad():
            for module in hit:
                change(module)

    return graft


def values_first(attention: Latent) -> None:
    """Each head's rows read as [v | k_nope]."""
    rows = attention.up.weight.unflatten(0, (-1, attention.key_dim + attention.value_dim))
    attention.up.weight.copy_(rows.roll(-attention.value_dim, 1).flatten(0, 1))


def not_by_head(attention: Latent) -> None:
    """All keys first and then all values, where both stand head by head."""
    n, v = attention.key_dim, attention.value_dim
    H = attention.up.weight.shape[0] // (n + v)
    keys, values = attention.up.weight.split((H * n, H * v))
    both = torch.cat((keys.unflatten(0, (H, n)), values.unflatten(0, (H, v))), 1)
    attention.up.weight.copy_(both.flatten(0, 1).clone())


def without_norm(attention: Latent) -> None:
    attention.norm = nn.Identity()


def without_query_norm(attention: Latent) -> None:
    attention.q.norm = nn.Identity()


def misread_matrix(patch: Patch) -> None:
    """The absorbed matrix read with its heads innermost."""
    expansion = Latent.expansion

    def wrong(self: Latent) -> Tensor:
        right = expansion(self)
        return right.flatten(1).unflatten(1, (right.shape[2], right.shape[1])).transpose(1, 2)

    patch.setattr(Latent, "expansion", wrong)


def scaled_by_rank(patch: Patch) -> None:
    """The absorbed form scaled by the size of what it multiplies, not by that of a head."""
    absorbed = Latent.absorbed

    def wrong(self: Latent, q: Tensor, c: Tensor, key: Tensor, *rest: Any) -> Tensor:
        scale, self.scale = self.scale, (self.rank + self.position.dim) ** -0.5
        try:
            return absorbed(self, q, c, key, *rest)
        finally:
            self.scale = scale

    patch.setattr(Latent, "absorbed", wrong)


def mirrored_keys(patch: Patch) -> None:
    """A cache that gives the shared keys back in another order than the queries have."""
    update = Latents.update

    def wrong(self: Latents, k: Tensor, v: Tensor, view: Any) -> Any:
        return update(self, k, v.flip(-1), view)

    patch.setattr(Latents, "update", wrong)


def silent(name: str) -> Callable[[Any], None]:
    """A branch of a parallel sum that says nothing."""

    def graft(ours: Any) -> None:
        for place, parameter in ours.named_parameters():
            if f".{name}.down" in place:
                parameter.data.zero_()

    return graft


def hidden_first(draft: Draft) -> None:
    """The join read as [hidden | embedded]."""
    draft.join.weight.copy_(draft.join.weight.roll(draft.join.out_features, 1).clone())


def swapped_norms(draft: Draft) -> None:
    draft.embed_norm, draft.hidden_norm = draft.hidden_norm, draft.embed_norm


def counted_padding(patch: Patch) -> None:
    """The first token of a padded text joined with what the model made of padding."""
    forward = Draft.forward

    def wrong(self: Draft, hidden: Tensor, ahead: Tensor, step: Any) -> Tensor:
        return forward(self, hidden.roll(1, 1), ahead, step)

    patch.setattr(Draft, "forward", wrong)


MUTANTS = (
    Mutant(1, "half-split", "latent-plain", sow=encoded_as(Interleaved, Rotary)),
    Mutant(1, "half-split-far", "latent-yarn", far_positions, sow=encoded_as(Interleaved, Rotary)),
    Mutant(1, "neighbours-turned", "latent-half-split", sow=encoded_as(Rotary, Interleaved)),
    Mutant(1, "turning-part-first", "latent-odd", sow=whole_head_turned),
    Mutant(3, "yarn-unused", "latent-yarn", sow=ignored(Yarn)),
    Mutant(6, "mscale-forgotten", "latent-yarn", sow=scale(lambda size, scaling: size**-0.5)),
    Mutant(6, "mscale-forgotten", "latent-published", cached_pass, sow=scale(lambda size, scaling: size**-0.5)),
    Mutant(
        6,
        "mscale-once",
        "latent-yarn",
        sow=scale(lambda size, yarn: size**-0.5 * yarn.temperature(yarn.mscale_all_dim)),
    ),
    Mutant(
        6,
        "mscale-for-all-dim",
        "latent-yarn-mscales",
        sow=scale(lambda size, yarn: size**-0.5 * yarn.temperature(yarn.mscale) ** 2),
    ),
    Mutant(
        6,
        "mscale-assumed",
        "latent-yarn-unscaled",
        sow=scale(lambda size, yarn: size**-0.5 * yarn.temperature(1.0) ** 2),
    ),
    Mutant(
        6,
        "mscale-on-the-turning-part",
        "latent-yarn-0.707",
        sow=lambda patch: patch.setattr(Yarn, "magnitude", property(lambda yarn: yarn.temperature(0.707))),
    ),
    Mutant(7, "window-wider", "mistral-v0.1", sow=wider(1)),
    Mutant(7, "window-narrower", "mistral-old", sow=wider(-1)),
    Mutant(7, "window-narrower-ragged", "mistral-head-dim", ragged_batch, sow=wider(-1)),
    Mutant(7, "ring-too-short", "mistral-v0.1", cached_pass, sow=short_ring),
    Mutant(8, "window-dropped", "mistral-v0.1", sow=kind_is(Causal())),
    Mutant(8, "window-on-later-files", "mistral-v0.2", sow=kind_is(Window(5))),
    Mutant(8, "window-on-null", "mistral-old-null", sow=kind_is(Window(5))),
    Mutant(9, "scale-of-the-still-part", "latent-plain", sow=scale(lambda size, scaling: (size - 8) ** -0.5)),
    *(
        Mutant(14, f"eps-mistral{place}", "mistral-tiny-stream", graft=eps(1e-6, place))
        for place in ("attn.pre", "ffn.pre", "stack.norm")
    ),
    *(
        Mutant(14, f"eps-latent{place}", "latent-tiny-stream", graft=eps(value, place))
        for place, value in (("attn.pre", 1e-6), ("ffn.pre", 1e-6), ("stack.norm", 1e-6))
    ),
    Mutant(14, "eps-of-the-latents", "latent-tiny-stream", graft=eps(3e-5, "attn.mixer.norm")),
    Mutant(14, "eps-of-the-latent-queries", "latent-tiny-stream", graft=eps(3e-5, "attn.mixer.q.norm")),
    Mutant(15, "bias-weighs", "latent-plain", sow=router(score=biased_scores, choose=choose_unbiased)),
    Mutant(15, "bias-ignored", "latent-plain", sow=router(choose=choose_unbiased)),
    Mutant(15, "groups-ignored", "latent-plain", sow=router(choose=choose_from_all)),
    Mutant(15, "group-by-its-best", "latent-plain", sow=router(choose=choose_by_the_best)),
    Mutant(15, "softmax-scores", "latent-plain", sow=router(score=lambda self, logits: logits.softmax(-1))),
    Mutant(15, "not-renormalised", "latent-plain", graft=number("renormalise", lambda flag: False)),
    Mutant(15, "renormalised-anyway", "latent-one-group", graft=number("renormalise", lambda flag: True)),
    Mutant(15, "unscaled", "latent-plain", graft=number("scale", lambda scale: 1.0)),
    Mutant(15, "shared-left-out", "latent-two-shared", graft=silent("shared")),
    Mutant(20, "absorbed-heads-innermost", "latent-plain", cached_pass, sow=misread_matrix),
    Mutant(20, "absorbed-scaled-by-rank", "latent-plain", cached_pass, sow=scaled_by_rank),
    Mutant(20, "cached-keys-otherwise", "latent-yarn", ragged_batch, sow=mirrored_keys),
    Mutant(20, "groups-tiled", "mistral-v0.2", sow=tiled_groups),
    Mutant(22, "values-first", "latent-plain", graft=each(Latent, values_first)),
    Mutant(22, "not-by-head", "latent-odd", graft=each(Latent, not_by_head)),
    Mutant(22, "latent-norm-missing", "latent-plain", graft=each(Latent, without_norm)),
    Mutant(22, "query-norm-missing", "latent-plain", graft=each(Latent, without_query_norm)),
    Mutant(22, "final-norm-left-out", "mistral-v0.1", graft=absent("stack.norm")),
    Mutant(22, "draft-hidden-first", "latent-draft", drafts_pass, graft=each(Draft, hidden_first)),
    Mutant(22, "draft-norms-swapped", "latent-draft", drafts_cached, graft=each(Draft, swapped_norms)),
    Mutant(22, "draft-norm-left-out", "latent-draft", drafts_pass, graft=absent("drafts.0.norm")),
    Mutant(22, "draft-one-off", "latent-draft", drafts_padded, sow=counted_padding),
    Mutant(3, "theta-usual", "yi", graft=theta(10000.0)),
    Mutant(3, "theta-usual", "yi-old", graft=theta(10000.0)),
    Mutant(3, "theta-of-the-general-base", "r1-qwen", graft=theta(1000000.0)),
    Mutant(3, "theta-usual", "mistral-v0.2", graft=theta(10000.0)),
    Mutant(3, "llama3-unused", "r1-llama", far_positions, graft=theta(10000.0)),
)
