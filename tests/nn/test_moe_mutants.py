"""Known bugs put back into routers, experts and balance losses: their tests must see every one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.nn import test_balance, test_moe
from vitral.nn import Experts, Grouped, Limited, MoE, balance, router
from vitral.nn.router import Wide

Patch = pytest.MonkeyPatch


def bias_weighs(patch: Patch) -> None:
    weigh = Grouped.weigh

    def forward(self: Grouped, x: Tensor, step: Any) -> Any:
        found = super(Grouped, self).forward(x, step)
        return replace(found, weights=weigh(self, (found.scores + self.bias).gather(-1, found.ids)))

    patch.setattr(Grouped, "forward", forward)


def bias_as_parameter(patch: Patch) -> None:
    """Cast with everything else."""
    patch.delattr(Grouped, "_apply")


def best_one(patch: Patch) -> None:
    """Groups ranked by their best expert alone."""
    choose = Grouped.choose

    def by_one(self: Grouped, scores: Tensor) -> Tensor:
        with Patch().context() as inner:
            inner.setattr(torch.Tensor, "topk", lambda x, k, dim: torch.topk(x, 1, dim))
            return choose(self, scores)

    patch.setattr(Grouped, "choose", by_one)


def scale_lost(patch: Patch) -> None:
    weigh = Grouped.weigh
    patch.setattr(Grouped, "weigh", lambda self, scores: weigh(self, scores) / self.scale)


def unstable(patch: Patch) -> None:
    """Of equals the last, as a sort that is not stable may have it."""

    def last(scores: Tensor, k: int) -> Tensor:
        return scores.shape[-1] - 1 - scores.flip(-1).sort(dim=-1, descending=True, stable=True).indices[..., :k]

    patch.setattr(router, "highest", last)


def narrow(patch: Patch) -> None:
    patch.setattr(Wide, "forward", lambda self, x: F.linear(x, self.weight).float())


def over_the_batch(patch: Patch) -> None:
    """One capacity for all texts of a batch: who is served depends on the neighbours."""
    forward = Limited.forward

    def joined(self: Limited, x: Tensor, step: Any) -> Any:
        valid = None if step.valid is None else step.valid.reshape(1, -1)
        found = forward(self, x.reshape(1, -1, x.shape[-1]), replace(step, valid=valid))
        shape = (*x.shape[:2], -1)
        parts = {name: getattr(found, name).view(shape) for name in ("weights", "ids", "scores", "logits")}
        return replace(found, **parts)

    patch.setattr(Limited, "forward", joined)


def padding_asks(patch: Patch) -> None:
    forward = Limited.forward
    patch.setattr(Limited, "forward", lambda self, x, step: forward(self, x, replace(step, valid=None)))


def forgetful(patch: Patch) -> None:
    """Each step begins to count anew."""
    forward = Limited.forward
    patch.setattr(Limited, "forward", lambda self, x, step: forward(self, x, replace(step, cache=None)))


def one_number(patch: Patch) -> None:
    """The id of an expert kept as one number, rounded by the cache's dtype."""

    def asked_so_far(self: Limited, asked: Tensor, step: Any) -> Tensor:
        view = step.view(self.kind)
        ids, _ = step.cache.update(asked[:, None].float(), asked[:, None].float(), view)
        ids = ids[:, 0].long().masked_fill((view.key_positions < 0)[..., None], self.n_experts)
        return F.one_hot(ids.flatten(1), self.n_experts + 1).sum(1)

    patch.setattr(Limited, "_asked_so_far", asked_so_far)


