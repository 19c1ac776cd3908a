"""Keeping experts evenly used while training: the losses, the bias update, and how a training step gets them.

B batch · T length · N tokens · E experts · k experts a token meets

    balance = Balance(model)
    with balance:
        logits = model(ids, step)
    loss = cross_entropy(logits, targets) + 1e-2 * balance.auxiliary() + 1e-3 * balance.z()
    loss.backward()
    optimizer.step()
    balance.update(1e-3)        # only moves routers that have a bias

The functions take scores [..., E], ids [..., k], logits [..., E] and valid [...] (False on padding, which never counts;
None when there is none), and are pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vitral.nn.router import Router, Routing, highest


def loads(ids: Tensor, n_experts: int, valid: Tensor | None = None) -> Tensor:
    """How many tokens chose each expert: float32 [E]."""
    counts = torch.zeros(n_experts + 1, device=ids.device)  # one more: nobody
    ones = torch.ones(ids.shape, device=ids.device)
    if valid is not None:
        ones = ones * valid[..., None]
    return counts.scatter_add(0, ids.flatten(), ones.flatten())[:n_experts]


def auxiliary_loss(scores: Tensor, ids: Tensor, valid: Tensor | None = None) -> Tensor:
    """E · Σᵢ fᵢ Pᵢ (arXiv:2101.03961 eq. 4-6): fᵢ of the tokens chose expert i, and on average it was given the share
    Pᵢ of the scores. k when all is even; the gradient runs through P.

    Layers laid end to end give the form of later training codes, in which one layer's imbalance can hide another's.
    """
    E = scores.shape[-1]
    f = loads(ids, E, valid) / _tokens(scores, valid)
    return E * (f * _mean(_shares(scores), valid)).sum()


def sequence_loss(scores: Tensor, top_k: int, valid: Tensor | None = None) -> Tensor:
    """Σᵢ fᵢ Pᵢ within each sequence [B, T, E], averaged over the sequences (arXiv:2412.19437 eq. 17-20). 1 when even.

    As the paper has it, f counts the k highest scores, whatever a bias made of the choice.
    """
    E = scores.shape[-1]
    ids = highest(scores.detach(), top_k)
    chosen = torch.zeros_like(scores).scatter(-1, ids, 1.0)
    weight = scores.new_ones(scores.shape[:2]) if valid is None else valid.to(scores.dtype).expand(scores.shape[:2])
    T = weight.sum(-1).clamp_min(1)[:, None]  # [B, 1]
    f = (chosen * weight[..., None]).sum(1) * E / (top_k * T)
    P = (_shares(scores) * weight[..., None]).sum(1) / T
    real = (weight.sum(-1) > 0).sum().clamp_min(1)
    return (f * P).sum() / real


def z_loss(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """The mean of logsumexp(logits)² (arXiv:2202.08906 eq. 5): keeps the logits small, where float32 is dense."""
    return _mean(logits.logsumexp(-1, keepdim=True).square(), valid).squeeze(-1)


def bias_update(bias: Tensor, load: Tensor, rate: float) -> Tensor:
    """The bias [E] after a batch: `rate` less where an expert had more than its share, `rate` more where it had less
    (arXiv:2412.19437 §2.1.2). To be called with the load of the whole batch, after its last micro-batch.
    """
    return bias + rate * torch.sign(load.mean() - load).to(bias.dtype)


def _shares(scores: Tensor) -> Tensor:
    """Scores [..., E] scaled to sum to 1, as a softmax's do already."""
    return scores / (scores.sum(-1, keepdim=True) + 1e-20)


def _tokens(scores: Tensor, valid: Tensor | None) -> Tensor:
    n = scores[..., 0].numel() if valid is None else valid.expand(scores.shape[:-1]).sum()
    return torch.as_tensor(n, device=scores.device).clamp_min(1)


def _mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """x [..., E] averaged over the tokens that are not padding: [E]."""
    if valid is not None:
        x = x.masked_fill(~valid[..., None], 0)
    return x.flatten(0, -2).sum(0) / _tokens(x, valid)


