"""Balance losses against loops and against transformers, and how a training step gets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from vitral.nn import (
    Balance,
    Block,
    Causal,
    GatedExperts,
    Grouped,
    Limited,
    MoE,
    RMSNorm,
    Router,
    SiLU,
    Step,
    Sublayer,
    balance,
    full_step,
)

E, K, D, B, T = 5, 2, 8, 3, 11
VALID = torch.arange(T)[None] >= torch.tensor([0, 3, 7])[:, None]


def random(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    logits = torch.randn(B, T, E, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits, logits.softmax(-1), logits.topk(K).indices


# ── the losses ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("valid", [None, VALID], ids=["whole", "padded"])
def test_auxiliary_loss_by_a_loop(valid: Tensor | None) -> None:
    _, scores, ids = random()
    f, P, n = [0.0] * E, [0.0] * E, 0
    for b in range(B):
        for t in range(T):
            if valid is not None and not valid[b, t]:
                continue
            n += 1
            for e in range(E):
                P[e] += scores[b, t, e].item()
                f[e] += (ids[b, t] == e).sum().item()
    want = E * sum(f[e] / n * P[e] / n for e in range(E))
    assert balance.auxiliary_loss(scores, ids, valid).item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("mask", [None, VALID], ids=["whole", "padded"])
def test_layers_laid_end_to_end_give_the_form_of_transformers(mask: Tensor | None) -> None:
    layers = [random(seed) for seed in range(3)]
    flat = tuple(logits.flatten(0, 1).float() for logits, _, _ in layers)
    want = load_balancing_loss_func(flat, E, K, None if mask is None else mask.long())
    scores, ids = (torch.cat([layer[i].flatten(0, 1) for layer in layers]) for i in (1, 2))
    valid = None if mask is None else mask.flatten().repeat(3)
    assert balance.auxiliary_loss(scores, ids, valid).item() == pytest.approx(float(want), rel=1e-5)


def test_even_use_is_the_least_and_its_value_is_known() -> None:
    even = torch.full((1, E, E), 1 / E)
    ids = torch.stack([torch.arange(E), (torch.arange(E) + 1) % E], -1)[None]
    assert balance.auxiliary_loss(even, ids).item() == pytest.approx(K)
    assert balance.sequence_loss(even, K).item() > 0
    lopsided = torch.zeros(1, E, E)
    lopsided[..., 0] = 1
    assert balance.auxiliary_loss(lopsided, torch.zeros(1, E, 1, dtype=torch.long)).item() == pytest.approx(E)


@pytest.mark.parametrize("valid", [None, VALID], ids=["whole", "padded"])
def test_sequence_loss_by_the_equations(valid: Tensor | None) -> None:
    logits, _, _ = random(4)
    scores = logits.sigmoid()
    per_text = []
    for b in range(B):
        rows = scores[b] if valid is None else scores[b, valid[b]]
        n = len(rows)
        shares = rows / rows.sum(-1, keepdim=True)
        total = 0.0
        for e in range(E):
            f = E / (K * n) * sum(e in row.topk(K).indices for row in rows)
            total += f * shares[:, e].mean().item()
        per_text.append(total)
    want = sum(per_text) / B
    assert balance.sequence_loss(scores, K, valid).item() == pytest.approx(want, rel=1e-9)


def test_a_text_of_nothing_but_padding_counts_nowhere() -> None:
    logits, scores, ids = random()
    valid = VALID.clone()
    valid[1] = False
    keep = [0, 2]
    for loss, args in ((balance.auxiliary_loss, (scores, ids)), (balance.z_loss, (logits,))):
        assert torch.allclose(loss(*args, valid), loss(*(a[keep] for a in args), valid[keep]))
    assert torch.allclose(balance.sequence_loss(scores, K, valid), balance.sequence_loss(scores[keep], K, valid[keep]))
    nothing = torch.zeros_like(valid)
    for value in (balance.auxiliary_loss(scores, ids, nothing), balance.z_loss(logits, nothing)):
        assert value.item() == 0
    assert balance.sequence_loss(scores, K, nothing).item() == 0


@pytest.mark.parametrize("valid", [None, VALID], ids=["whole", "padded"])
def test_z_loss(valid: Tensor | None) -> None:
    logits, _, _ = random()
    rows = logits.flatten(0, 1) if valid is None else logits[valid]
    want = rows.exp().sum(-1).log().square().mean()
    assert torch.allclose(balance.z_loss(logits, valid), want)


def test_nobody_and_padding_are_no_load() -> None:
    ids = torch.tensor([[[0, 1], [E, 1], [4, E]]])
    assert balance.loads(ids, E).tolist() == [1, 2, 0, 0, 1]
    assert balance.loads(ids, E, torch.tensor([[False, True, True]])).tolist() == [0, 1, 0, 0, 1]


def test_the_bias_falls_where_the_load_is_high() -> None:
    bias, load = torch.tensor([0.5, 0.0, 0.0]), torch.tensor([9.0, 0.0, 3.0])
    assert torch.allclose(balance.bias_update(bias, load, 0.1), torch.tensor([0.4, 0.1, 0.1]))
    assert torch.equal(balance.bias_update(bias, torch.ones(3), 0.1), bias)


# ── in training ─────────────────────────────────────────────────────────────────────────────────────────────


class Layers(nn.Module):
    """Two blocks of experts, checkpointed or not."""

    def __init__(self, router: Callable[[], nn.Module], keep: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)

        def block() -> Block:
            moe = MoE(router=router(), experts=GatedExperts(n=E, d_model=D, d_ff=4, act=SiLU()))  # type: ignore[arg-type]
            return Block(ffn=Sublayer(moe, pre=RMSNorm(D)))

        self.blocks = nn.ModuleList([block(), block()])
        self.run = keep or (lambda block, x, step: block(x, step))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape) * 0.5)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        for block in self.blocks:
            x = self.run(block, x, step)
        return x


def plain() -> Router:
    return Router(d_model=D, n_experts=E, top_k=K)


def inputs(valid: Tensor | None = None) -> tuple[Tensor, Step]:
    x = torch.randn(B, T, D, generator=torch.Generator().manual_seed(1))
    return x, full_step([Causal()], T, valid=valid)


def recomputed(block: nn.Module, x: Tensor, step: Step) -> Tensor:
    return checkpoint(block, x, step, use_reentrant=False)  # type: ignore[no-any-return]


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_each_layer_is_summed_and_padding_left_out() -> None:
    model = Layers(plain)
    x, step = inputs(VALID)
    with Balance(model) as found:
        model(x, step)
    seen = [routing for _, routing in found.seen]
    assert len(seen) == 2 and [name for name, _ in found.seen] == [f"blocks.{i}.ffn.mixer.router" for i in range(2)]
    want = sum(balance.auxiliary_loss(s.scores, s.ids, VALID) for s in seen)
    assert torch.allclose(found.auxiliary(), torch.as_tensor(want))
    assert torch.allclose(found.z(), torch.as_tensor(sum(balance.z_loss(s.logits, VALID) for s in seen)))
    flat = tuple(s.logits.flatten(0, 1) for s in seen)
    assert found.concatenated().item() == pytest.approx(load_balancing_loss_func(flat, E, K, VALID.long()).item())
    x[~VALID] = 9.0  # what stands at padding is of no account
    with Balance(model) as again:
        model(x, step)
    for loss in ("auxiliary", "sequence", "z", "concatenated"):
        assert torch.allclose(getattr(found, loss)(), getattr(again, loss)(), atol=1e-6)


def test_the_concatenated_form_hides_what_the_layers_show() -> None:
    """Layer 0 sends all to one expert, layer 1 to another: together they look twice as even."""
    model = Layers(lambda: Router(d_model=D, n_experts=E, top_k=1))
    for depth, block in enumerate(model.blocks):
        router: Any = block.ffn.mixer.router  # type: ignore[union-attr]
        nn.init.zeros_(router.proj.weight)
        with torch.no_grad():
            router.proj.bias = nn.Parameter(30.0 * torch.eye(E)[depth])
    with Balance(model) as found:
        model(*inputs())
    assert found.auxiliary().item() / 2 == pytest.approx(E)
    assert found.concatenated().item() == pytest.approx(E / 2)


def test_the_gradient_reaches_routers_and_evens_them_out() -> None:
    model = Layers(plain)
    x, step = inputs()
    optimizer = torch.optim.Adam([p for n, p in model.named_parameters() if "router" in n], lr=0.05)
    values = []
    for _ in range(60):
        with Balance(model) as found:
            model(x, step)
        loss = found.auxiliary()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.95 * values[0] and values[-1] == pytest.approx(2 * K, rel=0.1)


@pytest.mark.parametrize("inside", [False, True], ids=["after", "inside"])
def test_checkpointing_counts_nothing_twice(inside: bool) -> None:
    found = []
    for keep in (None, recomputed):
        model = Layers(lambda: Grouped(d_model=D, n_experts=E, top_k=K), keep)
        x, step = inputs(VALID)
        gathered = Balance(model)
        with gathered:
            out = model(x, step)
            if inside:
                (out.square().mean() + gathered.auxiliary() + gathered.sequence()).backward()
        if not inside:
            (out.square().mean() + gathered.auxiliary() + gathered.sequence()).backward()
        found.append((grads(model), len(gathered.seen), dict(gathered.loads)))
    (plain_grads, plain_seen, plain_loads), (again_grads, again_seen, again_loads) = found
    assert plain_seen == again_seen == 2
    assert all(torch.equal(plain_loads[name], again_loads[name]) for name in plain_loads)
    assert plain_loads["blocks.0.ffn.mixer.router"].sum() == K * VALID.sum()
    assert len(plain_grads) == len(again_grads) and all(
        torch.allclose(a, b, atol=1e-7) for a, b in zip(plain_grads, again_grads, strict=True)
    )


def test_loads_span_the_micro_batches_of_a_step() -> None:
    model = Layers(lambda: Grouped(d_model=D, n_experts=E, top_k=K))
    x, step = inputs()
    gathered = Balance(model)
    for part in (x[:1], x[1:]):
        with gathered:
            model(part, step)
    router = gathered.routers["blocks.0.ffn.mixer.router"]
    load = gathered.loads["blocks.0.ffn.mixer.router"]
    assert load.sum() == B * T * K
    gathered.update(1e-3)
    assert torch.allclose(router.bias, 1e-3 * torch.sign(load.mean() - load))  # type: ignore[arg-type]
    assert not gathered.loads
    before = router.bias.clone()  # type: ignore[operator]
    gathered.update(1e-3)  # nothing has run since
    assert torch.equal(router.bias, before)  # type: ignore[arg-type]


def test_the_bias_evens_the_load_out() -> None:
    model = Layers(lambda: Grouped(d_model=D, n_experts=E, top_k=1))
    x, step = torch.randn(20, 30, D, generator=torch.Generator().manual_seed(1)), full_step([Causal()], 30)
    gathered, spread = Balance(model), []
    for _ in range(100):
        with gathered, torch.no_grad():
            model(x, step)
        spread.append(gathered.loads["blocks.0.ffn.mixer.router"].std().item())
        gathered.update(0.003)
    assert max(spread[-3:]) < 0.2 * spread[0]


def test_the_load_is_what_was_asked_for_where_places_are_limited() -> None:
    model = Layers(lambda: Limited(Router(d_model=D, n_experts=E, top_k=1), capacity=1, kind=Causal()))
    with Balance(model) as gathered:
        model(*inputs())
    assert gathered.loads["blocks.0.ffn.mixer.router.router"].sum() == B * T
    assert gathered.auxiliary().requires_grad


def test_a_model_without_routers_has_nothing_to_balance() -> None:
    model = nn.Linear(D, D)
    with Balance(model) as gathered:
        model(torch.zeros(1, D))
    for loss in (gathered.auxiliary(), gathered.sequence(), gathered.z(), gathered.concatenated()):
        assert loss.item() == 0
    gathered.update(1.0)


def test_silence_is_an_error() -> None:
    model = Layers(plain)
    with pytest.raises(ValueError, match="none of the model's 2 routers ran"), Balance(model):
        pass
    with pytest.raises(ValueError, match="no forward has been collected"):
        Balance(model).auxiliary()
    with pytest.raises(ZeroDivisionError), Balance(model):  # what failed inside is what is reported
        raise ZeroDivisionError
    gathered = Balance(model)
    with pytest.raises(ValueError, match="collecting already"), gathered, gathered:
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_a_loss_that_would_move_nothing_is_an_error() -> None:
    model = Layers(plain, lambda block, x, step: checkpoint(block, x, step, use_reentrant=True))  # type: ignore[arg-type]
    x, step = inputs()
    with Balance(model) as gathered:
        model(x.requires_grad_(), step)
    for loss in (gathered.auxiliary, gathered.z, gathered.sequence, gathered.concatenated):
        with pytest.raises(ValueError, match="use_reentrant=False"):
            loss()
    with torch.no_grad():
        assert gathered.auxiliary().item() > 0  # an evaluation may look