def somebody(patch: Patch) -> None:
    """The id of nobody read as the last expert."""
    forward = Experts.forward

    def clamped(self: Experts, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        return forward(self, x, weights, ids.clamp_max(self.n - 1))

    patch.setattr(Experts, "forward", clamped)


def no_gradient(patch: Patch) -> None:
    def forward(self: MoE, x: Tensor, step: Any) -> Tensor:
        found = self.router(x, step)
        return self.experts(x, found.weights.detach(), found.ids)

    patch.setattr(MoE, "forward", forward)


def all_active(patch: Patch) -> None:
    patch.setattr(MoE, "idle_parameters", lambda self: 0)


def unmasked(name: str) -> Callable[[Patch], None]:
    """A loss that counts padding."""

    def sow(patch: Patch) -> None:
        loss = getattr(balance, name)
        patch.setattr(
            balance, name, lambda first, second=None, valid=None: loss(first, *([second] * (second is not None)))
        )

    return sow


def unmasked_z(patch: Patch) -> None:
    loss = balance.z_loss
    patch.setattr(balance, "z_loss", lambda logits, valid=None: loss(logits))


def biased_choice(patch: Patch) -> None:
    patch.setattr(balance, "highest", lambda scores, k: torch.topk(scores.flip(-1), k).indices)


def sign_turned(patch: Patch) -> None:
    update = balance.bias_update
    patch.setattr(balance, "bias_update", lambda bias, load, rate: update(bias, load, -rate))


def counted_twice(patch: Patch) -> None:
    patch.setattr(torch._C, "_current_graph_task_id", lambda: -1)


def concatenated_always(patch: Patch) -> None:
    patch.setattr(balance.Balance, "auxiliary", balance.Balance.concatenated)


CACHED = partial(test_moe.test_a_cache_remembers_who_asked, 2)
MUTANTS: dict[str, tuple[Callable[[Patch], None], Callable[[], None]]] = {
    "15-bias-weighs": (bias_weighs, test_moe.test_the_bias_chooses_and_never_weighs),
    "15-scale-lost": (scale_lost, test_moe.test_the_bias_chooses_and_never_weighs),
    "15-bias-cast": (bias_as_parameter, test_moe.test_the_bias_is_state_that_stays_wide),
    "15-groups-by-one": (best_one, test_moe.test_groups_are_ranked_by_their_two_best),
    "15-groups-by-one-in-a-loop": (best_one, test_moe.test_groups_against_a_loop),
    "15-ties-unstable": (unstable, test_moe.test_ties_fall_on_the_lowest_number),
    "15-router-in-half": (narrow, test_moe.test_a_router_computes_in_float32_when_the_model_does_not),
    "15-nobody-is-somebody": (
        somebody,
        partial(test_moe.test_grouped_experts_are_experts_token_by_token, test_moe.GatedExperts),
    ),
    "15-router-without-gradient": (no_gradient, test_moe.test_the_gradient_is_that_of_the_loop),
    "15-all-active": (all_active, test_moe.test_active_parameters),
    "16-capacity-of-the-batch": (
        over_the_batch,
        partial(test_moe.test_each_expert_takes_as_many_of_each_text_as_it_has_room_for, 1),
    ),
    "16-padding-takes-places": (padding_asks, test_moe.test_padding_takes_no_place),
    "20-capacity-forgotten": (forgetful, CACHED),
    "20-experts-rounded": (
        one_number,
        test_moe.test_a_cache_of_half_precision_knows_every_expert_by_its_number,
    ),
    "19-padding-in-the-loss": (
        unmasked("auxiliary_loss"),
        partial(test_balance.test_auxiliary_loss_by_a_loop, test_balance.VALID),
    ),
    "19-padding-in-the-sequence-loss": (
        unmasked("sequence_loss"),
        partial(test_balance.test_sequence_loss_by_the_equations, test_balance.VALID),
    ),
    "19-padding-in-the-z-loss": (unmasked_z, partial(test_balance.test_z_loss, test_balance.VALID)),
    "15-sequence-loss-of-others": (
        biased_choice,
        partial(test_balance.test_sequence_loss_by_the_equations, None),
    ),
    "15-bias-grows-with-load": (sign_turned, test_balance.test_the_bias_falls_where_the_load_is_high),
    "15-recomputed-twice": (counted_twice, partial(test_balance.test_checkpointing_counts_nothing_twice, True)),
    "15-layers-as-one": (concatenated_always, test_balance.test_each_layer_is_summed_and_padding_left_out),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_tests_see(name: str, monkeypatch: Patch) -> None:
    sow, check = MUTANTS[name]
    check()
    with monkeypatch.context() as patch:
        sow(patch)
        with pytest.raises(AssertionError):
            check()
