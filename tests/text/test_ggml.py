"""Tokenizers in GGUF metadata: each kind against what it was made from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer as Core
from tokenizers import pre_tokenizers

from tests.artefacts import artefact
from tests.text.samples import TEXTS, small
from vitral.errors import CheckpointError
from vitral.text.splits import cut
from vitral.text.tokenizer import Tokenizer


def bpe_metadata(**changes: Any) -> dict[str, Any]:
    spec = json.loads(small("bpe").to_json())
    vocabulary = spec["model"]["vocab"]
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    fields = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3 if token in small("bpe").control_tokens else 1 for token in tokens],
        "merges": [" ".join(merge) for merge in spec["model"]["merges"]],
        "bos_token_id": 0,
        "eos_token_id": 2,
    } | changes
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items() if value is not None}


def test_byte_level_bpe() -> None:
    ours = Tokenizer.from_gguf(bpe_metadata())
    for text in TEXTS:
        assert ours.encode(text) == small("bpe").encode(text), text
        assert ours.decode(ours.encode(text)) == text
    assert (ours.bos_id, ours.eos_id) == (0, 2)
    assert ours.special_ids == small("bpe").special_ids
    assert ours.chat_template is None


def test_the_cut_matters() -> None:
    """The mutant of a wrong `pre`: digits stay together, and some text must show it."""
    assert small("bpe").decode(Tokenizer.from_gguf(bpe_metadata(pre="smollm")).encode("x12345")) == "x12345"
    splits = [cut(name).pre_tokenizer().pre_tokenize_str(" a12345") for name in ("gpt-2", "smollm", "llama-bpe")]
    assert [[piece for piece, _ in split] for split in splits] == [
        ["Ġa", "12345"],
        ["Ġa", "1", "2", "3", "4", "5"],
        ["Ġa", "123", "45"],
    ]


@pytest.mark.parametrize(
    ("changes", "begins", "ends"),
    [
        ({}, False, False),
        ({"add_bos_token": True}, True, False),
        ({"add_eos_token": True}, False, True),
        ({"pre": "llama-bpe"}, True, False),  # llama.cpp's default for this one
        ({"pre": "llama-bpe", "add_bos_token": False}, False, False),
    ],
)
def test_bos_and_eos(changes: dict[str, Any], begins: bool, ends: bool) -> None:
    ours = Tokenizer.from_gguf(bpe_metadata(**changes))
    ids = ours.encode("gato")
    assert (ids[0] == ours.bos_id, ids[-1] == ours.eos_id) == (begins, ends)


def test_chat_templates_come_along() -> None:
    metadata = bpe_metadata() | {"tokenizer.chat_template": "A", "tokenizer.chat_template.tool_use": "B"}
    assert Tokenizer.from_gguf(metadata).chat_templates == {"default": "A", "tool_use": "B"}


def test_user_defined_tokens_are_matched_in_text() -> None:
    metadata = bpe_metadata()
    tokens = metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], "<tool>"]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], 4]
    ours = Tokenizer.from_gguf(metadata)
    assert len(tokens) - 1 in ours.encode("a <tool> b")
    assert len(tokens) - 1 not in ours.special_ids


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_rows_that_only_fill_up_the_embedding_are_no_tokens(model: str) -> None:
    """Nothing may generate [PAD5]; a gap among the tokens keeps the ids after it where they are."""
    metadata = bpe_metadata(model=model)
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    used = len(tokens) + 2
    tokens += ["[GAP]", "<tool>", "[PAD1]", "[PAD2]", "[PAD3]"]
    kinds += [5, 4, 5, 5, 5]
    scores = {"tokenizer.ggml.scores": [float(-n) for n in range(len(tokens))]}
    ours = Tokenizer.from_gguf(metadata | scores)
    assert ours.vocab_size == used
    assert [ours.token_id(token) for token in ("[GAP]", "<tool>", "[PAD1]")] == [used - 2, used - 1, None]
    kept = Tokenizer.from_gguf(metadata | scores | {"tokenizer.ggml.padding_token_id": used + 1})
    assert (kept.vocab_size, kept.pad_id) == (used + 2, used + 1)  # a token with a role is in use


def test_a_vocabulary_of_fillers_alone_is_refused() -> None:
    with pytest.raises(CheckpointError, match="tokens"):
        Tokenizer.from_gguf(bpe_metadata(token_type=[5] * len(bpe_metadata()["tokenizer.ggml.tokens"]),
                                         bos_token_id=None, eos_token_id=None))  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": None}, "tokenizer.ggml.model is missing"),
        ({"model": "gtp2"}, "Did you mean 'gpt2'"),
        ({"model": 3}, "tokenizer.ggml.model is a int"),
        ({"pre": "smolm"}, "Did you mean 'smollm'"),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokens": ["a", 3]}, r"tokens\[1\]"),
        ({"tokens": ["a", "a"], "token_type": [1, 1], "merges": []}, "'a' twice"),
        ({"merges": None}, "tokenizer.ggml.merges is missing"),
        ({"merges": ["ab"]}, r"merges\[0\]"),
        ({"merges": ["a zz"]}, "merges do not fit"),
        ({"token_type": [1]}, "token_type has 1 of"),
        ({"bos_token_id": 10**6}, "bos_token_id is 1000000"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
    ],
)
def test_each_fault_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(CheckpointError, match=field) as caught:
        Tokenizer.from_gguf(bpe_metadata(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bpe as Llama", "bpe as Gemma", "unigram as T5"])
def test_sentencepiece_kinds(name: str) -> None:
    pytest.importorskip("sentencepiece")
    from tests.text.test_sentencepiece import MODELS, MORE, trained
    from vitral.text.sentencepiece import parse

    pieces, reference = parse(trained(name), name), Tokenizer.from_sentencepiece(trained(name))
    fields = {
        "model": "t5" if pieces.unigram else "llama",
        "tokens": [
            piece.replace("▁", " ") if kind == 4 else piece
            for piece, kind in zip(pieces.pieces, pieces.kinds, strict=True)
        ],
        "scores": pieces.scores,
        "token_type": pieces.kinds,
        "add_space_prefix": pieces.add_dummy_prefix,
        "remove_extra_whitespaces": pieces.remove_extra_whitespaces,
        "precompiled_charsmap": list(pieces.charsmap),
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    ours = Tokenizer.from_gguf({f"tokenizer.ggml.{key}": value for key, value in fields.items()})
    assert MODELS[name]["model_type"] == ("unigram" if pieces.unigram else "bpe")
    for text in TEXTS + MORE:
        if "<ud x>" in text:
            continue  # a piece with a space inside is spelt differently in the two formats
        assert ours.encode(text) == reference.encode(text), text
        assert ours.decode(ours.encode(text)) == reference.decode(reference.encode(text)), text


def test_bert_kind() -> None:
    spec = json.loads(small("wordpiece").to_json())
    vocabulary = spec["model"]["vocab"]
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    marked = [t if t.startswith("[") and t.endswith("]") else t[2:] if t.startswith("##") else f"▁{t}" for t in tokens]
    ours = Tokenizer.from_gguf({"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": marked})
    core = Core.from_str(small("wordpiece").to_json())
    core.normalizer = json_normalizer(ours)
    for text in TEXTS:
        if not any(special in text for special in ours.control_tokens):
            assert ours.encode(text) == core.encode(text).ids, text
    assert (ours.cls_id, ours.sep_id) == (vocabulary["[CLS]"], vocabulary["[SEP]"])


def json_normalizer(tokenizer: Tokenizer) -> Any:
    return Core.from_str(tokenizer.to_json()).normalizer


def test_smollm2() -> None:
    gguf = pytest.importorskip("gguf")
    path = artefact("smollm2")
    file = path if path.is_file() else next(path.glob("*.gguf"))
    metadata = {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()}
    ours = Tokenizer.from_gguf(metadata)
    # SmolLM2's tokenizer.json, put together from its parts: digits one by one, then GPT-2's own pre-tokenizer.
    core = Core.from_str(ours.to_json())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for text in TEXTS:
        if not any(special in text for special in ours.control_tokens):
            assert ours.encode(text) == core.encode(text).ids, text
        assert ours.decode(ours.encode(text)) == text
    assert ours.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
    assert (ours.bos_id, ours.eos_id, ours.pad_id, ours.vocab_size) == (1, 2, 2, 49152)
