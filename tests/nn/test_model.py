"""The frame: steps, stacks, sublayers, initialisation, and that nothing but the arguments has a say."""

from __future__ import annotations

import pytest
import torch

from tests.nn.tiny import CONFIGS, DECODERS, some_ids, tiny, tiny_spec
from vitral.nn import (  # fmt: skip
    Block,
    Causal,
    Full,
    LayerNorm,
    Model,
    Plain,
    ReLU,
    Rotary,
    Stack,
    Sublayer,
    Table,
    Window,
    full_step,
    initialise,
)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_rows_do_not_see_each_other(name: str) -> None:
    model, ids = tiny(name), some_ids(3, 9)
    with torch.no_grad():
        together = model(ids)
        for row in range(3):
            assert (model(ids[row : row + 1])[0] - together[row]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", list(CONFIGS))
def test_decoders_never_look_ahead_and_encoders_do(name: str) -> None:
    model, ids = tiny(name), some_ids(1, 9)
    other = ids.clone()
    other[0, 5] = (ids[0, 5] + 1) % 50
    with torch.no_grad():
        moved = (model(ids) - model(other))[0].abs().amax(-1) > 1e-7
    assert bool(moved[5])
    assert bool(moved[:5].any()) is (name == "bert")


@pytest.mark.parametrize("name", DECODERS)
def test_packed_documents_are_each_as_if_alone(name: str) -> None:
    model, a, b = tiny(name), some_ids(1, 5), some_ids(1, 7, seed=9)
    packed = torch.cat((a, b), 1)
    documents = torch.tensor([[0] * 5 + [1] * 7])
    positions = torch.tensor([[*range(5), *range(7)]])
    with torch.no_grad():
        out = model(packed, model.step(packed, documents=documents, positions=positions))
        assert (out[:, :5] - model(a)).abs().max() <= 1e-5
        assert (out[:, 5:] - model(b)).abs().max() <= 1e-5


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_batch_of_nothing_but_padding_is_finite(name: str) -> None:
    model, ids = tiny(name), some_ids(2, 6)
    valid = torch.tensor([[False] * 6, [True] * 6])
    with torch.no_grad():
        out = model(ids, model.step(ids, valid))
        assert bool(out.isfinite().all())
        assert (out[1] - model(ids)[1]).abs().max() <= 1e-5


def test_no_padding_needs_no_mask() -> None:
    assert full_step([Full()], 4, valid=torch.ones(2, 4, dtype=torch.bool)).view(Full()).mask is None


def test_a_stack_prepares_a_shared_position_once_for_each_kind() -> None:
    model = tiny("qwen2")
    assert model.stack.kinds == (Causal(), Window(4))
    assert len(model.stack.shared) == 1 and len(model.stack.uses) == 2
    calls = []
    prepare = Rotary.prepare
    model.stack.shared[0].prepare = lambda *args: calls.append(1) or prepare(model.stack.shared[0], *args)
    model(some_ids())
    assert len(calls) == 2


def test_a_block_may_stand_twice_with_a_cache_of_its_own_each_time() -> None:
    model = tiny("llama3")
    first = model.stack.blocks[0]
    looped = Model(
        embed=model.embed, stack=Stack([first, first, first], norm=model.stack.norm), head=model.head, context=64
    )
    ids = some_ids(1, 10)
    cache = looped.new_cache(1, 10, chunk=4)
    with torch.no_grad():
        pieces = [looped(piece, cache.extend(piece.shape[1])) for piece in ids.split(4, 1)]
        assert (torch.cat(pieces, 1) - looped(ids)).abs().max() <= 1e-5
    assert len(cache.tree) == 3 and cache.tree[0]["attn"] is not cache.tree[1]["attn"]
    assert sum(p.numel() for p in looped.stack.parameters()) == sum(p.numel() for p in first.parameters()) + 24


def test_a_sublayer_norms_before_behind_and_after() -> None:
    mixer = Plain(d_model=4, d_ff=8, act=ReLU())
    pre, post, after = LayerNorm(4), LayerNorm(4, eps=0.1), LayerNorm(4, eps=0.5)
    x = torch.randn(2, 3, 4)
    want = after(x + post(mixer(pre(x), None)))
    assert torch.equal(Sublayer(mixer, pre=pre, post=post, after=after)(x, None), want)
    assert torch.equal(Sublayer(mixer)(x, None), x + mixer(x, None))


def test_a_block_runs_its_sublayers_in_order() -> None:
    parts = {name: Sublayer(Plain(d_model=4, d_ff=8, act=ReLU())) for name in ("ffn", "attn")}
    step, x = full_step([Causal()], 3), torch.randn(1, 3, 4)
    assert torch.equal(Block(**parts)(x, step), parts["attn"](parts["ffn"](x, step), step))


def test_the_residual_starts_with_the_same_spread_at_any_depth() -> None:
    spreads = []
    for layers in (2, 12):
        model = tiny_spec("llama3", num_hidden_layers=layers, hidden_size=64, intermediate_size=128).build()
        initialise(model, seed=1)
        last = [b.ffn.mixer.down.weight.std().item() for b in model.stack.blocks]
        assert sum(last) / layers == pytest.approx(0.02 / (2 * layers) ** 0.5, rel=0.05)
        assert model.stack.blocks[0].ffn.mixer.up.weight.std().item() == pytest.approx(0.02, rel=0.05)
        spreads.append(model.hidden(some_ids(4, 20)).std().item())
    assert spreads[0] == pytest.approx(spreads[1], rel=0.1)


def test_initialisation_follows_its_seed() -> None:
    models = [tiny_spec("gpt2").build() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        initialise(model, seed=seed)
    tables = [next(m for m in model.modules() if isinstance(m, Table)).weight for model in models]
    assert torch.equal(tables[0], tables[1]) and not torch.equal(tables[0], tables[2])
    assert all(bool((p == 0).all()) for name, p in models[0].named_parameters() if name.endswith(("q.bias", "up.bias")))


def test_what_can_generate() -> None:
    assert tiny("llama3").generates and not tiny("bert").generates
    assert not tiny("llama3", architectures=["LlamaModel"]).generates
