"""The tokenizer part of a GGUF export: what llama.cpp's converter writes, and a refusal where it has no name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.artefacts import artefact
from vitral.errors import VitralError
from vitral.text.tokenizer import Tokenizer
from vitral.weights.gguf import GGUFFile
from vitral.weights.gguf_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, tokenizer_fields


def _byte_level(*cutters: dict[str, Any], use_regex: bool = True) -> dict[str, Any]:
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
    return {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        "added_tokens": [
            {"id": 3, "content": "<s>", "special": True},
            {"id": 4, "content": "<tool>", "special": False},
        ],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cutters, last]} if cutters else last,
    }


def test_the_fields_of_smollm2_are_those_of_its_file() -> None:
    metadata = GGUFFile(artefact("smollm2")).metadata
    tokenizer = Tokenizer.from_gguf(metadata)
    found = tokenizer_fields(
        json.loads(tokenizer.to_json()),
        vocab_size=49152,
        ids={role: getattr(tokenizer, f"{role}_id") for role in ("bos", "eos", "unk", "pad")},
        chat_template=tokenizer.chat_template,
    )
    assert found.pop("tokenizer.ggml.add_eos_token") is False  # the file leaves it out, which means the same
    assert found == {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}


def test_byte_level_tokens_types_and_filling() -> None:
    found = tokenizer_fields(_byte_level(), vocab_size=6, ids={"bos": 3, "eos": None}, chat_template="{{ x }}")
    assert found == {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "ab", "<s>", "<tool>", "[PAD5]"],
        "tokenizer.ggml.token_type": [NORMAL, NORMAL, NORMAL, CONTROL, USER_DEFINED, UNUSED],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.bos_token_id": 3,
        "tokenizer.chat_template": "{{ x }}",
    }


def test_both_spellings_of_merges_are_one() -> None:
    old = _byte_level()
    old["model"]["merges"] = ["a b"]
    assert tokenizer_fields(old, vocab_size=5, ids={}) == tokenizer_fields(_byte_level(), vocab_size=5, ids={})


@pytest.mark.parametrize(("name", "pre"), [("llama3", "llama-bpe"), ("qwen3", "qwen2")])
def test_published_patterns_have_their_names(name: str, pre: str) -> None:
    tokenizer = json.loads((artefact(name) / "tokenizer.json").read_text(encoding="utf-8"))
    size = 1 + max(token["id"] for token in tokenizer["added_tokens"])
    found = tokenizer_fields(tokenizer, vocab_size=size, ids={})
    assert found["tokenizer.ggml.pre"] == pre
    assert len(found["tokenizer.ggml.tokens"]) == len(found["tokenizer.ggml.token_type"]) == size


def test_sentencepiece_scores_keep_the_order_of_the_merges() -> None:
    tokenizer = json.loads((artefact("wordllama") / "tokenizer.json").read_text(encoding="utf-8"))
    found = tokenizer_fields(tokenizer, vocab_size=32000, ids={"bos": 1})
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    score = dict(zip(tokens, found["tokenizer.ggml.scores"], strict=True))
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.add_space_prefix"]) == ("llama", True)
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert types[:4] == [UNKNOWN, CONTROL, CONTROL, BYTE]
    assert types.count(BYTE) == 256
    first: dict[str, float] = {}
    for merge in tokenizer["model"]["merges"]:
        first.setdefault(merge.replace(" ", ""), score[merge.replace(" ", "")])
    ranked = list(first.values())
    assert ranked == sorted(ranked, reverse=True)
    assert len(set(ranked)) == len(ranked) > 29000


def test_wordpiece_marks_the_start_instead_of_the_continuation() -> None:
    tokenizer = {
        "model": {"type": "WordPiece", "vocab": {"[CLS]": 0, "cat": 1, "##s": 2}},
        "added_tokens": [{"id": 0, "content": "[CLS]", "special": True}],
        "normalizer": {"type": "BertNormalizer", "lowercase": True},
        "post_processor": {"type": "BertProcessing"},
    }
    found = tokenizer_fields(tokenizer, vocab_size=3, ids={"cls": 0})
    assert found["tokenizer.ggml.tokens"] == ["[CLS]", "▁cat", "s"]
    assert found["tokenizer.ggml.model"] == "bert"
    assert found["tokenizer.ggml.add_bos_token"] is True
    tokenizer["normalizer"]["lowercase"] = False  # type: ignore[index]
    with pytest.raises(VitralError, match="keeps capitals"):
        tokenizer_fields(tokenizer, vocab_size=3, ids={})


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "type Unigram"),
        ({"model": {"type": "BPE", "vocab": {}}}, "type BPE"),
        (_byte_level({"type": "Split", "pattern": {"Regex": "x+"}}, use_regex=False), "Split → ByteLevel has no name"),
        (_byte_level({"type": "Punctuation"}), "Punctuation → ByteLevel has no name"),
    ],
)
def test_what_llama_cpp_has_no_name_for_is_refused(tokenizer: dict[str, Any], message: str) -> None:
    with pytest.raises(VitralError, match=message):
        tokenizer_fields(tokenizer, vocab_size=5, ids={})


def test_more_tokens_than_rows_are_refused() -> None:
    with pytest.raises(VitralError, match="ids up to 4, the embedding 4 rows"):
        tokenizer_fields(_byte_level(), vocab_size=4, ids={})
