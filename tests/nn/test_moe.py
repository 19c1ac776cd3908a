"""Routers and experts against loops over single tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitral.inspect.record import record
from vitral.nn import (
    Attention,
    Block,
    Cache,
    Causal,
    Embed,
    Full,
    Gated,
    GatedExperts,
    Grouped,
    Head,
    Limited,
    Model,
    MoE,
    Parallel,
    PlainExperts,
    Renormalised,
    RMSNorm,
    Router,
    Routing,
    SiLU,
    Spec,
    Stack,
    Step,
    Sublayer,
    Table,
    Weighed,
    full_step,
    initialise,
)

E, K, D = 6, 2, 8


def step(length: int, valid: Tensor | None = None) -> Step:
    return full_step([Causal()], length, valid=valid)


def x(rows: int = 3, length: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(rows, length, D, generator=torch.Generator().manual_seed(seed))


def routing_of(router: Any, x: Tensor, valid: Tensor | None = None) -> Routing:
    found: Routing = router(x, step(x.shape[1], valid))
    return found


# ── experts ─────────────────────────────────────────────────────────────────────────────────────────────────


def expert(experts: Any, e: int, token: Tensor) -> Tensor:
    inner = F.silu(experts.gate[e] @ token) * (experts.up[e] @ token) if hasattr(experts, "gate") else None
    inner = F.silu(experts.up[e] @ token) if inner is None else inner
    return experts.down[e] @ inner


@pytest.mark.parametrize("kind", [GatedExperts, PlainExperts])
def test_grouped_experts_are_experts_token_by_token(kind: Any) -> None:
    experts = kind(n=E, d_model=D, d_ff=5, act=SiLU()).double()
    tokens = x().double()
    ids = torch.randint(0, E + 1, (3, 7, K), generator=torch.Generator().manual_seed(1))
    ids[ids == 4] = 5  # an expert that nobody meets
    weights = torch.rand(3, 7, K, dtype=torch.float64)
    want = torch.zeros_like(tokens)
    for b, t, k in torch.cartesian_prod(torch.arange(3), torch.arange(7), torch.arange(K)).tolist():
        if ids[b, t, k] < E:  # E is nobody
            want[b, t] += weights[b, t, k] * expert(experts, int(ids[b, t, k]), tokens[b, t])
    assert (ids == E).any() and (experts(tokens, weights, ids) - want).abs().max() < 1e-14


def test_nobody_for_all_is_nothing() -> None:
    experts = GatedExperts(n=E, d_model=D, d_ff=5, act=SiLU())
    ids = torch.full((1, 3, K), E)
    assert torch.equal(experts(x(1, 3), torch.ones(1, 3, K), ids), torch.zeros(1, 3, D))


def moe(router: nn.Module, **other: Any) -> MoE:
    torch.manual_seed(3)
    made = MoE(router=router, experts=GatedExperts(n=E, d_model=D, d_ff=5, act=SiLU()), **other)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return made


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    """bs 1 = bs N, whatever else is routed beside it."""
    for router in (Renormalised, Grouped):
        mixer = moe(router(d_model=D, n_experts=E, top_k=K))
        tokens = x(5, 9)
        whole, routes = mixer(tokens, step(9)), routing_of(mixer.router, tokens).ids
        for row in range(5):
            assert torch.equal(routing_of(mixer.router, tokens[row : row + 1]).ids[0], routes[row])
            assert (mixer(tokens[row : row + 1], step(9))[0] - whole[row]).abs().max() < 1e-6
        alone = torch.cat([mixer(tokens[:, t : t + 1], step(1)) for t in range(9)], 1)
        assert (alone - whole).abs().max() < 1e-6


def test_gradients_reach_the_experts_that_were_met_and_the_router() -> None:
    for router in (Router, Renormalised, Grouped):
        mixer = moe(router(d_model=D, n_experts=E, top_k=K))
        tokens = x(1, 2).requires_grad_()
        mixer(tokens, step(2)).square().sum().backward()
        assert tokens.grad is not None and tokens.grad.abs().sum() > 0
        assert mixer.router.proj.weight.grad.abs().sum() > 0
        met = routing_of(mixer.router, tokens).ids.unique()
        for parameter in mixer.experts.parameters():
            got = parameter.grad.flatten(1).abs().sum(-1) > 0
            assert got.nonzero().flatten().tolist() == met.tolist()


def test_the_gradient_is_that_of_the_loop() -> None:
    mixer = moe(Renormalised(d_model=D, n_experts=E, top_k=K)).double()
    tokens = x(1, 4).double()

    def looped() -> Tensor:
        out = []
        for token in tokens[0]:
            logits = mixer.router.proj.weight @ token
            best = logits.topk(K).indices
            shares = logits[best].softmax(-1)
            out.append(sum(w * expert(mixer.experts, int(e), token) for w, e in zip(shares, best, strict=True)))
        return torch.stack(out)  # type: ignore[arg-type]

    grads = []
    for out in (mixer(tokens, step(4))[0], looped()):
        mixer.zero_grad()
        out.square().sum().backward()
        assert all(p.grad is not None for p in mixer.parameters())
        grads.append([p.grad.clone() for p in mixer.parameters()])
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(*grads, strict=True))


def test_active_parameters() -> None:
    for router, k in ((Router(d_model=D, n_experts=E, top_k=1), 1), (Renormalised(d_model=D, n_experts=E, top_k=4), 4)):
        mixer = moe(router)
        assert mixer.idle_parameters() == (E - k) * 3 * 5 * D
    spec = Spec(
        MoE,
        router=Spec(Router, d_model=D, n_experts=E, top_k=2),
        experts=Spec(PlainExperts, n=E, d_model=D, d_ff=5, act=Spec(SiLU)),
    )
    count = spec.count()
    assert (count.total, count.active) == (E * D + E * 2 * 5 * D, E * D + 2 * 2 * 5 * D)


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="7 of 6"):
        Router(d_model=D, n_experts=E, top_k=7)
    with pytest.raises(ValueError, match="4 groups"):
        Grouped(d_model=D, n_experts=E, top_k=2, n_groups=4)
    with pytest.raises(ValueError, match="have not 3"):
        Grouped(d_model=D, n_experts=E, top_k=3, n_groups=3, top_groups=1)
    with pytest.raises(ValueError, match="6 experts cannot lead to 4"):
        MoE(
            router=Router(d_model=D, n_experts=E, top_k=1),
            experts=PlainExperts(n=4, d_model=D, d_ff=5, act=SiLU()),
        )


# ── routers ─────────────────────────────────────────────────────────────────────────────────────────────────


def by_logits(router: Router, logits: Tensor) -> Routing:
    """The routing of these logits [T, E]: the projection is made the identity."""
    assert router.proj.weight.shape == (E, E)
    with torch.no_grad():
        router.proj.weight.copy_(torch.eye(E))
    return routing_of(router, logits[None])


def test_softmax_weights_as_they_are_or_scaled_to_one() -> None:
    logits = torch.tensor([[0.1, 2.0, -1.0, 1.0, 0.0, 0.5]])
    shares = logits.softmax(-1)[0]
    plain = by_logits(Router(d_model=E, n_experts=E, top_k=2), logits)
    assert plain.ids.tolist() == [[[1, 3]]]
    assert torch.allclose(plain.weights[0, 0], shares[[1, 3]])
    scaled = by_logits(Renormalised(d_model=E, n_experts=E, top_k=2), logits)
    assert torch.allclose(scaled.weights[0, 0], logits[0, [1, 3]].softmax(-1))
    assert torch.allclose(scaled.dense()[0, 0, [1, 3]], scaled.weights[0, 0])
    assert scaled.dense()[0, 0, [0, 2, 4, 5]].tolist() == [0.0] * 4


def test_ties_fall_on_the_lowest_number() -> None:
    for rows in (1, 33):
        for router in (Router, Renormalised, Grouped):
            made = router(d_model=E, n_experts=E, top_k=3)
            assert by_logits(made, torch.zeros(rows, E)).ids.tolist() == [[[0, 1, 2]] * rows]
    groups = Grouped(d_model=E, n_experts=E, top_k=2, n_groups=3, top_groups=2)
    assert by_logits(groups, torch.zeros(1, E)).ids.tolist() == [[[0, 1]]]


def test_a_router_computes_in_float32_when_the_model_does_not() -> None:
    router = Renormalised(d_model=D, n_experts=E, top_k=K).to(torch.bfloat16)
    tokens = x(4, 64).bfloat16()
    found = routing_of(router, tokens)
    assert found.weights.dtype == found.scores.dtype == found.logits.dtype == torch.float32
    logits = tokens.float() @ router.proj.weight.float().T
    assert torch.equal(found.ids, logits.softmax(-1).sort(dim=-1, descending=True, stable=True).indices[..., :K])
    assert routing_of(router.double(), tokens.double()).weights.dtype == torch.float64
    mixer = moe(router).bfloat16()
    assert mixer(tokens, step(64)).dtype == torch.bfloat16


def test_the_bias_chooses_and_never_weighs() -> None:
    router = Grouped(d_model=E, n_experts=E, top_k=2, scale=2.5)
    logits = torch.tensor([[0.1, 2.0, -1.0, 1.0, 0.0, 0.5]])
    router.bias.copy_(torch.tensor([0.0, -1.0, 1.0, 0.0, 0.0, 0.0]))
    found, shares = by_logits(router, logits), logits[0].sigmoid()
    assert found.ids.tolist() == [[[2, 3]]]  # by sigmoid alone it were 1 and 3
    assert torch.allclose(found.weights[0, 0], 2.5 * shares[[2, 3]] / shares[[2, 3]].sum())
    assert torch.equal(found.scores[0, 0], shares)


def test_groups_are_ranked_by_their_two_best() -> None:
    router = Grouped(d_model=E, n_experts=E, top_k=2, n_groups=2, top_groups=1, renormalise=False)
    logits = torch.tensor([[3.0, -9.0, -9.0, 1.0, 1.0, 0.5]])  # the best expert stands in the worse group
    found = by_logits(router, logits)
    assert found.ids.tolist() == [[[3, 4]]]
    assert torch.allclose(found.weights[0, 0], logits[0, [3, 4]].sigmoid())
    router.bias.copy_(torch.tensor([9.0, 0, 0, 0, 0, 0]))  # and the bias takes part in the ranking of groups
    assert by_logits(router, logits).ids.tolist() == [[[0, 1]]]


def test_groups_against_a_loop() -> None:
    torch.manual_seed(0)
    router = Grouped(d_model=D, n_experts=12, top_k=3, n_groups=4, top_groups=2)
    router.bias.copy_(torch.randn(12) * 0.2)
    tokens = x(2, 50)
    found = routing_of(router, tokens)
    for token, ids in zip(tokens.flatten(0, 1), found.ids.flatten(0, 1), strict=True):
        wanted = (router.proj.weight @ token).sigmoid() + router.bias
        merit = [sum(sorted(wanted[g * 3 : g * 3 + 3].tolist())[-2:]) for g in range(4)]
        groups = sorted(range(4), key=lambda g: -merit[g])[:2]
        open_ = [e for e in range(12) if e // 3 in groups]
        assert ids.tolist() == sorted(open_, key=lambda e: -wanted[e].item())[:3]


def test_the_bias_is_state_that_stays_wide() -> None:
    router = Grouped(d_model=D, n_experts=E, top_k=K)
    router.bias.fill_(1.0)
    router.bias += 1e-3  # lost in bfloat16
    assert "bias" in router.state_dict() and "bias" not in dict(router.named_parameters())
    for cast in (router.to(torch.bfloat16), router.half(), router.float()):
        assert cast.bias.dtype == torch.float32 and torch.equal(cast.bias, torch.full((E,), 1.001))
    with torch.device("meta"):
        hollow = Grouped(d_model=D, n_experts=E, top_k=K)
    hollow = hollow.bfloat16()
    assert hollow.bias.is_meta and hollow.bias.dtype == torch.float32
    assert hollow.to_empty(device="cpu").bias.dtype == torch.float32


# ── capacity ────────────────────────────────────────────────────────────────────────────────────────────────


def limited(capacity: int, top_k: int = 1, kind: Any = Causal()) -> Limited:  # noqa: B008  a frozen value
    torch.manual_seed(5)
    router = Renormalised if top_k > 1 else Router
    return Limited(router(d_model=D, n_experts=3, top_k=top_k), capacity=capacity, kind=kind)


@pytest.mark.parametrize("top_k", [1, 2])
def test_each_expert_takes_as_many_of_each_text_as_it_has_room_for(top_k: int) -> None:
    router, tokens = limited(4, top_k), x(5, 20)
    asked, found = routing_of(router.router, tokens), routing_of(router, tokens)
    for row in range(5):
        room = [4] * 3
        for t in range(20):
            for k in range(top_k):
                e = int(asked.ids[row, t, k])
                served = room[e] > 0
                room[e] -= served
                assert int(found.ids[row, t, k]) == (e if served else 3)
                assert found.weights[row, t, k] == (asked.weights[row, t, k] if served else 0)
    assert (found.ids == 3).any() and torch.equal(found.scores, asked.scores)
    alone = torch.cat([routing_of(router, tokens[row : row + 1]).ids for row in range(5)])
    assert torch.equal(alone, found.ids)


def test_padding_takes_no_place() -> None:
    router, tokens = limited(2), x(1, 12).expand(13, -1, -1)
    for pad in range(6):
        valid = torch.arange(12)[None] >= pad
        want = routing_of(router, tokens[:1, pad:]).ids
        assert torch.equal(routing_of(router, tokens[:1], valid).ids[:, pad:], want)
        right = torch.cat((tokens[:1, pad:], torch.ones(1, pad, D)), 1)
        assert torch.equal(routing_of(router, right, valid.flip(-1)).ids[:, : 12 - pad], want)
    nothing = routing_of(router, tokens[:1], torch.zeros(1, 12, dtype=torch.bool))
    assert (nothing.ids == 3).all() and not nothing.weights.any()


def decoder(capacity: int, top_k: int, n: int = 5) -> Model:
    """Two blocks with limited experts."""

    def block() -> Spec:
        attention = Spec(Attention, d_model=D, n_heads=2, n_kv_heads=2, head_dim=4)
        router = Spec(Renormalised if top_k > 1 else Router, d_model=D, n_experts=n, top_k=top_k)
        room = Spec(Limited, router=router, capacity=capacity, kind=Causal())
        experts = Spec(PlainExperts, n=n, d_model=D, d_ff=5, act=Spec(SiLU))
        ffn = Spec(Parallel, moe=Spec(MoE, router=room, experts=experts))
        return Spec(Block, attn=Spec(Sublayer, mixer=attention), ffn=Spec(Sublayer, mixer=ffn))

    table = Spec(Table, n=7, d=D)
    stack = Spec(Stack, blocks=[block(), block()], norm=Spec(RMSNorm, d=D))
    head = Spec(Head, proj=Spec(nn.Linear, in_features=D, out_features=7))
    torch.manual_seed(0)
    model: Model = Spec(Model, embed=Spec(Embed, tokens=table), stack=stack, head=head, context=64).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return model.eval()


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_cache_remembers_who_asked(top_k: int) -> None:
    """Few different tokens, so that they crowd; cached in pieces, padded, forked, cut back: as in one pass."""
    model = decoder(2, top_k)
    ids = torch.randint(0, 7, (3, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), record(model, "*.router") as seen:
        want = model(ids)
        route = seen["stack.blocks.1.ffn.mixer.moe.router"]
        free = seen["stack.blocks.1.ffn.mixer.moe.router.router"]
        assert ((route > 0).sum(-1) < (free > 0).sum(-1)).any(), "nobody was turned away"
        for chunk in (1, 4, 30):
            cache = model.new_cache(3, 40, chunk=40)
            got = torch.cat([model(part, cache.extend(part.shape[1])) for part in ids.split(chunk, 1)], 1)
            assert (got - want).abs().max() < 1e-4
            first = torch.cat(seen.all("stack.blocks.0.ffn.mixer.moe.router")[-len(ids.split(chunk, 1)) :], 1)
            whole = seen.all("stack.blocks.0.ffn.mixer.moe.router")[0]
            assert torch.equal(first > 0, whole > 0)
    with torch.no_grad():
        cache = model.new_cache(3, 40, chunk=40)
        model(ids[:, :20], cache.extend(20))
        branch = cache.fork([2, 0])
        assert (model(ids[[2, 0], 20:], branch.extend(10)) - want[[2, 0], 20:]).abs().max() < 1e-4
        for row, length in enumerate((20, 11, 3)):
            cache.truncate(row, length)
        rest = [ids[row, length:] for row, length in enumerate((20, 11, 3))]
        valid = torch.stack([torch.arange(27) >= 27 - len(each) for each in rest])
        padded = torch.stack([torch.cat((torch.zeros(27 - len(each), dtype=torch.long), each)) for each in rest])
        got = model(padded, cache.extend(valid))
        for row, length in enumerate((20, 11, 3)):
            assert (got[row, valid[row]] - want[row, length:]).abs().max() < 1e-4


def test_a_cache_of_half_precision_knows_every_expert_by_its_number() -> None:
    """bfloat16 holds whole numbers up to 256 only."""
    router = Limited(Router(d_model=D, n_experts=2048, top_k=2), capacity=1, kind=Causal())
    tokens = x(2, 1).repeat(1, 30, 1) + x(2, 30) * 0.05
    want = routing_of(router, tokens).ids
    assert 0.1 < (want == 2048).float().mean() < 0.99 and want[want < 2048].max() > 1024
    for dtype in (torch.bfloat16, torch.float16):
        cache = Cache(router.new_cache, [Causal()], rows=2, length=30, chunk=4, dtype=dtype)
        got = torch.cat([router(part, cache.extend(part.shape[1])).ids for part in tokens.split(4, 1)], 1)
        assert torch.equal(got, want)


def test_in_an_encoder_the_limit_needs_no_cache() -> None:
    router = limited(2, kind=Full())
    stack = Stack([Sublayer(MoE(router=router, experts=PlainExperts(n=3, d_model=D, d_ff=5, act=SiLU())))])
    assert stack.kinds == (Full(),)
    found = router(x(), full_step(stack.kinds, 7))
    assert found.ids.shape == (3, 7, 1)


# ── beside one another, seen from outside, and from random numbers ──────────────────────────────────────────


def test_a_shared_expert_is_added_and_may_be_weighed() -> None:
    routed, shared = moe(Router(d_model=D, n_experts=E, top_k=K)), Gated(d_model=D, d_ff=4, act=SiLU())
    weighed = Weighed(shared, d_model=D)
    tokens = x()
    want = routed(tokens, step(7)) + torch.sigmoid(tokens @ weighed.gate.weight[0])[..., None] * shared(tokens, step(7))
    assert torch.allclose(Parallel(moe=routed, shared=weighed)(tokens, step(7)), want, atol=1e-6)
    assert torch.allclose(
        Parallel(moe=routed, shared=shared)(tokens, step(7)), routed(tokens, step(7)) + shared(tokens, step(7))
    )


def test_a_router_can_be_watched() -> None:
    mixer = nn.ModuleDict({"ffn": moe(Renormalised(d_model=D, n_experts=E, top_k=K))})
    tokens = x()
    with torch.inference_mode(), record(mixer, "*.router", "*.proj") as seen:
        mixer["ffn"](tokens, step(7))
    weights = seen["ffn.router"]
    assert weights.shape == (3, 7, E) and seen["ffn.router.proj"].shape == (3, 7, E)
    assert torch.equal((weights > 0).sum(-1), torch.full((3, 7), K))
    assert torch.allclose(weights.sum(-1), torch.ones(3, 7))
    chosen = routing_of(mixer["ffn"].router, tokens).ids
    assert torch.equal(weights.topk(K).indices, chosen)


def test_initialise_reaches_experts_and_leaves_routers_wide() -> None:
    blocks = [Block(ffn=Sublayer(moe(Router(d_model=D, n_experts=E, top_k=K)))) for _ in range(4)]
    model = nn.Sequential(*blocks)
    initialise(model, std=0.1)
    mixer: Any = blocks[0].ffn.mixer  # type: ignore[union-attr]
    for name, std in (("gate", 0.1), ("up", 0.1), ("down", 0.05)):
        assert abs(getattr(mixer.experts, name).std().item() - std) < 0.015
    assert abs(mixer.router.proj.weight.std().item() - 0.1) < 0.03
