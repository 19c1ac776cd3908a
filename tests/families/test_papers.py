"""Sizes of the families published without code, by formulas written apart from the parts; and the reward of a text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.families.parity import Reference, answer, left_padded
from tests.families.published import COUNTS
from vitral.errors import CheckpointError
from vitral.families import family, preset_config, spec
from vitral.families.gpt3 import PRINTED


def gopher(c: dict[str, int]) -> int:
    """5 d² of attention with W_r, 8 d² of feed-forward, u and v, two norms a layer and one at the end, one table."""
    d, layers = c["hidden_size"], c["num_hidden_layers"]
    return layers * (5 * d * d + 8 * d * d + 2 * d + 2 * d) + d + c["vocab_size"] * d


def lamda(c: dict[str, int]) -> int:
    """The printed arithmetic (4 of attention, 3 of feed-forward), and norms, one table of 32 buckets, the embedding."""
    d, layers, inner = c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"] * c["head_dim"]
    bare = layers * (4 * d * inner + 3 * d * c["intermediate_size"])
    return bare + (2 * layers + 1) * d + 32 * c["num_attention_heads"] + c["vocab_size"] * d


def glam(c: dict[str, int], met: int | None = None) -> int:
    """Gated layers, in every other one experts of two matrices and a router; a table of 32 buckets in each."""
    d, layers, inner, d_ff = (
        c["hidden_size"],
        c["num_hidden_layers"],
        c["num_attention_heads"] * c["head_dim"],
        c["intermediate_size"],
    )
    sparse = layers // 2 if c["num_experts"] else 0
    experts = 2 * d * d_ff * (c["num_experts"] if met is None else met) + c["num_experts"] * d
    bare = layers * 4 * d * inner + (layers - sparse) * 3 * d * d_ff + sparse * experts
    return bare + (2 * layers + 1) * d + 32 * c["num_attention_heads"] * layers + c["vocab_size"] * d


def instructgpt(c: dict[str, int]) -> int:
    """GPT-2's formula (12 d² + 13 d a layer, two tables, the last norm), and a projection to one number."""
    d = c["n_embd"]
    return c["n_layer"] * (12 * d * d + 13 * d) + (50257 + 2048) * d + 2 * d + d + 1


@pytest.mark.parametrize(
    ("name", "formula"), [("gopher", gopher), ("chinchilla", gopher), ("lamda", lamda), ("instructgpt", instructgpt)]
)
def test_the_expected_counts_follow_from_a_formula(name: str, formula: Callable[[dict[str, int]], int]) -> None:
    for preset, row in COUNTS[name].items():
        assert formula(preset_config(f"{name}/{preset}")) == row["count"], preset


def test_the_expected_counts_of_the_mixture_follow_from_a_formula() -> None:
    for preset, row in COUNTS["glam"].items():
        config = preset_config(f"glam/{preset}")
        assert (glam(config), glam(config, met=2)) == (row["count"], row["active"]), preset


def test_the_rows_that_contradict_themselves_build_as_printed() -> None:
    """24 heads of 128 at width 2048, and width 5140 with 40 heads of 128: neither makes the printed size."""
    sizes = {name: family("gpt3").spec(config).count().total for name, config in PRINTED.items()}
    for name, (layers, d, inner) in {"xl": (24, 2048, 3072), "13b": (40, 5140, 5120)}.items():
        block = 4 * d * inner + 3 * inner + d + 8 * d * d + 5 * d + 4 * d
        assert sizes[name] == layers * block + (50257 + 2048) * d + 2 * d
    assert [round(size / 1e9, 2) for size in sizes.values()] == [1.52, 12.94]
    closing = [round(spec(f"gpt3/{name}").count().total / 1e9, 2) for name in PRINTED]
    assert closing == [1.32, 12.85]


def test_the_reward_is_read_at_the_last_token(reference: Callable[[str], Reference]) -> None:
    ref = reference("instructgpt-reward")
    model = ref.load()
    texts = [ref.ids[0], ref.ids[1, :20], ref.ids[2, :1]]
    ids, valid = left_padded(texts)
    want = torch.tensor([ref.alone(text)["score"][-1, 0] for text in texts]).float()
    right = [torch.stack([row.roll(len(text)) for row, text in zip(x, texts, strict=True)]) for x in (ids, valid)]
    for given, mask in ((ids, valid), right):
        hidden = answer(model, given, model.step(given, mask))["hidden"]
        with torch.no_grad():
            assert torch.allclose(model.score.of_texts(hidden, mask), want, atol=1e-5)


@pytest.mark.parametrize("pattern", [[], ["sparse"], "dense", [1]])
def test_an_unknown_pattern_is_refused(pattern: object) -> None:
    with pytest.raises(CheckpointError, match="attention_pattern"):
        family("gpt3").spec({**preset_config("gpt3/small"), "attention_pattern": pattern})


def test_a_band_without_a_width_is_refused() -> None:
    with pytest.raises(CheckpointError, match="band"):
        family("gpt3").spec({**preset_config("gpt3/small"), "attention_pattern": ["dense", "banded"]})
