"""Routers: which experts a token meets, and how much each of them counts.

B batch · T length · S key length · E experts · k experts a token meets · d width

    x [B, T, d] ─ proj ─ logits [B, T, E] ─ score ─ choose ─ weigh ─▶ Routing(weights, ids [B, T, k])

A router computes in at least float32 whatever the model's dtype: near ties decide who answers (arXiv:2101.03961 §2.4).
Among equals the expert of the lowest number is chosen. The id E means nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitral.nn.cache import Allocate
from vitral.nn.mask import Kind
from vitral.nn.step import Step


@dataclass(frozen=True, kw_only=True, eq=False)
class Routing:
    """A router's choice.

    Args:
        weights: [B, T, k] of the chosen experts, in at least float32; 0 where the id is E. They carry the router's
            gradient.
        ids: int64 [B, T, k], best first; E where nobody is met.
        scores: [B, T, E] of all experts (softmax or sigmoid of the logits), before anything was chosen.
        logits: [B, T, E].
        valid: bool [B|1, T], False on padding; None when there is none.
    """

    weights: Tensor
    ids: Tensor
    scores: Tensor
    logits: Tensor
    valid: Tensor | None = None

    def dense(self) -> Tensor:
        """The weights laid out by expert [B, T, E], 0 for those that were not chosen."""
        E = self.scores.shape[-1]
        table = self.weights.new_zeros(*self.weights.shape[:-1], E + 1)
        return table.scatter(-1, self.ids, self.weights)[..., :E]


class Wide(nn.Linear):
    """A linear layer that computes in at least float32, whatever the dtype of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        kind = torch.promote_types(x.dtype, torch.float32)
        return F.linear(x.to(kind), self.weight.to(kind), None if self.bias is None else self.bias.to(kind))


class Router(nn.Module):
    """The base: softmax scores, the k highest, weighed by their scores (Shazeer et al., arXiv:1701.06538 §2.1).

    Args:
        d_model: width of x.
        n_experts: E; `top_k` is k.
        bias: of the logits.
    """

    def __init__(self, *, d_model: int, n_experts: int, top_k: int, bias: bool = False) -> None:
        super().__init__()
        if not 1 <= top_k <= n_experts:
            raise ValueError(f"a token cannot meet {top_k} of {n_experts} experts")
        self.n_experts = n_experts
        self.top_k = top_k
        self.proj = Wide(d_model, n_experts, bias=bias)

    def forward(self, x: Tensor, step: Step) -> Routing:
        logits = self.proj(x)
        scores = self.score(logits)
        ids = self.choose(scores.detach())
        weights = self.weigh(scores.gather(-1, ids))
        return Routing(weights=weights, ids=ids, scores=scores, logits=logits, valid=step.valid)

    def score(self, logits: Tensor) -> Tensor:
        """Logits → scores, both [B, T, E]."""
        return logits.softmax(-1)

    def choose(self, scores: Tensor) -> Tensor:
        """Scores [B, T, E] → ids [B, T, k]."""
        return highest(scores, self.top_k)

    def weigh(self, scores: Tensor) -> Tensor:
        """Scores of the chosen → their weights, both [B, T, k]."""
        return scores

    def new_cache(self, allocate: Allocate) -> Any:
        return None

    def extra_repr(self) -> str:
        return f"{self.top_k} of {self.n_experts}"


class Renormalised(Router):
    """The weights of the chosen are scaled to sum to 1: the softmax over the chosen logits alone (arXiv:2401.04088
    §2.1), and the combination of the top-2 gating of arXiv:2006.16668 (algorithm 1).
    """

    def weigh(self, scores: Tensor) -> Tensor:
        return scores / scores.sum(-1, keepdim=True)


