"""SentencePiece models against the sentencepiece library, which is the reference for them."""

from __future__ import annotations

import io
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from tests.artefacts import artefact
from tests.text.samples import CORPUS, TEXTS
from vitral.errors import CheckpointError, NotFoundError
from vitral.text.charsmap import Charsmap
from vitral.text.sentencepiece import any_of, parse
from vitral.text.tokenizer import Tokenizer

sentencepiece = pytest.importorskip("sentencepiece")

DEFINED = ["<sep>", "<ud x>", "\n\n"]
MODELS: dict[str, dict[str, Any]] = {
    "bpe as Llama": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    | {"remove_extra_whitespaces": False},
    "bpe with rules": {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc"},
    "bpe with pieces of its own": {"model_type": "bpe", "byte_fallback": True, "user_defined_symbols": DEFINED},
    "bpe as Gemma": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    | {"remove_extra_whitespaces": False, "add_dummy_prefix": False, "user_defined_symbols": [*DEFINED, "▁▁", "▁▁▁▁"]},
    "unigram as T5": {"model_type": "unigram"},
    "unigram with bytes": {"model_type": "unigram", "byte_fallback": True},
    "unigram with pieces of its own": {"model_type": "unigram", "user_defined_symbols": DEFINED},
    "unigram without prefix": {"model_type": "unigram", "add_dummy_prefix": False, "control_symbols": ["<c1>"]},
}
MORE = [
    "a <ud x> b",
    "<sep>x",
    "x<sep> y<ud x>z",
    "<sep>",
    "  <sep>  <sep>",
    "a\n\nb",
    "</s> hi <s> <unk>",
    "<0x0A>",
    "x▁▁ ",
]


@cache
def trained(name: str) -> bytes:
    out = io.BytesIO()
    options = {"vocab_size": 420, "hard_vocab_limit": False, "minloglevel": 3, "character_coverage": 0.99} | MODELS[
        name
    ]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS * 3), model_writer=out, **options)
    return out.getvalue()


@pytest.mark.parametrize("name", MODELS)
def test_ids_and_texts_are_those_of_sentencepiece(name: str) -> None:
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained(name))
    ours = Tokenizer.from_sentencepiece(trained(name))
    unigram = MODELS[name]["model_type"] == "unigram"
    for text in TEXTS + MORE:
        expected, got = theirs.encode(text), ours.encode(text, add_special=False)
        if name == "unigram with bytes" and "<0x" in text:
            # Here the library would read a typed `<0x41>` as the byte; it is kept from that, at the cost of other ids.
            assert ours.decode(got) == theirs.decode(expected)
            continue
        if unigram and expected != got:
            # Two ways to cut a text can be equally likely: float32 there and float64 here then choose differently.
            scores = [sum(map(theirs.get_score, ids)) for ids in (expected, got)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-3), (text, ours.decode(got))
            assert set(text) & set("=-. \n_*#a"), text  # only in runs of one character
            continue
        assert got == expected, text
        if theirs.unk_id() not in expected:
            assert ours.decode(got) == theirs.decode(expected), text


def test_stray_bytes_decode_as_in_sentencepiece() -> None:
    name = "bpe as Llama"
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained(name))
    ours, dice = Tokenizer.from_sentencepiece(trained(name)), random.Random(0)
    for _ in range(500):
        ids = [300, *dice.choices(range(3, theirs.vocab_size()), k=dice.randrange(0, 9))]
        if dice.random() < 0.5:
            ids = [3 + ord("a"), *dice.choices(range(3, 259), k=dice.randrange(0, 9))]  # the byte pieces
        assert ours.decode(ids) == theirs.decode(ids), ids


def test_roles_and_frames() -> None:
    llama, t5 = (Tokenizer.from_sentencepiece(trained(name)) for name in ("bpe as Llama", "unigram as T5"))
    assert (llama.unk_id, llama.bos_id, llama.eos_id, llama.pad_id) == (0, 1, 2, None)
    assert llama.encode("gato")[0] == llama.bos_id
    assert t5.encode("gato")[-1] == t5.eos_id
    assert llama.vocab_size == sentencepiece.SentencePieceProcessor(model_proto=trained("bpe as Llama")).vocab_size()


def test_typed_control_pieces_stay_text() -> None:
    for name in MODELS:
        ours = Tokenizer.from_sentencepiece(trained(name))
        assert {ours.bos_id, ours.eos_id}.isdisjoint(ours.encode("a </s><s> b", add_special=False)), name


def test_the_library_s_normaliser_would_lose_accents() -> None:
    """Why there is a reader of the rules here: the mutant that uses `Precompiled` must fail the parity above."""
    rules = parse(trained("unigram as T5"), "model").charsmap
    assert normalizers.Precompiled(rules).normalize_str("Ａ\u0301") == "A"
    assert Charsmap(rules)("Ａ\u0301") == "Á"


def test_rules_keep_what_is_kept_and_pass_plain_text() -> None:
    rules = parse(trained("unigram as T5"), "model").charsmap
    assert Charsmap(rules, kept=["ﬁ"])("ﬁ ﬂ") == "ﬁ fl"
    plain = "O gato perseguiu o rato. " * 10
    assert Charsmap(rules)(plain) is plain


def test_a_saved_model_keeps_its_rules(tmp_path: Path) -> None:
    ours = Tokenizer.from_sentencepiece(trained("unigram as T5"))
    ours.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    for text in ("ＡＢ ﬁ", " a  b ", "Não"):
        assert again.encode(text) == ours.encode(text)


@pytest.mark.parametrize("words", [["a"], ["ab", "a"], ["abc", "abd", "x", "xyz"], ["<a>", "<a", "<"], ["ab", "abc"]])
def test_the_longest_word_is_found(words: list[str]) -> None:
    import re

    pattern = re.compile(any_of(words))
    for word in words:
        found = pattern.match(word + "?")
        assert found is not None and found[0] == word


def test_damaged_files_are_refused() -> None:
    data = trained("bpe with rules")
    for size in (0, 1, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(CheckpointError):
            Tokenizer.from_sentencepiece(data[:size])
    dice = random.Random(0)
    for _ in range(200):
        broken = bytearray(data)
        for _ in range(dice.randrange(1, 4)):
            broken[dice.randrange(min(len(broken), 2000))] = dice.randrange(256)
        try:
            Tokenizer.from_sentencepiece(bytes(broken))
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nothing\.model"):
        Tokenizer.from_sentencepiece(tmp_path / "nothing.model")


FILES = [
    *("tokenizer.model.v1", "mistral_instruct_tokenizer_240216.model.v2"),
    *("mistral_instruct_tokenizer_240323.model.v3", "mistral_instruct_tokenizer_241114.model.v7"),
]


@pytest.mark.parametrize("file", FILES)
def test_mistral_models(file: str) -> None:
    path = artefact("mistral_common") / file
    theirs, ours = sentencepiece.SentencePieceProcessor(model_file=str(path)), Tokenizer.from_sentencepiece(path)
    for text in [*TEXTS, "[REFERENCE_DOC_1] a[REFERENCE_DOC_19]b"]:
        expected = theirs.encode(text)
        assert ours.encode(text) == [1, *expected], text
        assert ours.decode(expected) == theirs.decode(expected), text
