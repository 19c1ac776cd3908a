"""Recording shows what was really computed, and leaves no trace."""

from __future__ import annotations

import re
from threading import Thread

import pytest
import torch
from torch import Tensor, nn

from tests.nn.tiny import DECODERS, some_ids, tiny
from vitral.errors import VitralError
from vitral.inspect.record import points, record
from vitral.nn import Eager, Fused, Model

FAMILIES = (*DECODERS, "bert")
PATTERNS = "*.attn.mixer.kernel.pattern"
STREAM = "stack.blocks.*.add"


def run(model: Model, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(ids)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def eager(model: Model) -> Model:
    """The same model with the kernel that writes its pattern out."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Fused):
            model.set_submodule(name, module.eager())
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_patterns_have_every_head_and_sum_to_one(name: str) -> None:
    model, ids = tiny(name), some_ids(2, 11)
    with record(model, PATTERNS) as seen:
        run(model, ids)
    assert set(seen) == {f"stack.blocks.{i}.attn.mixer.kernel.pattern" for i in range(2)}
    for depth, pattern in enumerate(seen.values()):
        assert pattern.shape == (2, 4, 11, 11)
        assert torch.allclose(pattern.sum(-1), torch.ones(2, 4, 11), atol=1e-6)
        q, k = torch.arange(11)[:, None], torch.arange(11)[None]
        hidden = k > q
        if name == "qwen2" and depth == 1:
            hidden = hidden | (k <= q - 4)
        if name == "bert":
            hidden = torch.zeros(11, 11, dtype=torch.bool)
        assert bool((pattern[..., hidden] == 0).all())
        assert bool((pattern[..., ~hidden] > 0).all())


def test_a_pattern_is_the_one_that_made_the_output() -> None:
    """pattern @ v, laid side by side and projected, is what the attention gave."""
    model, ids = tiny("llama3"), some_ids(1, 9)
    with record(model, "stack.blocks.1.attn.mixer*") as seen:
        run(model, ids)
    attention = model.get_submodule("stack.blocks.1.attn.mixer")
    v = seen["stack.blocks.1.attn.mixer.v"].unflatten(-1, (2, 6)).transpose(1, 2).repeat_interleave(2, 1)
    mixed = seen["stack.blocks.1.attn.mixer.kernel.pattern"] @ v
    out = attention.o(mixed.transpose(1, 2).flatten(-2))
    assert torch.allclose(out, seen["stack.blocks.1.attn.mixer"], atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_residual_stream_adds_up(name: str) -> None:
    model, ids = tiny(name), some_ids(2, 7)
    with record(model, "embed", "stack.blocks.*", "stack.blocks.*.mixer") as seen:
        run(model, ids)
    x = seen["embed"]
    for depth in range(2):
        for part in ("attn", "ffn"):
            place = f"stack.blocks.{depth}.{part}"
            assert torch.allclose(x + seen[f"{place}.mixer"], seen[f"{place}.add"], atol=1e-6)
            x = seen[place]
        assert torch.equal(x, seen[f"stack.blocks.{depth}"])
        assert x.shape == (2, 7, 24)


@pytest.mark.parametrize("name", FAMILIES)
def test_watching_the_stream_changes_no_bit(name: str) -> None:
    model, ids = tiny(name), some_ids(2, 12)
    plain = run(model, ids)
    with record(model, STREAM, "stack.norm" if name != "bert" else "embed.norm", "head") as seen:
        assert torch.equal(run(model, ids), plain)
    assert seen.swapped == ()
    assert torch.equal(seen["head"], plain)


@pytest.mark.parametrize("name", FAMILIES)
def test_watching_patterns_changes_no_bit_of_the_plain_kernel(name: str) -> None:
    model, ids = eager(tiny(name)), some_ids(2, 12)
    plain = run(model, ids)
    with record(model, PATTERNS) as seen:
        assert torch.equal(run(model, ids), plain)
    assert seen.swapped == ()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fused_kernel_is_swapped_openly_and_put_back(name: str) -> None:
    model, ids = tiny(name), some_ids(2, 12)
    plain = run(model, ids)
    before = {n: m for n, m in model.named_modules() if isinstance(m, Fused)}
    with record(model, PATTERNS) as seen:
        assert seen.swapped == tuple(before)
        assert type(model.get_submodule(seen.swapped[0])) is Eager
        assert (run(model, ids) - plain).abs().max() <= 1e-5
    assert all(model.get_submodule(n) is m for n, m in before.items())
    assert hooks(model) == 0
    assert torch.equal(run(model, ids), plain)


def test_only_the_watched_layers_are_swapped() -> None:
    model = tiny("gpt2")
    with record(model, "stack.blocks.1.*.pattern") as seen:
        assert seen.swapped == ("stack.blocks.1.attn.mixer.kernel",)
        assert isinstance(model.get_submodule("stack.blocks.0.attn.mixer.kernel"), Fused)
        run(model, some_ids())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_whole_block_can_be_watched_kernel_and_pattern_too(name: str) -> None:
    """The example of the module's own docstring: a pattern and everything in the blocks at once."""
    model = tiny(name)
    with record(model, PATTERNS, "stack.blocks.*") as seen:
        run(model, some_ids(2, 11))
    kernel = seen["stack.blocks.0.attn.mixer.kernel"]
    assert kernel.shape[:3] == (2, 4, 11)
    assert set(seen) == {point for point in points(model) if point.startswith("stack.blocks.")}


def test_everything_in_a_decoder_fires() -> None:
    model = tiny("qwen3")
    with record(model, "*") as seen:
        run(model, some_ids())
    assert set(seen) == set(points(model))


def test_a_point_that_fires_often_keeps_each_time() -> None:
    model, ids = tiny("llama3"), some_ids(1, 8)
    cache = model.new_cache(1, 8, chunk=5)
    with record(model, PATTERNS, "head") as seen, torch.inference_mode():
        model(ids[:, :5], cache.extend(5))
        for i in range(5, 8):
            model(ids[:, i : i + 1], cache.extend(1))
    shapes = [tuple(p.shape) for p in seen.all("stack.blocks.0.attn.mixer.kernel.pattern")]
    assert shapes == [(1, 4, 5, 5), (1, 4, 1, 6), (1, 4, 1, 7), (1, 4, 1, 8)]
    whole = run(model, ids)
    assert torch.allclose(torch.cat(seen.all("head"), 1), whole, atol=1e-5)
    assert torch.equal(seen["head"], seen.all("head")[-1])


def test_what_is_recorded_is_a_copy() -> None:
    model, ids = tiny("gpt2"), some_ids()
    with record(model, "embed") as seen:
        run(model, ids)
    first = seen["embed"].clone()
    with torch.no_grad():
        model.embed.tokens.weight.add_(1)
    assert torch.equal(seen["embed"], first)
    assert not seen["embed"].requires_grad


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    model = tiny("gpt2")
    with (
        pytest.raises(VitralError, match=re.escape("no point matches 'stack.blocks.9*'")),
        record(model, "stack.blocks.9*"),
    ):
        pytest.fail("entered")
    for patterns in ((), (["stack"],), (1,)):
        with pytest.raises(VitralError, match="patterns of text"), record(model, *patterns):  # type: ignore[arg-type]
            pytest.fail("entered")
    with pytest.raises(VitralError, match=r"given a str.*lm\.model"), record("model", "stack"):  # type: ignore[arg-type]
        pytest.fail("entered")
    assert hooks(model) == 0


def test_a_point_that_never_fired_is_an_error() -> None:
    model = tiny("gpt2")
    ids = some_ids()
    with pytest.raises(VitralError, match=r"1 watched points? never fired: head"), record(model, "head", "stack"):
        model.hidden(ids)
    assert hooks(model) == 0


def test_an_exception_inside_leaves_no_trace() -> None:
    model = tiny("llama3")
    with pytest.raises(KeyError, match="mine"), record(model, PATTERNS):
        raise KeyError("mine")
    assert hooks(model) == 0
    kernels = [m for m in model.modules() if isinstance(m, Eager)]
    assert kernels and all(type(m) is Fused for m in kernels)


def test_an_exception_in_the_forward_leaves_no_trace() -> None:
    model = tiny("gpt2")
    with pytest.raises(IndexError), record(model, PATTERNS, "head"):
        run(model, torch.tensor([[999]]))
    assert hooks(model) == 0
    assert all(type(m) is Fused for m in model.modules() if isinstance(m, Eager))


def test_gradients_still_flow() -> None:
    model = tiny("llama3")
    with record(model, "stack.blocks.*.add"):
        model(some_ids()).sum().backward()
    assert model.embed.tokens.weight.grad is not None


def test_compiled_blocks_are_seen_and_stay_compiled() -> None:
    model, ids = tiny("llama3"), some_ids(2, 9)
    plain = run(model, ids)
    for block in model.stack.blocks:
        block.compile(backend="eager")
    assert torch.allclose(run(model, ids), plain, atol=1e-6)
    with record(model, PATTERNS, STREAM) as seen:
        recorded = run(model, ids)
    assert seen["stack.blocks.0.attn.mixer.kernel.pattern"].shape == (2, 4, 9, 9)
    assert (recorded - plain).abs().max() <= 1e-5
    assert all(block._compiled_call_impl is not None for block in model.stack.blocks)
    assert torch.allclose(run(model, ids), plain, atol=1e-6)
    assert hooks(model) == 0


def test_a_compiled_model_is_seen_under_its_own_names() -> None:
    model, ids = tiny("llama3"), some_ids(1, 6)
    compiled = torch.compile(model, backend="eager")
    plain = run(model, ids)
    with record(compiled, PATTERNS, "stack.blocks.1") as seen:
        recorded = run(compiled, ids)
    assert "stack.blocks.1" in seen and torch.equal(recorded, plain)


def test_two_threads_record_one_model_without_meeting() -> None:
    model = tiny("llama3")
    texts = [some_ids(1, 5), some_ids(1, 8)]
    found: dict[int, list[int]] = {0: [], 1: []}

    def watch(number: int) -> None:
        for _ in range(10):
            with record(model, PATTERNS, STREAM) as seen:
                run(model, texts[number])
            found[number] += [tensor.shape[-1 if "pattern" in name else 1] for name, tensor in seen.items()]

    threads = [Thread(target=watch, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found[0]) == {5} and set(found[1]) == {8}
    assert len(found[0]) == len(found[1]) > 0
    assert hooks(model) == 0


def test_what_was_seen_in_inference_mode_can_be_learnt_from() -> None:
    model = tiny("gpt2")
    with record(model, "stack.norm") as seen, torch.inference_mode():
        model(some_ids())
    probe = torch.nn.Linear(seen["stack.norm"].shape[-1], 2)
    probe(seen["stack.norm"]).sum().backward()
    assert probe.weight.grad is not None
