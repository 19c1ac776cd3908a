"""`vitral inspect`: what it prints is what the model computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vitral
from tests.artefacts import artefact
from vitral.cli.inspect import print_attention


def test_the_values_are_the_models_own(run: Any, tiny: Path) -> None:
    seen = run("inspect", tiny, "o gato e o rato", "--top", 4, "--json").json
    lm = vitral.load(tiny)
    ids = lm.encode_prompt("o gato e o rato")
    assert seen["ids"] == ids and "".join(seen["tokens"]) == "o gato e o rato"
    logits = lm.logits([ids])[0, -1]
    best = logits.softmax(-1).topk(4)
    assert [candidate["id"] for candidate in seen["candidates"]] == best.indices.tolist()
    for candidate, share in zip(seen["candidates"], best.values.tolist(), strict=True):
        assert candidate["probability"] == pytest.approx(share, abs=1e-5)
    assert len(seen["attention"]) == 3 and seen["swapped_kernels"] == 3
    for pattern in seen["attention"]:
        rows = torch.tensor(pattern)
        assert rows.shape == (len(ids), len(ids))
        torch.testing.assert_close(rows.sum(-1), torch.ones(len(ids)))
        assert rows.triu(1).abs().max() == 0
    assert [row["point"] for row in seen["residual"]] == ["embed", *(f"stack.blocks.{i}" for i in range(3))]
    embedded = lm.model.embed.tokens.weight[ids[-1]].norm().item()
    assert seen["residual"][0]["last"] == pytest.approx(embedded, rel=1e-5)


def test_the_page(run: Any, tiny: Path) -> None:
    shown = run("inspect", tiny, "o gato", "--layer", 0).out
    assert "attention of layer 0" in shown and "layer 2" in shown and "next token:" in shown and "█" in shown


def test_chat_goes_through_the_template(run: Any, tiny: Path) -> None:
    tokens = run("inspect", tiny, "o gato", "--chat", "--json").json["tokens"]
    assert "".join(tokens) == "<|user|>o gato<|a|>"


@pytest.mark.parametrize(
    ("args", "said"),
    [(["--layer", 3], "there is no layer 3. Give 0 to 2"), (["--layer", -4], "no layer -4"), (["--top", 0], "--top")],
)
def test_wrong_requests(run: Any, tiny: Path, args: list[Any], said: str) -> None:
    assert said in run("inspect", tiny, "o gato", *args).error


def test_a_prompt_that_does_not_fit(run: Any, tiny: Path) -> None:
    """Not so long that its characters alone tell."""
    said = run("inspect", tiny, "o gato " * 60).error
    assert "tokens long and the context holds 96. Shorten the prompt" in said


def test_shades_follow_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    print_attention(["a", "b"], [[1.0, 0.0], [0.02, 0.98]], 7)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "attention of layer 7, mean of its heads"
    assert lines[1].split() == ["'a'", "██"] and lines[2].split() == ["'b'", "░░██"]


def test_long_texts_show_their_end(capsys: pytest.CaptureFixture[str]) -> None:
    size = 60
    print_attention([str(n) for n in range(size)], torch.eye(size).tolist(), 0)
    lines = capsys.readouterr().out.splitlines()
    assert "the last 48 tokens" in lines[0] and lines[1].split()[0] == "'12'" and len(lines) == 1 + 48 + 1


def test_an_encoder_has_attention_and_no_candidates(run: Any) -> None:
    seen = run("inspect", artefact("minilm"), "a see-through model", "--json").json
    assert seen["candidates"] == [] and len(seen["attention"]) == 6 and seen["tokens"][0] == "[CLS]"


def test_the_real_model_expects_paris(run: Any) -> None:
    seen = run("inspect", artefact("smollm2"), "The capital of France is", "--json").json
    assert seen["candidates"][0]["text"] == " Paris" and seen["candidates"][0]["probability"] > 0.5