class Grouped(Router):
    """Sigmoid scores; a bias takes part in the choice and never in the weights; experts stand in groups, and only those
    of the best groups can be chosen (arXiv:2412.19437 §2.1.2, the node limit).

    Args:
        n_groups: groups of E / n_groups experts; a group is as good as its two best experts together.
        top_groups: groups from which experts are chosen.
        scale: multiplies the weights.
        renormalise: scale them to sum to 1 first.

    `bias` [E] is state, not a parameter: it is moved by what was chosen (`vitral.nn.balance.bias_update`), never by a
    gradient. It stays in float32 when the model is cast: its steps of 1e-3 would drown in bfloat16.
    """

    def __init__(
        self,
        *,
        d_model: int,
        n_experts: int,
        top_k: int,
        n_groups: int = 1,
        top_groups: int = 1,
        scale: float = 1.0,
        renormalise: bool = True,
    ) -> None:
        super().__init__(d_model=d_model, n_experts=n_experts, top_k=top_k)
        if n_experts % n_groups or not 1 <= top_groups <= n_groups:
            raise ValueError(f"{n_experts} experts cannot stand in {n_groups} groups of which {top_groups} are chosen")
        if top_k > top_groups * (n_experts // n_groups):
            raise ValueError(f"{top_groups} groups of {n_experts // n_groups} experts have not {top_k} to choose")
        self.n_groups = n_groups
        self.top_groups = top_groups
        self.scale = scale
        self.renormalise = renormalise
        self.bias: Tensor
        self.register_buffer("bias", torch.zeros(n_experts))

    def score(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def choose(self, scores: Tensor) -> Tensor:
        wanted = (scores + self.bias).unflatten(-1, (self.n_groups, -1))  # [B, T, groups, E / groups]
        merit = wanted.topk(min(2, wanted.shape[-1]), -1).values.sum(-1)  # [B, T, groups]
        best = highest(merit, self.top_groups)
        open_ = torch.zeros_like(merit, dtype=torch.bool).scatter(-1, best, True)
        return highest(wanted.masked_fill(~open_[..., None], -torch.inf).flatten(-2), self.top_k)

    def weigh(self, scores: Tensor) -> Tensor:
        if self.renormalise:
            scores = scores / (scores.sum(-1, keepdim=True) + 1e-20)
        return scores * self.scale

    def _apply(self, fn: Any, recurse: bool = True) -> Grouped:
        kept = self.bias
        super()._apply(fn, recurse)
        if self.bias.dtype != kept.dtype and not kept.is_meta:  # moved as asked, but not cast
            self.bias = kept.to(self.bias.device)
        elif self.bias.dtype != kept.dtype:
            self.bias = torch.empty_like(self.bias, dtype=kept.dtype)
        return self


class Limited(nn.Module):
    """A router whose experts have room for `capacity` tokens of each sequence (arXiv:2101.03961 §2.2): a token whose
    expert is full meets nobody in its place.

    Places go in the order of the text (and of preference, for one token), so that no token depends on a later one, on
    another sequence, or on padding; a cache remembers who has asked for whom.

    Args:
        capacity: tokens of one sequence that one expert takes.
        kind: the mask kind of the layer's attention, in whose slots the cache lies.
    """

    def __init__(self, router: Router, *, capacity: int, kind: Kind) -> None:
        super().__init__()
        self.router = router
        self.capacity = capacity
        self.kind = kind
        self.n_experts, self.top_k = router.n_experts, router.top_k

    def forward(self, x: Tensor, step: Step) -> Routing:
        routing: Routing = self.router(x, step)
        E = self.n_experts
        asked = routing.ids
        if step.valid is not None:
            asked = asked.masked_fill(~step.valid[..., None], E)  # padding takes no place
        calls = F.one_hot(asked.flatten(1), E + 1)  # [B, T·k, E + 1]
        before = calls.cumsum(1) - calls
        if step.cache is not None:
            before = before + (self._asked_so_far(asked, step) - calls.sum(1))[:, None]
        rank = before.gather(-1, asked.flatten(1)[..., None]).view(asked.shape)
        late = (rank >= self.capacity) | (asked == E)
        return replace(routing, ids=routing.ids.masked_fill(late, E), weights=routing.weights.masked_fill(late, 0.0))

    def _asked_so_far(self, asked: Tensor, step: Step) -> Tensor:
        """How often each expert was asked for in the whole of each text [B, E + 1], these tokens included."""
        high, low = asked // 128, asked % 128  # both exact in any floating dtype
        view = step.view(self.kind)
        high, low = step.cache.update(high[:, None].float(), low[:, None].float(), view)  # [B, 1, S, k]
        ids = (high * 128 + low)[:, 0].long()
        ids = ids.masked_fill((view.key_positions < 0)[..., None], self.n_experts)
        return F.one_hot(ids.flatten(1), self.n_experts + 1).sum(1)

    def new_cache(self, allocate: Allocate) -> Any:
        return allocate(self.kind, 1, self.top_k, self.top_k)

    def extra_repr(self) -> str:
        return f"capacity={self.capacity}"


def highest(scores: Tensor, k: int) -> Tensor:
    """The numbers of the k highest scores along the last axis, best first; of equals the lowest number."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]
