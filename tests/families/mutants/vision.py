"""Mutants of the families that see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.families import vision as checks
from tests.families.mutants import Mutant, Patch
from tests.families.mutants.decoders import absent, eps, norm_after_rotation, swapped_activation
from tests.families.parity import cached_pass, far_positions
from tests.families.vision import (
    looked_cached,
    looked_nowhere,
    looked_ragged,
    looked_whole,
    seen_at_other_sizes,
    seen_whole,
    shown_cached,
    shown_whole,
)
from vitral.families import clip, gemma3, siglip
from vitral.nn import (
    GELU,
    AtHighest,
    Attention,
    AtToken,
    Causal,
    ClassToken,
    Dual,
    Full,
    Gate,
    GatedLooking,
    GELUTanh,
    Grid,
    Last,
    Linear,
    Looking,
    Memory,
    Pooled,
    Probe,
    QuickGELU,
    RMSNorm,
    Scaling,
    Soft,
    TiledTower,
    Window,
    step,
    tiles,
)


def method(part: Any, name: str, new: Callable[..., Any]) -> Callable[[Patch], None]:
    """A method of a part replaced."""
    return lambda patch: patch.setattr(part, name, new)


def each(kind: type[nn.Module], change: Callable[[Any], None]) -> Callable[[Any], None]:
    """Something done to every part of a kind, of which there must be one."""

    def graft(ours: Any) -> None:
        hit = [module for module in ours.modules() if isinstance(module, kind)]
        assert hit, kind
        for module in hit:
            change(module)

    return graft


# ── towers ──────────────────────────────────────────────────────────────────────────────────────────────────


def behind(self: ClassToken, x: Tensor) -> Tensor:
    return torch.cat((x, self.vector.expand(len(x), 1, -1)), 1)


def grid(turned: bool = False, mode: str = "bicubic", corners: bool = False) -> Callable[[Patch], None]:
    """Positions interpolated otherwise."""

    def forward(self: Grid, rows: int, columns: int) -> Tensor:
        table = self.table.weight
        axes = (0, 3, 2, 1) if turned else (0, 3, 1, 2)
        cells = table[self.first :].view(1, self.side, self.side, -1).permute(axes)
        cells = F.interpolate(cells, size=(rows, columns), mode=mode, align_corners=corners)
        return torch.cat((table[: self.first], cells.permute(0, 2, 3, 1).flatten(0, 2)))

    return method(Grid, "forward", forward)


def first_positions(self: Grid, rows: int, columns: int) -> Tensor:
    """The first rows of the table, whatever the grid: what a model does that never interpolates."""
    n = self.first + rows * columns
    return self.table.weight.repeat(9, 1)[:n]


def kind_of_text(family: Any, kind: Any) -> Callable[[Patch], None]:
    """All blocks of a family's towers with another mask."""

    def sow(patch: Patch) -> None:
        made = family.blocks
        patch.setattr(family, "blocks", lambda *args, **options: made(*args, **{**options, "kind": kind}))

    return sow


def raw(self: Dual, pixels: Tensor) -> Tensor:
    now = self.image.step(pixels)
    pooler: Any = self.image.pooler
    return self.image_proj(pooler(self.image.hidden(pixels, now), now))


def linear_scale(self: Dual, ids: Tensor, pixels: Tensor) -> Tensor:
    logits = self.read(ids) @ self.look(pixels).T * self.scale
    return logits if self.bias is None else logits + self.bias


def no_logit_bias(ours: Any) -> None:
    ours.bias = None


def probe_alone(self: Probe, x: Tensor, now: Any) -> Tensor:
    y = self.attention(self.vector.expand(len(x), 1, -1), replace(now, memory=Memory.of(x), cache=None))
    return self.ffn(self.norm(y), now)[:, 0]


def norm_of_all(ours: Any) -> None:
    ours.image.stack.norm = ours.image.pooler.norm
    ours.image.pooler.norm = nn.Identity()


def reordered_probe(patch: Patch) -> None:
    rules = {key: rule for key, rule in siglip.NAMES.rules.items()}
    for key, rule in rules.items():
        if "in_proj" in key:
            rules[key] = replace(rule, into=(rule.into[1], rule.into[0], rule.into[2]))  # type: ignore[union-attr, type-var]
    patch.setattr(siglip, "NAMES", replace(siglip.NAMES, rules=rules))


# ── soft tokens ─────────────────────────────────────────────────────────────────────────────────────────────


