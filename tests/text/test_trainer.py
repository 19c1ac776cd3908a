"""Training: each kind learns, comes out the same twice, and refuses what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.text.samples import CORPUS, small
from vitral.errors import NotFoundError, VitralError
from vitral.text.normalizer import Normalizer
from vitral.text.trainer import ROLES, train

KINDS = ("bpe", "wordpiece", "unigram")
SIZES = {"bpe": 400, "wordpiece": 250, "unigram": 200}


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_the_words_it_sees(kind: Any) -> None:
    tokenizer = small(kind)
    seen, unseen = (
        len(tokenizer.encode(text, add_special=False)) for text in ("the dog sleeps on", "eht god speels no")
    )
    assert seen < unseen


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_give_the_same_tokenizer(kind: Any) -> None:
    assert train(kind, CORPUS, SIZES[kind]).to_json() == train(kind, iter(CORPUS), SIZES[kind]).to_json()


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_come_first(kind: Any) -> None:
    tokenizer = train(kind, CORPUS, SIZES[kind], specials=["<|x|>", "<|y|>"])
    names = list(dict.fromkeys((*ROLES[kind].values(), "<|x|>", "<|y|>")))
    assert [tokenizer.token(id) for id in range(len(names))] == names
    assert tokenizer.special_ids == frozenset(range(len(names)))
    assert tokenizer.vocab_size <= SIZES[kind]
    for role, name in ROLES[kind].items():
        assert getattr(tokenizer, f"{role}_id") == names.index(name)


def test_bpe_encodes_bytes_it_never_saw() -> None:
    tokenizer = train("bpe", ["a"], 257)
    assert tokenizer.decode(tokenizer.encode("日本🙂\x00")) == "日本🙂\x00"


def test_the_normaliser_becomes_part_of_the_tokenizer() -> None:
    normalizer = Normalizer(form="NFKC", lowercase=True, strip_accents=True, squeeze_spaces=True)
    for kind in KINDS:
        tokenizer = train(kind, CORPUS, SIZES[kind], normalizer=normalizer)  # type: ignore[arg-type]
        assert tokenizer.encode(" AÇÃO  ﬁ ") == tokenizer.encode("acao fi")
        assert tokenizer.encode("gato") != tokenizer.encode("rato")


def test_files_and_texts_mix(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(CORPUS), "utf-8")
    mixed = train("bpe", [path, "x" * 10], 400)
    assert json.loads(mixed.to_json())["model"]["merges"]
    (tmp_path / "latin.txt").write_bytes("ação\n".encode("latin-1"))
    with pytest.raises(VitralError, match=r"latin\.txt is not UTF-8"):
        train("bpe", [tmp_path / "latin.txt"], 400)
    with pytest.raises(NotFoundError, match=r"none\.txt does not exist"):
        train("bpe", [tmp_path / "none.txt"], 400)
    with pytest.raises(VitralError, match="is a folder"):
        train("bpe", [tmp_path], 400)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("bpr", CORPUS, 400), "Did you mean 'bpe'"),
        (("bpe", CORPUS, 256), "vocab_size is 256"),
        (("bpe", CORPUS, True), "vocab_size is True"),
        (("unigram", CORPUS, 10), "vocab_size 10 "),
        (("wordpiece", CORPUS, 20), "letters of the texts alone"),
        (("bpe", [], 400), "no text"),
        (("bpe", ["", ""], 400), "no text"),
        (("bpe", "text", 400), "single str"),
        (("bpe", ["a\ud800"], 400), "no valid text"),
        (("bpe", [3], 400), "no valid text"),
    ],
)
def test_what_it_refuses(arguments: tuple[Any, Any, Any], fault: str) -> None:
    with pytest.raises(VitralError, match=fault):
        train(*arguments)


def test_a_longer_vocabulary_needs_fewer_tokens() -> None:
    short, long = train("bpe", CORPUS, 280), small("bpe")
    assert len(long.encode(CORPUS[1])) < len(short.encode(CORPUS[1]))
