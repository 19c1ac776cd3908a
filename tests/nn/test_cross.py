"""A decoder that reads an encoder's memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vitral.families.transformer import spec
from vitral.nn import Cross, Model, Spec, full_step, initialise
from vitral.nn.step import Memory

SMALL: dict[str, Any] = {
    "model_type": "transformer",
    "is_encoder_decoder": True,
    "d_model": 12,
    "vocab_size": 17,
    **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 3 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 20 for side in ("encoder", "decoder")},
}


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    built: Model = spec(SMALL).build()
    initialise(built, std=0.3)
    return built.eval()


def test_a_step_without_memory_is_refused(model: Model) -> None:
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(ValueError, match="memory"):
        model(ids)
    with pytest.raises(ValueError, match="memory"):
        model(ids, model.new_cache(1, 8).extend(3))


def test_a_model_without_encoder_remembers_nothing(model: Model) -> None:
    assert model.encoder is not None
    with pytest.raises(ValueError, match="no encoder"):
        model.encoder.remember(torch.tensor([[1]]))


def test_both_sides_and_the_head_read_one_table(model: Model) -> None:
    assert model.encoder is not None and model.head is not None
    assert model.embed.tokens is model.encoder.embed.tokens is model.head.proj.table
    assert sum("tokens" in name for name, _ in model.named_parameters()) == 1


def test_every_parameter_has_a_gradient(model: Model) -> None:
    memory = model.remember(torch.tensor([[1, 2, 3, 4]]))
    ids = torch.tensor([[5, 6, 7]])
    model(ids, model.step(ids, memory=memory)).square().mean().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # adding a number to all scores of a query changes nothing: keys have no use for a bias, and here have none
    assert not dead


def test_only_the_memory_links_the_target_to_its_source(model: Model) -> None:
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        first, other = (model.remember(torch.tensor([source])) for source in ([1, 2, 3], [1, 2, 4]))
        a, b = (model(ids, model.step(ids, memory=memory)) for memory in (first, other))
    assert (a - b).abs().amin(-1).gt(0).any()


def test_the_memory_may_have_another_width() -> None:
    cross = Spec(Cross, d_model=8, d_memory=20, n_heads=2, n_kv_heads=2, head_dim=4).build()
    step = full_step((), 3, memory=Memory.of(torch.randn(1, 5, 20)))
    assert cross(torch.randn(1, 3, 8), step).shape == (1, 3, 8)


def test_a_query_whose_source_is_all_padding_is_finite(model: Model) -> None:
    ids = torch.tensor([[5, 6]])
    memory = model.remember(torch.tensor([[1, 2]]), torch.tensor([[False, False]]))
    assert model(ids, model.step(ids, memory=memory)).isfinite().all()


def test_a_cache_of_a_memory_answers_without_the_states(model: Model) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        memory = model.remember(torch.tensor([[1, 2, 3]]))
        whole = model(ids, model.step(ids, memory=memory))
        cache = model.new_cache(1, 8, memory=memory)
        first = model(ids[:, :2], cache.extend(2))
        assert cache.memory is not None and cache.memory.states is None
        rest = model(ids[:, 2:], cache.extend(2))
    assert torch.allclose(whole, torch.cat((first, rest), 1), atol=1e-6)