def scaled_soft(patch: Patch) -> None:
    into = Soft.into
    patch.setattr(Soft, "into", lambda self, x: into(replace(self, vectors=self.vectors * x.shape[-1] ** 0.5), x))


def unscaled_words(ours: Any) -> None:
    ours.embed.scale = None


def shuffled(cls: Any, at: Tensor, vectors: Tensor, *, together: bool = False) -> Soft:
    """Column by column in place of row by row."""
    dense = vectors.new_zeros(*at.shape[::-1], vectors.shape[-1])
    dense[at.T] = vectors
    return cls(at=at, vectors=dense.transpose(0, 1), together=together)


def past_the_window(patch: Patch) -> None:
    """The whole picture seen from within it, beyond the window too."""

    def visible(kind: Any, q: Tensor, k: Tensor, until: Tensor | None = None) -> Tensor:
        seen = kind.sees(q, k)
        return seen if until is None else seen | ((until > q) & (k <= until))

    patch.setattr(step, "visible", visible)


def only_in_full_layers(patch: Patch) -> None:
    visible = step.visible

    def partly(kind: Any, q: Tensor, k: Tensor, until: Tensor | None = None) -> Tensor:
        return visible(kind, q, k, None if isinstance(kind, Window) else until)

    patch.setattr(step, "visible", partly)


def careless_pieces(self: Soft, most: int) -> list[tuple[int, int]]:
    T = self.at.shape[1]
    return [(start, min(start + most, T)) for start in range(0, T, most)]


def subsampled(self: Pooled, x: Tensor) -> Tensor:
    grid = x.transpose(1, 2).unflatten(-1, (self.side, self.side))
    return self.proj(self.norm(grid[..., :: self.square, :: self.square].flatten(2).transpose(1, 2)))


def turned_pool(self: Pooled, x: Tensor) -> Tensor:
    grid = x.transpose(1, 2).unflatten(-1, (self.side, self.side)).transpose(-1, -2)
    return self.proj(self.norm(F.avg_pool2d(grid, self.square).flatten(2).transpose(1, 2)))


def rotaries_as(change: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[Patch], None]:
    def sow(patch: Patch) -> None:
        made = gemma3.rotaries

        def otherwise(*args: Any) -> Any:
            local, everywhere, context = made(*args)
            return *change(local, everywhere), context

        patch.setattr(gemma3, "rotaries", otherwise)

    return sow


def kinds_as(change: Callable[[list[Any]], list[Any]]) -> Callable[[Patch], None]:
    def sow(patch: Patch) -> None:
        kinds = gemma3.kinds
        patch.setattr(gemma3, "kinds", lambda c, layers: change(kinds(c, layers)))

    return sow


# ── tiles ───────────────────────────────────────────────────────────────────────────────────────────────────


def uniform_when_blind(patch: Patch) -> None:
    """Tokens that see nothing masked everywhere: the scores drown, and they get the mean of all values."""
    at = Memory.at

    def strictly(self: Memory, positions: Tensor, dtype: torch.dtype) -> Memory:
        found = at(self, positions, dtype)
        if found.seen is None or found.mask is None:
            return found
        return replace(found, mask=found.mask.masked_fill(~found.seen[:, None], torch.finfo(dtype).min))

    patch.setattr(Memory, "at", strictly)


def later_kept(ours: Any) -> None:
    """What leaves the blocks in place of what enters them."""
    ours.vision.kept = tuple(depth - 1 for depth in ours.vision.kept)


def side_by_side(patch: Patch) -> None:
    """The kept states one after the other, their numbers not interleaved."""
    stack = torch.stack
    patch.setattr(tiles.torch, "stack", lambda parts, dim: stack(parts, -2 if dim == -1 else dim))


def empty_unseen(self: TiledTower, there: Tensor, n: int, spare: int, dtype: torch.dtype) -> Any:
    """The mask one would expect: nobody sees what is empty."""
    now = true_step(self, there, n, spare, dtype)
    empty = F.pad(~there[:, :, None].expand(-1, -1, n), (0, spare), value=True).flatten(1)
    seen = (~empty)[:, None, :].expand(-1, empty.shape[1], -1)
    view = replace(now.views["full"], mask=step.additive(seen, dtype))
    return replace(now, views={"full": view})


true_step = TiledTower.step