class Balance:
    """What the routers of a model chose in one forward, gathered from outside, and the losses made of it.

    Nothing is kept in the model. A forward inside the context is collected; what activation checkpointing computes
    again during backward is not. The losses are of the latest context; loads add up until `update`, so that they may
    span the micro-batches of one step. A model without routers has losses of 0.

    Args:
        model: any module with routers; not compiled as a whole, since compiled code does not see hooks.

    Raises:
        ValueError: on leaving the context, if the model has routers and none of them ran; on asking for a loss, if the
            choices carry no gradient though they should (reentrant checkpointing drops it).
    """

    def __init__(self, model: nn.Module) -> None:
        self.routers = {name: module for name, module in model.named_modules() if isinstance(module, Router)}
        self.seen: list[tuple[str, Routing]] = []
        self.loads: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Balance:
        if self._handles:
            raise ValueError("this balance is collecting already")
        self.seen = []
        self._handles = [module.register_forward_hook(self._collect(name)) for name, module in self.routers.items()]
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if kind is None and self.routers and not self.seen:
            raise ValueError(f"none of the model's {len(self.routers)} routers ran inside the balance's context")

    def _collect(self, name: str) -> Callable[[nn.Module, Any, Routing], None]:
        def keep(module: nn.Module, args: Any, routing: Routing) -> None:
            if torch._C._current_graph_task_id() >= 0:  # inside backward: a recomputation
                return
            self.seen.append((name, routing))
            load = loads(routing.ids, self.routers[name].n_experts, routing.valid)
            self.loads[name] = self.loads[name] + load if name in self.loads else load

        return keep

    def auxiliary(self) -> Tensor:
        """`auxiliary_loss` of each layer, summed."""
        return self._sum(lambda name, seen: auxiliary_loss(seen.scores, seen.ids, seen.valid))

    def sequence(self) -> Tensor:
        """`sequence_loss` of each layer, summed."""
        return self._sum(lambda name, seen: sequence_loss(seen.scores, self.routers[name].top_k, seen.valid))

    def z(self) -> Tensor:
        """`z_loss` of each layer, summed."""
        return self._sum(lambda name, seen: z_loss(seen.logits, seen.valid))

    def concatenated(self) -> Tensor:
        """`auxiliary_loss` over all layers as if they were one, all of one E and k: what published fine-tuning codes
        add. It lets one layer make up for another; `auxiliary` does not.
        """
        if not self.seen:
            return torch.zeros(())
        self._check()
        found = [seen for _, seen in self.seen]
        valid = None
        if any(seen.valid is not None for seen in found):
            valid = torch.cat([_valid(seen).flatten() for seen in found])
        scores, ids = (torch.cat([getattr(seen, key).flatten(0, -2) for seen in found]) for key in ("scores", "ids"))
        return auxiliary_loss(scores, ids, valid)

    def update(self, rate: float) -> None:
        """Move the bias of every router that has one by the loads since the last update, and forget these."""
        for name, load in self.loads.items():
            bias = getattr(self.routers[name], "bias", None)
            if bias is not None:
                bias.copy_(bias_update(bias, load, rate))
        self.loads = {}

    def _sum(self, loss: Callable[[str, Routing], Tensor]) -> Tensor:
        self._check()
        return torch.stack([loss(name, seen) for name, seen in self.seen]).sum() if self.seen else torch.zeros(())

    def _check(self) -> None:
        if self.routers and not self.seen:
            raise ValueError("no forward has been collected: run the model inside the balance's context first")
        for name, seen in self.seen:
            trains = any(p.requires_grad for p in self.routers[name].parameters())
            if torch.is_grad_enabled() and trains and not seen.scores.requires_grad:
                raise ValueError(
                    f"what {name} chose carries no gradient, so its loss would move nothing: run the forward with "
                    "gradients, and checkpoint activations with use_reentrant=False"
                )


def _valid(seen: Routing) -> Tensor:
    valid = seen.ids.new_ones(1, 1, dtype=torch.bool) if seen.valid is None else seen.valid
    return valid.expand(seen.ids.shape[:-1])
