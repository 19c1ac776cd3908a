"""Mutants of the mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.families.mutants import Mutant, Patch
from tests.families.mutants.decoders import eps, swapped_activation
from tests.families.parity import cached_pass
from tests.families.rows.moe import same_routes
from vitral.families import grok1, mixtral, qwen2, qwen2_moe, qwen3_moe
from vitral.families.common import experts
from vitral.families.common.config import Config
from vitral.families.common.rules import Transposed
from vitral.nn import GELU, Attention, Causal, Eager, Experts, GELUTanh, Parallel, Renormalised, Router, Weighed
from vitral.nn import router as routers
from vitral.nn.router import Wide

# ── 15: who is chosen, and what they weigh ──────────────────────────────────────────────────────────────────


def weighing(kind: type[Router], weigh: Callable[[Tensor], Tensor]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(kind, "weigh", lambda self, scores: weigh(scores))


def normalised(scores: Tensor) -> Tensor:
    return scores / scores.sum(-1, keepdim=True)


def scoring(score: Callable[[Tensor], Tensor]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(Router, "score", lambda self, logits: score(logits))


def unweighted(patch: Patch) -> None:
    forward = Experts.forward
    patch.setattr(Experts, "forward", lambda self, x, weights, ids: forward(self, x, torch.ones_like(weights), ids))


def weights_of_others(patch: Patch) -> None:
    """The weights in one order, the experts in another."""
    forward = Experts.forward
    patch.setattr(Experts, "forward", lambda self, x, weights, ids: forward(self, x, weights.flip(-1), ids))


def ranked(first: int) -> Callable[[Patch], None]:
    """The choice begins at another rank than the highest."""

    def pick(scores: Tensor, k: int) -> Tensor:
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        return order.roll(-first, -1)[..., :k]

    return lambda patch: patch.setattr(routers, "highest", pick)


def coarse_router(patch: Patch) -> None:
    """A router that computes in bfloat16."""

    def forward(self: Wide, x: Tensor) -> Tensor:
        return (x.bfloat16() @ self.weight.bfloat16().T).float()

    patch.setattr(Wide, "forward", forward)


def shifted_experts(ours: Any) -> None:
    for module in ours.modules():
        if isinstance(module, Experts):
            for parameter in module.parameters():
                parameter.data = parameter.data.roll(1, 0)


def shifted_parts(ours: Any) -> None:
    """The matrices of one expert from two."""
    for module in ours.modules():
        if isinstance(module, Experts):
            module.down.data = module.down.data.roll(1, 0)


def always_normalised(patch: Patch) -> None:
    """A file that does not say is taken to mean what published files say."""
    flag = Config.flag
    patch.setattr(Config, "flag", lambda self, key, default=False: flag(self, key, default or key == "norm_topk_prob"))


# ── 15: the expert that all tokens meet, and the layers that have any ───────────────────────────────────────


def gateless(patch: Patch) -> None:
    patch.setattr(Weighed, "forward", lambda self, x, step: self.mixer(x, step))


def raw_gate(patch: Patch) -> None:
    patch.setattr(Weighed, "forward", lambda self, x, step: self.gate(x) * self.mixer(x, step))


def gated_input(patch: Patch) -> None:
    patch.setattr(Weighed, "forward", lambda self, x, step: self.mixer(torch.sigmoid(self.gate(x)) * x, step))


def only(branch: str) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(
        Parallel, "forward", lambda self, x, step: getattr(self, branch)(x, step.at(branch))
    )


def sparse(rule: Callable[[Config, int], Callable[[int], bool]]) -> Callable[[Patch], None]:
    def sow(patch: Patch) -> None:
        def read(c: Config, layers: int) -> Callable[[int], bool]:
            experts.sparse_layers(c, layers)
            return rule(c, layers)

        for family in (qwen2_moe, qwen3_moe):
            patch.setattr(family, "sparse_layers", read)

    return sow


def from_zero(c: Config, layers: int) -> Callable[[int], bool]:
    step = c.size("decoder_sparse_step", 1)
    return lambda depth: depth % step == 0


def step_alone(c: Config, layers: int) -> Callable[[int], bool]:
    step = c.size("decoder_sparse_step", 1)
    return lambda depth: (depth + 1) % step == 0


# ── 7, 9, 10, 22: windows, scales, caps and names ───────────────────────────────────────────────────────────


def no_window(patch: Patch) -> None:
    for family in (mixtral, qwen3_moe):
        patch.setattr(family, "Window", lambda size: Causal())


def kinds_of_dense(patch: Patch) -> None:
    patch.setattr(qwen2_moe, "kinds", qwen2.kinds)


def uncapped(ours: Any) -> None:
    for module in ours.modules():
        if isinstance(module, Eager):
            module.softcap = None


def scaled_after_the_cap(patch: Patch) -> None:
    """The cap on the bare scores, and the scale on what comes out of it."""
    forward = Eager.forward

    def late(self: Eager, q: Tensor, k: Tensor, v: Tensor, mask: Any, bias: Any, scale: float) -> Tensor:
        cap = self.softcap
        if cap is None:
            return forward(self, q, k, v, mask, bias, scale)
        self.softcap = cap * scale  # scale · cap · tanh(s / cap) = c · tanh(scale · s / c) where c = scale · cap
        out = forward(self, q, k, v, mask, bias, scale)
        self.softcap = cap
        return out

    patch.setattr(Eager, "forward", late)


def default_scale(ours: Any) -> None:
    for module in ours.modules():
        if isinstance(module, Attention):
            module.scale = module.head_dim**-0.5


def unscaled(part: str, name: str) -> Callable[[Any], None]:
    return lambda ours: setattr(ours.get_submodule(part), name, None)


def swapped(family: Any, one: str, other: str) -> Callable[[Patch], None]:
    """Two names of a file taken for one another."""

    def sow(patch: Patch) -> None:
        rules = dict(family.NAMES.rules)
        ends = {key: key.replace(f"{one}", "\0").replace(other, one).replace("\0", other) for key in rules}
        hits = {key: new for key, new in ends.items() if new != key}
        assert len(hits) >= 2 and all(new in rules for new in hits.values()), hits
        new_rules = {key: rules[ends[key]] for key in rules}
        patch.setattr(family, "NAMES", type(family.NAMES)(**{**vars(family.NAMES), "rules": new_rules}))

    return sow


def untransposed_experts(patch: Patch) -> None:
    rules = {
        key: rule.to if isinstance(rule, Transposed) and "/moe/" in key else rule
        for key, rule in grok1.NAMES.rules.items()
    }
    patch.setattr(grok1, "NAMES", type(grok1.NAMES)(**{**vars(grok1.NAMES), "rules": rules}))


MUTANTS = (
    Mutant(15, "renormalisation-dropped", "mixtral-plain", sow=weighing(Renormalised, lambda s: s)),
    Mutant(15, "renormalisation-dropped", "qwen3-moe-plain", sow=weighing(Renormalised, lambda s: s)),
    Mutant(15, "renormalisation-added", "qwen2-moe-plain", sow=weighing(Router, normalised)),
    Mutant(15, "renormalisation-added", "grok1-plain", sow=weighing(Router, normalised)),
    Mutant(15, "renormalisation-by-default", "qwen3-moe-unsaid", sow=always_normalised),
    Mutant(15, "renormalisation-by-default", "qwen2-moe-old-window-off", sow=always_normalised),
    Mutant(15, "softmax-twice", "mixtral-plain", sow=weighing(Renormalised, lambda s: s.softmax(-1))),
    Mutant(15, "sigmoid-for-softmax", "mixtral-plain", sow=scoring(torch.sigmoid)),
    Mutant(15, "sigmoid-for-softmax", "grok1-plain", sow=scoring(torch.sigmoid)),
    Mutant(15, "unweighted", "mixtral-plain", sow=unweighted),
    Mutant(15, "unweighted", "mixtral-plain", cached_pass, sow=unweighted),
    Mutant(15, "weights-of-others", "qwen3-moe-plain", sow=weights_of_others),
    Mutant(15, "second-best", "mixtral-top-1", sow=ranked(1)),
    Mutant(15, "second-best", "qwen2-moe-plain", same_routes, sow=ranked(1)),
    Mutant(15, "second-best", "grok1-plain", same_routes, sow=ranked(1)),
    Mutant(15, "router-in-bf16", "qwen3-moe-plain", sow=coarse_router),
    Mutant(15, "router-in-bf16", "mixtral-plain", sow=coarse_router),
    Mutant(15, "experts-shifted", "mixtral-plain", graft=shifted_experts),
    Mutant(15, "experts-shifted", "mixtral-all", graft=shifted_experts),
    Mutant(15, "experts-mixed", "grok1-plain", graft=shifted_parts),
    Mutant(15, "shared-gate-lost", "qwen2-moe-plain", sow=gateless),
    Mutant(15, "shared-gate-raw", "qwen2-moe-plain", sow=raw_gate),
    Mutant(15, "shared-gate-before", "qwen2-moe-plain", sow=gated_input),
    Mutant(15, "shared-lost", "qwen2-moe-plain", sow=only("moe")),
    Mutant(15, "routed-lost", "qwen2-moe-plain", sow=only("shared")),
    Mutant(15, "sparse-step-from-zero", "qwen2-moe-every-other", sow=sparse(from_zero)),
    Mutant(15, "sparse-step-from-zero", "qwen3-moe-every-other", sow=sparse(from_zero)),
    Mutant(15, "dense-layers-ignored", "qwen3-moe-some-dense", sow=sparse(step_alone)),
    Mutant(15, "dense-layers-ignored", "qwen2-moe-some-dense", sow=sparse(step_alone)),
    Mutant(7, "window-ignored", "mixtral-window", sow=no_window),
    Mutant(7, "window-ignored", "qwen3-moe-window", sow=no_window),
    Mutant(8, "windows-of-the-dense", "qwen2-moe-old-window", sow=kinds_of_dense),
    Mutant(9, "default-scale", "grok1-plain", graft=default_scale),
    Mutant(10, "cap-dropped", "grok1-capped", graft=uncapped),
    Mutant(10, "cap-before-scale", "grok1-capped", sow=scaled_after_the_cap),
    Mutant(12, "embeddings-unscaled", "grok1-plain", graft=unscaled("embed", "scale")),
    Mutant(12, "logits-unscaled", "grok1-plain", graft=unscaled("head", "scale")),
    Mutant(13, "erf-for-tanh", "grok1-plain", graft=swapped_activation(GELUTanh, GELU)),
    *(
        Mutant(14, f"eps-{row.partition('-tiny')[0]}-{place}", row, graft=eps(1e-6, place))
        for row, places in (
            ("mixtral-tiny-stream", ("attn.pre", "ffn.pre", "stack.norm")),
            ("qwen2-moe-tiny-stream", ("attn.pre", "ffn.pre", "stack.norm")),
            ("qwen3-moe-tiny-stream", ("attn.pre", "ffn.pre", "stack.norm", "q_norm", "k_norm")),
            ("grok1-tiny-stream", ("attn.pre", "ffn.pre", "stack.norm")),
        )
        for place in places
    ),
    Mutant(22, "gate-up-swap", "mixtral-plain", sow=swapped(mixtral, ".w1.", ".w3.")),
    Mutant(22, "gate-up-swap", "qwen2-moe-plain", sow=swapped(qwen2_moe, "experts.{}.gate_proj", "experts.{}.up_proj")),
    Mutant(22, "gate-up-swap", "qwen3-moe-plain", sow=swapped(qwen3_moe, "experts.{}.gate_proj", "experts.{}.up_proj")),
    Mutant(22, "gate-up-swap", "grok1-plain", sow=swapped(grok1, "/moe/linear/", "/moe/linear_v/")),
    Mutant(
        22, "shared-gate-up-swap", "qwen2-moe-plain", sow=swapped(qwen2_moe, "shared_expert.gate", "shared_expert.up")
    ),
    Mutant(22, "norms-swapped", "grok1-plain", sow=swapped(grok1, "/rms_norm_1/", "/rms_norm_2/")),
    Mutant(22, "norms-swapped", "grok1-plain", sow=swapped(grok1, "/rms_norm_1/", "/rms_norm_3/")),
    Mutant(22, "experts-not-transposed", "grok1-square", sow=untransposed_experts),
)