def looks_from(shift: int) -> Callable[[Patch], None]:
    def sow(patch: Patch) -> None:
        true = checks.looking
        patch.setattr(checks, "looking", lambda ids, token, there: true(ids, token, there).roll(shift, 1))

    return sow


def everyone_looks(patch: Patch) -> None:
    patch.setattr(checks, "looking", lambda ids, token, there: there[:, None].expand(-1, ids.shape[1], -1, -1))


def ffn_still(self: Looking, x: Tensor, now: Any) -> Tensor:
    """Without a picture only the attention left out."""
    if now.memory is None:
        return self.ffn(x, now.at("ffn"))  # type: ignore[operator]
    return super(Looking, self).forward(x, now)


def never_stored(patch: Patch) -> None:
    """Later tokens that look where the first of the prompt did."""
    at = Memory.at
    patch.setattr(Memory, "at", lambda self, positions, dtype: at(self, positions.clamp_max(3), dtype))


def bare_scale(module: Attention) -> None:
    module.scale = module.head_dim**-0.5


def no_offset(module: RMSNorm) -> None:
    module.offset = 0.0


MUTANTS = (
    Mutant(13, "gelu-for-quick", "clip-plain", seen_whole, graft=swapped_activation(QuickGELU, GELU)),
    Mutant(13, "erf-for-tanh", "siglip-plain", seen_whole, graft=swapped_activation(GELUTanh, GELU)),
    Mutant(13, "tanh-for-erf", "vit-model", seen_whole, graft=swapped_activation(GELU, GELUTanh)),
    Mutant(14, "eps-of-the-default", "vit-tiny-stream", seen_whole, graft=eps(1e-12, "attn.pre")),
    Mutant(14, "last-eps", "vit-tiny-stream", seen_whole, graft=eps(1e-12, "stack.norm")),
    Mutant(22, "pre-norm-lost", "clip-plain", seen_whole, graft=absent("image.embed.norm")),
    Mutant(22, "post-norm-lost", "clip-plain", seen_whole, graft=absent("image.pooler.norm")),
    Mutant(22, "post-norm-of-all", "clip-plain", seen_whole, graft=norm_of_all),
    Mutant(22, "last-norm-lost", "siglip-plain", seen_whole, graft=absent("image.stack.norm")),
    Mutant(22, "class-token-last", "vit-classes", seen_whole, sow=method(ClassToken, "forward", behind)),
    Mutant(22, "probe-order", "siglip-plain", seen_whole, sow=reordered_probe),
    Mutant(22, "grid-turned", "vit-model", seen_at_other_sizes, sow=grid(turned=True)),
    Mutant(22, "grid-bilinear", "clip-plain", seen_at_other_sizes, sow=grid(mode="bilinear")),
    Mutant(22, "grid-corners", "siglip-plain", seen_at_other_sizes, sow=grid(corners=True)),
    Mutant(22, "grid-cut", "siglip-border", seen_at_other_sizes, sow=method(Grid, "forward", first_positions)),
    Mutant(19, "text-sees-ahead", "clip-plain", seen_whole, sow=kind_of_text(clip, Full())),
    Mutant(19, "text-causal", "siglip-plain", seen_whole, sow=kind_of_text(siglip, Causal())),
    Mutant(18, "read-at-the-last", "clip-plain", seen_whole, sow=method(AtToken, "forward", Last.forward)),
    Mutant(
        18, "read-at-an-id", "clip-old-end", seen_whole, sow=method(AtHighest, "forward", lambda s, x, ids: x[:, 2])
    ),
    Mutant(18, "read-at-the-highest", "siglip-plain", seen_whole, sow=method(Last, "forward", AtHighest.forward)),
    Mutant(9, "not-unit", "clip-plain", seen_whole, sow=method(Dual, "look", raw)),
    Mutant(9, "scale-not-exp", "clip-plain", seen_whole, sow=method(Dual, "forward", linear_scale)),
    Mutant(9, "logit-bias-lost", "siglip-plain", seen_whole, graft=no_logit_bias),
    Mutant(9, "probe-residual-lost", "siglip-plain", seen_whole, sow=method(Probe, "forward", probe_alone)),
    Mutant(2, "bases-swapped", "gemma3-plain", far_positions, sow=rotaries_as(lambda a, b: (b, a))),
    Mutant(2, "one-base", "gemma3-linear", sow=rotaries_as(lambda a, b: (b, b))),
    Mutant(3, "linear-unused", "gemma3-linear", sow=method(Linear, "frequencies", Scaling.frequencies)),
    Mutant(3, "linear-unused-old-keys", "gemma3-old", sow=method(Linear, "frequencies", Scaling.frequencies)),
    Mutant(7, "window-everywhere", "gemma3-plain", sow=kinds_as(lambda kinds: [kinds[0]] * len(kinds))),
    Mutant(8, "pattern-shifted", "gemma3-plain", cached_pass, sow=kinds_as(lambda kinds: [*kinds[1:], kinds[0]])),
    Mutant(8, "pattern-turned", "gemma3-types", sow=kinds_as(lambda kinds: kinds[::-1])),
    Mutant(10, "scale-of-the-head", "gemma3-plain", graft=each(Attention, bare_scale)),
    Mutant(11, "offset-lost", "gemma3-plain", graft=each(RMSNorm, no_offset)),
    Mutant(11, "embedding-unscaled", "gemma3-plain", graft=unscaled_words),
    Mutant(11, "norm-after-rotation", "gemma3-plain", sow=norm_after_rotation),
    Mutant(11, "post-norm-lost", "gemma3-plain", graft=absent("stack.blocks.1.ffn.post")),
    Mutant(14, "eps-of-heads", "gemma3-tiny-stream", graft=eps(1e-8, "q_norm")),
    Mutant(11, "soft-scaled", "gemma3-vision-published", shown_whole, sow=scaled_soft),
    Mutant(11, "projector-norm-lost", "gemma3-vision-published", shown_whole, graft=absent("vision.projector.norm")),
    Mutant(25, "soft-causal", "gemma3-vision-published", shown_whole, sow=method(Soft, "until", lambda s, p: None)),
    Mutant(
        25,
        "soft-causal-cached",
        "gemma3-vision-wide-window",
        shown_cached,
        sow=method(Soft, "until", lambda s, p: None),
    ),
    Mutant(25, "soft-together-in-full-only", "gemma3-vision-published", shown_whole, sow=only_in_full_layers),
    Mutant(7, "soft-past-the-window", "gemma3-vision-narrow", shown_whole, sow=past_the_window),
    Mutant(
        22, "soft-out-of-order", "gemma3-vision-published", shown_whole, sow=method(Soft, "of", classmethod(shuffled))
    ),
    Mutant(20, "picture-cut", "gemma3-vision-published", shown_cached, sow=method(Soft, "pieces", careless_pieces)),
    Mutant(22, "pool-subsampled", "gemma3-vision-published", shown_whole, sow=method(Pooled, "forward", subsampled)),
    Mutant(22, "pool-turned", "gemma3-vision-published", shown_whole, sow=method(Pooled, "forward", turned_pool)),
    Mutant(11, "gates-lost", "llama-vision-plain", looked_whole, sow=method(Gate, "forward", lambda self, x: x)),
    Mutant(
        11, "gates-linear", "llama-vision-plain", looked_whole, sow=method(Gate, "forward", lambda s, x: s.weight * x)
    ),
    Mutant(
        11, "cross-norms-lost", "llama-vision-plain", looked_whole, graft=absent("stack.blocks.1.cross.mixer.k_norm")
    ),
    Mutant(19, "blind-tokens-uniform", "llama-vision-plain", looked_whole, sow=uniform_when_blind),
    Mutant(
        19,
        "blind-tokens-speak",
        "llama-vision-plain",
        looked_whole,
        sow=method(GatedLooking, "forward", GatedLooking.__base__.forward),
    ),
    Mutant(22, "kept-a-block-later", "llama-vision-one-kept", looked_whole, graft=later_kept),
    Mutant(22, "kept-not-interleaved", "llama-vision-plain", looked_whole, sow=side_by_side),
    Mutant(19, "empty-tiles-unseen", "llama-vision-plain", looked_whole, sow=method(TiledTower, "step", empty_unseen)),
    Mutant(19, "no-spare-vectors", "llama-vision-plain", looked_whole, sow=method(TiledTower, "multiple", 1)),
    Mutant(21, "looks-late", "llama-vision-plain", looked_whole, sow=looks_from(1)),
    Mutant(21, "everyone-looks", "llama-vision-plain", looked_ragged, sow=everyone_looks),
    Mutant(20, "looks-forgotten", "llama-vision-plain", looked_cached, sow=never_stored),
    Mutant(8, "looking-not-skipped", "llama-vision-plain", looked_nowhere, sow=method(Looking, "forward", ffn_still)),
)
