"""`vitral show`, `vitral families`, and the drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import vitral
from vitral.cli.drawing import draw, turns
from vitral.families import families, family, presets
from vitral.nn import Spec, Table


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


@pytest.mark.parametrize(
    ("preset", "token", "full", "source"),
    [
        # 26 layers × 4 heads × (256 + 256); half of the layers keep 4096 tokens of 8192
        ("gemma2/2b", 26 * 2048, 13 * 2048 * (4096 + 8192), 0),
        # one latent of 512 and one turned key of 64 a layer, whatever the heads
        ("deepseek_v3/v3", 61 * 576, 61 * 576 * 163840, 0),
        # the decoder's own, and as much for each state of the encoder
        ("t5/small", 6 * 8 * 128, 6 * 8 * 128 * 512, 6 * 8 * 128),
    ],
)
def test_every_kind_of_cache_is_counted(run: Any, preset: str, token: int, full: int, source: int) -> None:
    facts = run("show", preset, "--json").json
    kinds = ("kv_bytes_per_token", "kv_bytes_full_context", "kv_bytes_per_source_token")
    assert [facts[kind]["bfloat16"] for kind in kinds] == [2 * token, 2 * full, 2 * source]


def test_a_mixture_says_what_a_token_meets(run: Any) -> None:
    facts = run("show", "mixtral/8x7b", "--json").json
    assert (facts["parameters"], facts["active_parameters"]) == (46_702_792_704, 12_879_925_248)
    shown = run("show", "mixtral/8x7b").out
    assert "46.7 B parameters, of which a token meets 12.9 B" in shown and "experts" in shown


def test_the_licence_is_that_of_the_preset(run: Any) -> None:
    assert run("show", "llama3/3-8b", "--json").json["licence"] == "Llama 3 Community License"
    assert run("show", "llama3/3.2-1b", "--json").json["licence"] == "Llama 3.2 Community License"
    assert "licence: Llama 3.2 Community License" in run("show", "llama3/3.2-1b").out


def test_what_changed_in_one_lineage(run: Any) -> None:
    found = run("show", "llama3/3-8b", "--against", "llama2/7b", "--json").json
    assert (found["model"], found["against"]) == ("llama3/3-8b", "llama2/7b")
    assert found["figures"]["parameters"] == [6_738_415_616, 8_030_261_248]
    assert found["figures"]["kv_bytes_per_token"] == [32 * 32 * 256 * 2, 32 * 8 * 256 * 2]
    assert {row["part"]: (row["before"], row["after"]) for row in found["parts"]} == {
        "embed.tokens.n": (32000, 128256),
        "block.attn.mixer.n_kv_heads": (32, 8),
        "block.attn.mixer.position.theta": (10000.0, 500000.0),
        "block.ffn.mixer.d_ff": (11008, 14336),
        "head.proj.out_features": (32000, 128256),
    }
    assert found["config"]["num_key_value_heads"] == [None, 8]
    shown = run("show", "llama3/3-8b", "--against", "llama2/7b").out
    assert "block.attn.mixer.n_kv_heads      32 → 8" in shown and "512.0 KiB    128.0 KiB  0.25" in shown


def test_what_changed_between_families(run: Any) -> None:
    rows = run("show", "gpt2/small", "--against", "bert/base", "--json").json["parts"]
    found = {row["part"]: (row["before"], row["after"]) for row in rows}
    assert found["block.attn.mixer.kind"] == ("Full", "Causal")
    assert found["block.attn.after"][1] is None and found["block.attn.pre"][0] is None
    assert found["pooler"] == ("Pooler(d 768)", None) and found["head"][0] is None
    rows = run("show", "t5/small", "--against", "gpt2/small", "--json").json["parts"]
    found = {row["part"]: (row["before"], row["after"]) for row in rows}
    assert found["encoder"] == (None, "6 × block of attn and ffn")
    assert "Cross(" in found["block.cross"][1] and found["width"] == (768, 512)
    assert found["block.attn.pre"] == ("LayerNorm(d 768, eps 1e-05)", "RMSNorm(d 512, eps 1e-06)")
    assert not any(name.endswith((".d", ".d_model")) for name in found)


def test_what_changed_in_layers_that_take_turns(run: Any) -> None:
    rows = run("show", "gemma2/2b", "--against", "gemma/2b", "--json").json["parts"]
    found = {row["part"]: (row["before"], row["after"]) for row in rows}
    assert found["block 1.attn.mixer.kind"] == ("Causal", "Window(size 4096)")
    assert "block 2.attn.mixer.kind" not in found and found["head.softcap"] == (None, 30.0)
    assert found["block 1.attn.post"][1] == "RMSNorm(d 2304, eps 1e-06, offset 1)"


def test_nothing_changed(run: Any, tiny: Path) -> None:
    assert run("show", "llama3/3-8b", "--against", "llama3/3-8b", "--json").json["parts"] == []
    shown = run("show", tiny, "--against", tiny).out
    assert "parts: the same" in shown and "config: the same" in shown


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


@pytest.mark.parametrize("family", [name for name in families() if presets(name)])
def test_every_family_can_be_drawn(family: str) -> None:
    preset = presets(family)[0]
    lines = draw(vitral.spec(f"{family}/{preset}")).splitlines()
    assert any(line.strip() in ("ids", "pixels", "ids and pixels") for line in lines[:2])
    assert lines[-1].strip() in ("logits", "hidden states")
    assert sum("(+)" in line for line in lines) >= 1
    assert all(len(line) < 150 for line in lines)


def test_an_encoder_and_the_decoder_that_reads_it() -> None:
    lines = [line.strip() for line in draw(vitral.spec("t5/small")).splitlines()]
    encoder, decoder = lines.index("── encoder ──"), lines.index("── decoder ──")
    memory, cross = lines.index("hidden states ═══▶ memory"), lines.index("├──▶ cross ◀═══ memory")
    assert encoder < memory < decoder < cross
    assert sum(line.startswith("│      mixer      Cross(") for line in lines) == 1 and lines[-1] == "logits"


def test_towers_are_drawn_beside_each_other() -> None:
    lines = [line.strip() for line in draw(vitral.spec("clip/b32")).splitlines()]
    image, text = lines.index("── image ──"), lines.index("── text ──")
    assert (lines[image + 1], lines[text + 1]) == ("pixels", "ids")
    assert lines[lines.index("── Dual ──") + 2].startswith("│      image_proj Linear(")


def test_a_tower_of_tiles_is_read_by_layers_that_look() -> None:
    lines = [line.strip() for line in draw(vitral.spec("llama3/3.2-11b-vision")).splitlines()]
    assert lines[:2] == ["── vision ──", "pixels"] and lines[-1] == "logits"
    assert lines.index("│  local") < lines.index("│  whole") < lines.index("hidden states ═══▶ memory")
    assert "8 × 5 blocks in turn, layers 0 to 39" in lines and "├──▶ cross ◀═══ memory" in lines


def test_a_tower_whose_vectors_stand_among_tokens() -> None:
    lines = [line.strip() for line in draw(vitral.spec("gemma3/4b")).splitlines()]
    assert lines[:2] == ["── vision.tower ──", "pixels"]
    assert any(line.startswith("│          projector  Pooled(side 64, tokens 256") for line in lines)


def test_layers_that_take_turns_are_drawn_once() -> None:
    lines = [line.strip() for line in draw(vitral.spec("gemma2/2b")).splitlines()]
    assert "13 × 2 blocks in turn, layers 0 to 25" in lines
    assert [line for line in lines if "kind" in line] == [
        "│          kind       Window(size 4096)",
        "│          kind       Causal",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("aaaa", [("a", 4)]),
        ("aabaa", [("a", 2), ("b", 1), ("a", 2)]),
        ("ababab", [("ab", 3)]),
        ("aabaabaaa", [("aab", 2), ("a", 3)]),
        ("aaabbbb", [("a", 3), ("b", 4)]),
        ("abc", [("a", 1), ("b", 1), ("c", 1)]),
    ],
)
def test_turns(text: str, found: list[tuple[str, int]]) -> None:
    parts = {letter: Spec(Table, n=number, d=1) for number, letter in enumerate("abc", 1)}
    names = {repr(part): letter for letter, part in parts.items()}
    assert [("".join(names[repr(b)] for b in run), n) for run, n in turns([parts[c] for c in text])] == found


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
    assert all(row["licence"] and row["org"] and row["kind"] and row["idea"] for row in rows)
    assert {row["certificate"] for row in rows} <= {"certified", "failed", "stale", "none", "closed"}
    table = run("families").out
    assert all(name in table for name in families())
    assert table.splitlines()[0].split() == ["year", "family", "who", "kind", "sizes", "licence", "certificate"]


def test_one_family_with_sizes(run: Any) -> None:
    (row,) = run("families", "gpt2", "--json").json
    assert row["parameters"]["small"] == 124_439_808
    assert "124.4 M" in run("families", "gpt2").out
    assert run("show", "gpt2").out == run("families", "gpt2").out
    assert "12.9 B" in run("families", "mixtral").out


@pytest.mark.parametrize("family", [name for name in families() if not presets(name)])
def test_a_closed_family_is_a_card(run: Any, family: str) -> None:
    (row,) = run("families", family, "--json").json
    assert (row["licence"], row["certificate"], row["parameters"]) == ("closed", "closed", {})
    assert row["facts"] and row["unpublished"] and row["traps"]
    assert vitral.spec(row["stand_in"]).count().total > 0
    assert row["stand_in"] in run("show", family).out
    outcome = run("show", f"{family}/large")
    assert outcome.code == 2 and f"Open, and of the same capability: {row['stand_in']}" in outcome.error


@pytest.mark.parametrize("name", families())
def test_every_card_is_filled_in(name: str) -> None:
    card = family(name).CARD
    assert card.traps and card.licence and card.idea and card.source
    assert set(card.licences) <= set(presets(name))
    assert len(card.licence) < 45, "what differs by preset belongs in licences"
    said = [card.idea, card.recipe, *card.facts, *card.unpublished, *card.traps]
    assert all(text == text.strip() and not text.endswith(".") for text in said)
