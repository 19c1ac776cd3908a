"""Mutants of the first decoders and encoders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tests.families.mutants import Mutant, Patch
from tests.families.parity import (
    cached_pass,
    far_positions,
    fork_and_truncate,
    padding,
    ragged_batch,
    tied_head,
)
from vitral.families import bert, gpt2, llama1, qwen2, qwen3
from vitral.families.common import assemble
from vitral.families.common.rules import Split, Transposed
from vitral.nn import (
    GELU,
    Attention,
    ByWavelength,
    Cache,
    DynamicNTK,
    GELUTanh,
    Linear,
    RMSNorm,
    Rotary,
    Scaling,
    Tied,
    Window,
    Yarn,
    model,
    step,
)
from vitral.nn.cache import KeyValue

# ── 1, 2: rotary ────────────────────────────────────────────────────────────────────────────────────────────


def interleaved(patch: Patch) -> None:
    def encode(self: Rotary, x: Tensor, ready: Any) -> Tensor:
        cos, sin = ready
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)

    patch.setattr(Rotary, "encode", encode)


def permuted_rows(ours: Any) -> None:
    """Query and key rows left in the interleaved order of the original files."""
    for module in ours.modules():
        if isinstance(module, Attention):
            for linear in (module.q, module.k):
                w = linear.weight.data.unflatten(0, (-1, module.head_dim // 2, 2))
                linear.weight.data = w.transpose(1, 2).flatten(0, 2).contiguous()


def coarse(what: str) -> Callable[[Patch], None]:
    """Positions, or frequencies, that were cast to bfloat16 together with the model."""

    def sow(patch: Patch) -> None:
        prepare = Rotary.prepare

        def coarsely(self: Rotary, positions: Tensor, key_positions: Tensor) -> Any:
            if what == "positions":
                return prepare(self, positions.bfloat16(), key_positions)
            angle = positions[..., None].float() * self.frequencies.bfloat16().float()
            return angle.cos()[:, None], angle.sin()[:, None]

        patch.setattr(Rotary, "prepare", coarsely)

    return sow


# ── 3, 5, 6: scalings ───────────────────────────────────────────────────────────────────────────────────────


def ignored(kind: type[Scaling]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(kind, "frequencies", Scaling.frequencies)


def frozen_ntk(patch: Patch) -> None:
    patch.setattr(DynamicNTK, "at_length", Scaling.at_length)


def one_length_for_all(patch: Patch) -> None:
    """The growth decided by the padded length, not by the row's own."""
    at_length = DynamicNTK.at_length

    def shared(self: DynamicNTK, theta: float, dim: int, length: Tensor) -> Tensor | None:
        return at_length(self, theta, dim, length.amax()[None])

    patch.setattr(DynamicNTK, "at_length", shared)


