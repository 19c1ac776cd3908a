"""`vitral show`, `vitral families`, and the drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import vitral
from vitral.cli.drawing import draw
from vitral.families import families, presets


def test_a_folder(run: Any, tiny: Path) -> None:
    facts = run("show", tiny, "--json").json
    lm = vitral.load(tiny)
    total = sum(parameter.numel() for parameter in lm.model.parameters())
    assert facts["parameters"] == total == sum(facts["parts"].values())
    assert facts["weights_bytes"] == {
        "float32": 4 * total, "bfloat16": 2 * total, "float16": 2 * total, "Q8_0": round(total * 34 / 32)
    }  # fmt: skip
    # 3 layers × 2 key-value heads × (8 for the key + 8 for the value) × 4 bytes
    assert facts["kv_bytes_per_token"]["float32"] == 3 * 2 * (8 + 8) * 4
    assert facts["kv_bytes_full_context"]["bfloat16"] == 3 * 2 * (8 + 8) * 2 * facts["context"]
    assert (facts["context"], facts["kind"]) == (96, "decoder")
    shown = run("show", tiny).out
    assert f"{total:,}" in shown and "Attention(d_model 32, n_heads 4, n_kv_heads 2, head_dim 8" in shown


def test_no_weight_is_read(run: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitral.weights.safetensors import SafetensorsFolder

    monkeypatch.setattr(SafetensorsFolder, "read", lambda *_: pytest.fail("a weight was read"))
    assert run("show", tiny).code == 0


@pytest.mark.parametrize(
    ("preset", "total", "kv"),
    [("llama3/3.2-1b", 1_235_814_400, 16 * 8 * 128 * 4), ("gpt2/small", 124_439_808, 12 * 12 * 128 * 4)],
)
def test_a_preset_on_the_meta_device(run: Any, preset: str, total: int, kv: int) -> None:
    facts = run("show", preset, "--json").json
    assert facts["parameters"] == total and facts["kv_bytes_per_token"]["float32"] == kv


def test_an_encoder_has_no_cache(run: Any) -> None:
    facts = run("show", "bert/base", "--json").json
    assert facts["kind"] == "encoder" and facts["kv_bytes_per_token"] == {"float32": 0, "bfloat16": 0}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("llama3/3.2-1", "Did you mean '3.2-1b'"),
        ("smollm2-135m-instruct", "is not on this machine. Fetch it first: vitral pull smollm2-135m-instruct"),
        ("someone/something", "is not on this machine. Fetch it first: vitral pull someone/something"),
        ("smollm2-135m", "Did you mean 'smollm2-135m-instruct'"),
    ],
)
def test_names_that_cannot_be_shown(run: Any, name: str, said: str) -> None:
    outcome = run("show", name)
    assert outcome.code == 2 and said in outcome.error


@pytest.mark.parametrize("family", families())
def test_every_family_can_be_drawn(family: str) -> None:
    preset = presets(family)[0]
    lines = draw(vitral.spec(f"{family}/{preset}")).splitlines()
    assert lines[0].strip() == "ids" and lines[-1].strip() in ("logits", "hidden states")
    assert sum("(+)" in line for line in lines) >= 1
    assert all(len(line) < 150 for line in lines)


def test_unequal_blocks_are_drawn_apart() -> None:
    spec = vitral.spec("gpt2/small")
    stack = spec.args["stack"]
    blocks = stack.args["blocks"]
    odd = vitral.spec("gpt2/medium").args["stack"].args["blocks"][0]
    drawn = draw(spec.replace(stack=stack.replace(blocks=[*blocks[:2], odd, *blocks[2:4]])))
    assert [line.strip() for line in drawn.splitlines() if "block," in line] == [
        "2 × block, layers 0 to 1",
        "1 × block, layer 2",
        "2 × block, layers 3 to 4",
    ]


def test_families(run: Any) -> None:
    rows = run("families", "--json").json
    assert [row["name"] for row in rows] == families()
    assert all(row["presets"] == presets(row["name"]) and row["year"] > 2016 for row in rows)
    table = run("families").out
    assert all(name in table for name in families())


def test_one_family_with_sizes(run: Any) -> None:
    (row,) = run("families", "gpt2", "--json").json
    assert row["parameters"]["small"] == 124_439_808
    assert "124.4 M" in run("families", "gpt2").out
