"""Model folders: which tokenizer file counts, and what is said when none is any good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.artefacts import artefact
from tests.text.samples import TEXTS, small
from vitral.errors import CheckpointError, NotFoundError, VitralError
from vitral.text.tokenizer import Tokenizer


def _write(folder: Path, **files: object) -> None:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, "utf-8")


def test_an_empty_folder_holds_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="holds no tokenizer"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": {"type": "BPE"}}', "\x00"])
def test_a_damaged_tokenizer_json(text: str, tmp_path: Path) -> None:
    _write(tmp_path, tokenizer__json=text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json") as caught:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_damaged_config(text: str, tmp_path: Path) -> None:
    _write(tmp_path, tokenizer__json=small("bpe").to_json(), tokenizer_config__json=text)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("config", "field"),
    [({"bos_token": 3}, None), ({"chat_template": 3}, "chat_template"), ({"eos_token": {"content": 3}}, "eos_token")],
)
def test_malformed_fields_are_named(config: dict[str, object], field: str | None, tmp_path: Path) -> None:
    _write(tmp_path, tokenizer__json=small("bpe").to_json(), tokenizer_config__json=config)
    with pytest.raises(VitralError, match=field or "bos_token"):
        Tokenizer.from_folder(tmp_path)


def test_tokens_of_the_config_are_added(tmp_path: Path) -> None:
    rows = {"400": {"content": "<|new|>", "special": True}, "401": {"content": "<tool>", "special": False}}
    config = {
        "added_tokens_decoder": rows,
        "eos_token": {"content": "<|new|>", "lstrip": False},
        "additional_special_tokens": ["<|more|>"],
        "extra_special_tokens": {"image_token": "<image>"},
        "model_max_length": 2048,
    }
    _write(tmp_path, tokenizer__json=small("bpe").to_json(), tokenizer_config__json=config)
    ours = Tokenizer.from_folder(tmp_path)
    assert (ours.eos_id, ours.token_id("<tool>"), ours.token_id("<|more|>")) == (400, 401, 402)
    assert {400, 402} <= ours.special_ids and 401 not in ours.special_ids
    assert 401 in ours.encode("a<tool>b") and 400 not in ours.encode("a<|new|>b")
    assert ours.named_tokens["image_token"] == "<image>"
    assert ours.model_max_length == 2048 and ours.bos_id is None


def test_config_overrides_the_map_of_special_tokens(tmp_path: Path) -> None:
    _write(
        tmp_path,
        tokenizer__json=small("bpe").to_json(),
        special_tokens_map__json={"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"},
        tokenizer_config__json={"eos_token": "<|im_end|>", "model_max_length": 10**30},
    )
    ours = Tokenizer.from_folder(tmp_path)
    assert (ours.bos_id, ours.eos_id) == (0, 2)
    assert ours.model_max_length is None


def test_templates_from_everywhere(tmp_path: Path) -> None:
    _write(tmp_path, tokenizer__json=small("bpe").to_json(), tokenizer_config__json={"chat_template": "old"})
    assert Tokenizer.from_folder(tmp_path).chat_template == "old"
    rows = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    _write(tmp_path, tokenizer_config__json={"chat_template": rows})
    assert Tokenizer.from_folder(tmp_path).chat_templates == {"default": "A", "tool_use": "B"}
    _write(tmp_path, chat_template__jinja="new")
    (tmp_path / "additional_chat_templates").mkdir()
    _write(tmp_path / "additional_chat_templates", rag__jinja="C")
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.chat_templates == {"default": "new", "rag": "C"}
    copy = tmp_path / "copy"
    ours.save(copy)
    assert Tokenizer.from_folder(copy).chat_templates == ours.chat_templates


def test_gpt2_files(tmp_path: Path) -> None:
    spec = json.loads(small("bpe").to_json())["model"]
    merges = "#version: 0.2\n" + "".join(f"{' '.join(merge)}\n" for merge in spec["merges"])
    _write(tmp_path, vocab__json=spec["vocab"], merges__txt=merges)
    ours = Tokenizer.from_folder(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == small("bpe").encode(text), text


def test_vocab_txt(tmp_path: Path) -> None:
    vocabulary = json.loads(small("wordpiece").to_json())["model"]["vocab"]
    lines = "".join(f"{piece}\n" for piece in sorted(vocabulary, key=lambda piece: vocabulary[piece]))
    _write(tmp_path, vocab__txt=lines, tokenizer_config__json={"do_lower_case": False})
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.token_id("##o") == vocabulary["##o"]
    assert ours.encode("The dog") == small("wordpiece").encode("The dog")
    lower = Tokenizer.from_vocab(tmp_path / "vocab.txt")
    assert lower.encode("DOG") == lower.encode("dog") == ours.encode("dog") != ours.encode("DOG")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(CheckpointError, match=r"lacks the piece \[UNK\]"):
        Tokenizer.from_vocab(tmp_path / "vocab.txt")


def test_minilm_s_two_files_agree() -> None:
    folder = artefact("minilm")
    complete, plain = Tokenizer.from_folder(folder), Tokenizer.from_vocab(folder / "vocab.txt")
    for text in TEXTS:
        assert plain.encode(text) == complete.encode(text), text
        assert plain.decode(plain.encode(text)) == complete.decode(complete.encode(text))