def magnitude(value: Callable[[Yarn], float]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(Yarn, "magnitude", property(value))


def untruncated(patch: Patch) -> None:
    frequencies = Yarn.frequencies
    patch.setattr(Yarn, "frequencies", lambda self, *a: frequencies(replace(self, truncate=not self.truncate), *a))


# ── 7, 8: windows ───────────────────────────────────────────────────────────────────────────────────────────


def wider(by: int) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(Window, "sees", lambda self, q, k: (k <= q) & (k > q - self.size - by))


def short_ring(patch: Patch) -> None:
    """A ring without room for the tokens of one step: prefill right, later pieces wrong."""
    patch.setattr(Window, "capacity", lambda self, length, chunk: min(length, max(self.size, chunk)))


def kinds_as(change: Callable[[list[Any]], list[Any]]) -> Callable[[Patch], None]:
    def sow(patch: Patch) -> None:
        kinds = qwen2.kinds
        patch.setattr(qwen2, "kinds", lambda c, layers: change(kinds(c, layers)))

    return sow


# ── 9, 10, 11, 13, 14: scales, norms, activations ───────────────────────────────────────────────────────────


def each_attention(change: Callable[[int, Attention], None]) -> Callable[[Any], None]:
    def graft(ours: Any) -> None:
        for depth, module in enumerate(m for m in ours.modules() if isinstance(m, Attention)):
            change(depth, module)

    return graft


def scaled(value: Callable[[int, Attention], float]) -> Callable[[Any], None]:
    return each_attention(lambda depth, module: setattr(module, "scale", value(depth, module)))


def plus_one(ours: Any) -> None:
    for module in ours.modules():
        if isinstance(module, RMSNorm):
            module.offset = 1.0


def swapped_activation(old: type[nn.Module], new: type[nn.Module], place: str = "") -> Callable[[Any], None]:
    def graft(ours: Any) -> None:
        for name, module in list(ours.named_modules()):
            if isinstance(module, old) and place in name:
                ours.set_submodule(name, new())

    return graft


def eps(value: float, place: str) -> Callable[[Any], None]:
    """The default eps instead of the config's, in some of the norms only."""

    def graft(ours: Any) -> None:
        hit = [m for name, m in ours.named_modules() if hasattr(m, "eps") and place in name]
        assert hit, place
        for module in hit:
            module.eps = value

    return graft


# ── 17, 19, 20, 21: ties, padding, caches, counts ───────────────────────────────────────────────────────────


def untied(patch: Patch) -> None:
    """A head that keeps a table of its own, never filled."""
    init = Tied.__init__

    def alone(self: Tied, table: Any) -> None:
        init(self, type(table)(*table.weight.shape))

    patch.setattr(Tied, "__init__", alone)


def copied_table(ours: Any) -> None:
    """Equal numbers in two places: right until one of them is trained."""
    object.__setattr__(ours.head.proj, "table", copy.deepcopy(ours.head.proj.table))


def counting_padding(patch: Patch) -> None:
    def counted(kinds: Any, length: int, **options: Any) -> Any:
        return step.full_step(kinds, length, **{"positions": torch.arange(length)[None], **options})

    patch.setattr(model, "full_step", counted)


def seen_padding(patch: Patch) -> None:
    def blind(kinds: Any, length: int, *, valid: Tensor | None = None, **options: Any) -> Any:
        if valid is not None:
            options["positions"] = (valid.cumsum(-1) - 1).clamp_min(0)
        return step.full_step(kinds, length, **options)

    patch.setattr(model, "full_step", blind)


def infinite_mask(patch: Patch) -> None:
    def hard(seen: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -torch.inf).unsqueeze(1)

    patch.setattr(step, "additive", hard)


def late(by: int) -> Callable[[Patch], None]:
    """Positions of cached tokens counted from the wrong number."""

    def sow(patch: Patch) -> None:
        extend = Cache.extend

        def shifted(self: Cache, valid: Any) -> Any:
            first = max(self.lengths) == 0
            found = extend(self, valid)
            return found if first else replace(found, positions=(found.positions + by).clamp_min(0))

        patch.setattr(Cache, "extend", shifted)

    return sow


def tiled_groups(patch: Patch) -> None:
    """Head h reads key-value head h % K (tiling) where it is h // group (repeating), in both kernels."""
    forward = Attention.split

    def split(self: Attention, x: Tensor) -> Tensor:
        heads = forward(self, x)
        H, K = heads.shape[-2], self.n_kv_heads
        return heads if H == K else heads.unflatten(-2, (H // K, K)).transpose(-3, -2).flatten(-3, -2)

    patch.setattr(Attention, "split", split)


def coarse_cache(patch: Patch) -> None:
    init = Cache.__init__
    patch.setattr(Cache, "__init__", lambda self, *a, **k: init(self, *a, **{**k, "dtype": torch.bfloat16}))


def no_rollback(patch: Patch) -> None:
    patch.setattr(Cache, "truncate", lambda self, row, length: None)


def shared_fork(patch: Patch) -> None:
    """A fork whose tensors are views of the first cache's."""
    patch.setattr(KeyValue, "rows", lambda self, rows: replace(self, k=self.k[: len(rows)], v=self.v[: len(rows)]))


def stored_padding(patch: Patch) -> None:
    """Padding written where the token before it lies, not into the spare slot."""
    view = Cache._view

    def careless(self: Cache, kind: Any, positions: Tensor, *rest: Any) -> Any:
        return replace(view(self, kind, positions, *rest), slots=positions % self.capacity(kind))

    patch.setattr(Cache, "_view", careless)


def zero_is_unset(patch: Patch) -> None:
    """`value or default`: a count of zero read as none given."""
    get = qwen2.Config.get
    patch.setattr(qwen2.Config, "get", lambda self, key, *a: get(self, key, *a) or (a[0] if a else 0))


# ── 22, 24: names and shapes ────────────────────────────────────────────────────────────────────────────────


def names(family: Any, **rules: Any) -> Callable[[Patch], None]:
    """Rules of a family's name map replaced; the keys end in what is given, with dots as underscores."""

    def sow(patch: Patch) -> None:
        new = dict(family.NAMES.rules)
        for ending, change in rules.items():
            hits = [key for key in new if key.replace(".", "_").endswith(ending)]
            assert hits, ending
            new |= {key: change(new[key]) for key in hits}
        patch.setattr(family, "NAMES", replace(family.NAMES, rules=new))

    return sow


def reordered(*order: int) -> Callable[[Any], Any]:
    def change(rule: Any) -> Any:
        split = rule.to if isinstance(rule, Transposed) else rule
        split = Split(tuple(split.into[i] for i in order))
        return Transposed(split) if isinstance(rule, Transposed) else split

    return change


def instead(old: str, new: str) -> Callable[[str], str]:
    return lambda rule: rule.replace(old, new)


def no_bias(ours: Any) -> None:
    for name, parameter in ours.named_parameters():
        if name.endswith("attn.mixer.v.bias"):
            parameter.data.zero_()


def norm_after_rotation(patch: Patch) -> None:
    def late_norm(self: Attention, x: Tensor, step: Any) -> Tensor:
        view, ready = step.view(self.kind), self.ready(step)
        q, k, v = (self.split(part(x)).transpose(1, 2) for part in (self.q, self.k, self.v))
        q, k = self.q_norm(self.position.encode(q, ready)), self.k_norm(self.position.encode(k, ready))
        return self.o(self.kernel(q, k, v, view.mask, None, self.scale).transpose(1, 2).flatten(-2))

    patch.setattr(Attention, "forward", late_norm)


def swapped_norms(ours: Any) -> None:
    for module in ours.modules():
        if isinstance(module, Attention):
            module.q_norm, module.k_norm = module.k_norm, module.q_norm


def d_over_h(patch: Patch) -> None:
    def derived(c: Any, d: int) -> Any:
        shape = assemble.sizes(c, d)
        return {**shape, "head_dim": d // shape["n_heads"]}

    for family in (llama1, qwen2, qwen3):
        patch.setattr(family, "sizes", derived)


def absent(*places: str) -> Callable[[Any], None]:
    """A part of the frame left out."""

    def graft(ours: Any) -> None:
        for place in places:
            ours.set_submodule(place, nn.Identity())

    return graft


MUTANTS = (
    Mutant(1, "interleaved", "llama-mha", sow=interleaved),
    Mutant(1, "permutation-missed", "llama-gqa-6-2", graft=permuted_rows),
    Mutant(2, "positions-bf16", "llama-mha", far_positions, sow=coarse("positions")),
    Mutant(2, "frequencies-bf16", "llama-mha", sow=coarse("frequencies")),
    Mutant(3, "linear-unused", "llama-linear", sow=ignored(Linear)),
    Mutant(3, "llama3-unused", "llama-llama3", far_positions, sow=ignored(ByWavelength)),
    Mutant(3, "llama3-unused-old-key", "llama-old-llama3", far_positions, sow=ignored(ByWavelength)),
    Mutant(3, "yarn-unused", "llama-yarn", sow=ignored(Yarn)),
    Mutant(3, "yarn-truncation", "llama-yarn-betas", sow=untruncated),
    Mutant(5, "ntk-frozen", "llama-dynamic-grown", sow=frozen_ntk),
    Mutant(5, "ntk-frozen-decoding", "llama-dynamic-grown", cached_pass, sow=frozen_ntk),
    Mutant(5, "ntk-of-the-batch", "llama-dynamic-grown", padding, sow=one_length_for_all),
    Mutant(6, "mscale-missing", "llama-yarn", sow=magnitude(lambda yarn: 1.0)),
    Mutant(6, "mscale-once", "llama-yarn-mscale", sow=magnitude(lambda yarn: yarn.temperature(yarn.mscale or 1.0))),
    Mutant(
        6,
        "mscale-of-all",
        "llama-yarn-mscales",
        sow=magnitude(lambda yarn: yarn.temperature(yarn.mscale_all_dim or 1.0)),
    ),
    Mutant(6, "attention-factor", "llama-yarn-attention", sow=magnitude(lambda yarn: yarn.temperature(1.0))),
    Mutant(7, "window-wider", "qwen2-window", sow=wider(1)),
    Mutant(7, "window-narrower", "qwen3-window", sow=wider(-1)),
    Mutant(7, "window-wider-decoding", "qwen2-window", cached_pass, sow=wider(1)),
    Mutant(7, "ring-too-short", "qwen2-window", cached_pass, sow=short_ring),
    Mutant(8, "window-dropped", "qwen3-window", sow=kinds_as(lambda kinds: kinds[:1] * len(kinds))),
    Mutant(
        8, "window-on-other-layers", "qwen2-layer-types", sow=kinds_as(lambda kinds: [kinds[1], kinds[0], kinds[1]])
    ),
    Mutant(8, "window-reversed", "qwen2-window", sow=kinds_as(lambda kinds: kinds[::-1])),
    Mutant(9, "scale-by-width", "qwen3-plain", graft=scaled(lambda depth, a: 8**-0.5)),
    Mutant(9, "scale-by-width", "llama-head-dim", graft=scaled(lambda depth, a: 8**-0.5)),
    Mutant(9, "depth-ignored", "gpt2-by-depth", graft=scaled(lambda depth, a: a.head_dim**-0.5)),
    Mutant(9, "depth-from-zero", "gpt2-by-depth", graft=scaled(lambda depth, a: a.head_dim**-0.5 / max(depth, 1))),
    Mutant(9, "scaled-anyway", "gpt2-unscaled", graft=scaled(lambda depth, a: a.head_dim**-0.5)),
    Mutant(11, "one-plus-weight", "llama-mha", graft=plus_one),
    Mutant(13, "erf-for-tanh", "gpt2-plain", graft=swapped_activation(GELUTanh, GELU)),
    Mutant(13, "tanh-for-erf", "gpt2-erf", graft=swapped_activation(GELU, GELUTanh)),
    Mutant(13, "tanh-for-erf", "bert-model", graft=swapped_activation(GELU, GELUTanh)),
    Mutant(13, "tanh-for-erf-in-the-head", "bert-masked", graft=swapped_activation(GELU, GELUTanh, "head")),
    *(
        Mutant(14, f"eps-{row.partition('-')[0]}{place}", row, graft=eps(value, place))
        for row, value, places in (
            ("llama-tiny-stream", 1e-6, ("attn.pre", "ffn.pre", "stack.norm")),
            ("qwen3-tiny-stream", 1e-6, ("attn.pre", "ffn.pre", "stack.norm", "q_norm", "k_norm")),
            ("gpt2-tiny-stream", 1e-5, ("attn.pre", "ffn.pre", "stack.norm")),
            ("bert-tiny-stream", 1e-12, ("embed.norm", "attn.after", "ffn.after", "head.transform.norm")),
        )
        for place in places
    ),
    Mutant(17, "head-not-tied", "llama-tied", sow=untied),
    Mutant(17, "head-not-tied", "bert-masked", sow=untied),
    Mutant(17, "head-copied", "llama-tied", tied_head, graft=copied_table),
    Mutant(17, "head-copied", "gpt2-plain", tied_head, graft=copied_table),
    Mutant(19, "padding-counted", "llama-dynamic-grown", padding, sow=counting_padding),
    Mutant(19, "padding-counted", "gpt2-plain", padding, sow=counting_padding),
    Mutant(19, "padding-counted", "bert-model", padding, sow=counting_padding),
    Mutant(19, "padding-seen", "llama-mha", padding, sow=seen_padding),
    Mutant(19, "padding-seen", "bert-masked", padding, sow=seen_padding),
    Mutant(19, "padding-nan", "qwen2-window", padding, sow=infinite_mask),
    Mutant(19, "padding-nan", "llama-gqa-9-3", padding, sow=infinite_mask),
    Mutant(20, "positions-late", "llama-mha", cached_pass, sow=late(1)),
    Mutant(20, "positions-early", "gpt2-plain", cached_pass, sow=late(-1)),
    Mutant(20, "groups-tiled", "llama-gqa-6-2", sow=tiled_groups),
    Mutant(20, "groups-tiled", "llama-gqa-9-3", cached_pass, sow=tiled_groups),
    Mutant(20, "cache-dtype", "llama-mha", cached_pass, sow=coarse_cache),
    Mutant(20, "no-rollback", "llama-mha", fork_and_truncate, sow=no_rollback),
    Mutant(20, "no-rollback", "qwen2-window", fork_and_truncate, sow=no_rollback),
    Mutant(20, "fork-shares", "gpt2-plain", fork_and_truncate, sow=shared_fork),
    Mutant(20, "padding-stored", "llama-mha", ragged_batch, sow=stored_padding),
    Mutant(20, "padding-stored", "qwen3-window", ragged_batch, sow=stored_padding),
    Mutant(21, "zero-is-unset", "qwen2-old-window-0", sow=zero_is_unset),
    Mutant(21, "default-wrong", "qwen2-old-window-unsaid", sow=kinds_as(lambda kinds: [Window(4)] * len(kinds))),
    Mutant(22, "conv-transpose-o", "gpt2-square", sow=names(gpt2, attn_c_proj_weight=lambda rule: rule.to)),
    Mutant(22, "conv-transpose-up", "gpt2-square", sow=names(gpt2, c_fc_weight=lambda rule: rule.to)),
    Mutant(22, "conv-transpose-down", "gpt2-square", sow=names(gpt2, mlp_c_proj_weight=lambda rule: rule.to)),
    Mutant(22, "conv-transpose-qkv", "gpt2-square", sow=names(gpt2, c_attn_weight=lambda rule: rule.to)),
    Mutant(22, "fused-order-weight", "gpt2-plain", sow=names(gpt2, c_attn_weight=reordered(1, 0, 2))),
    Mutant(22, "fused-order-bias", "gpt2-plain", sow=names(gpt2, c_attn_bias=reordered(0, 2, 1))),
    Mutant(
        22,
        "gate-up-swap",
        "llama-mha",
        sow=names(llama1, **{"gate_proj_{}": instead("gate", "up"), "up_proj_{}": instead("mixer.up", "mixer.gate")}),
    ),
    Mutant(
        22,
        "norms-swapped",
        "llama-mha",
        sow=names(
            llama1,
            input_layernorm_weight=instead("attn", "ffn"),
            post_attention_layernorm_weight=instead("ffn", "attn"),
        ),
    ),
    Mutant(
        22,
        "query-key-swap",
        "bert-model",
        sow=names(bert, **{"query_{}": instead("mixer.q", "mixer.k"), "key_{}": instead("mixer.k", "mixer.q")}),
    ),
    Mutant(22, "bias-lost", "qwen2-plain", graft=no_bias),
    Mutant(22, "bias-lost", "llama-head-dim", graft=no_bias),
    Mutant(
        22,
        "bias-rule-lost",
        "gpt2-plain",
        sow=lambda patch: patch.setattr(
            gpt2,
            "NAMES",
            replace(
                gpt2.NAMES,
                ignore=(*gpt2.NAMES.ignore, "h.{}.attn.c_attn.bias"),
                rules={key: rule for key, rule in gpt2.NAMES.rules.items() if key != "h.{}.attn.c_attn.bias"},
            ),
        ),
    ),
    Mutant(22, "qk-norm-after-rotation", "qwen3-plain", sow=norm_after_rotation),
    Mutant(22, "q-norm-for-k-norm", "qwen3-plain", graft=swapped_norms),
    Mutant(22, "final-norm-left-out", "gpt2-plain", graft=absent("stack.norm")),
    Mutant(22, "embedding-norm-left-out", "bert-minilm", graft=absent("embed.norm")),
    Mutant(24, "head-dim-is-d-over-h", "qwen3-plain", sow=d_over_h),
    Mutant(24, "head-dim-is-d-over-h", "llama-head-dim", sow=d_over_h),
)
