"""The told steps lead to the ids that the tokenizer gives, and each is one that its vocabulary allows."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Core

from tests.artefacts import artefact
from tests.text.samples import CORPUS, TEXTS, small
from vitral.text.normalizer import Normalizer
from vitral.text.tokenizer import Tokenizer
from vitral.text.trainer import train

SENTENCE = "O gato perseguiu o rato"


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_the_words_end_in_the_ids(kind: str) -> None:
    for text in TEXTS[:80]:
        if any(special in text for special in small(kind).control_tokens):
            continue
        explained = small(kind).explain(text)
        assert [id for word in explained.words for id in word.ids] == list(explained.ids), text
        assert list(explained.ids) == small(kind).encode(text, add_special=False)


def test_merges_are_replayed_in_order_of_rank() -> None:
    tokenizer = small("bpe")
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_json())["model"]["merges"]]
    steps_seen = 0
    for text in [SENTENCE, *CORPUS, *TEXTS[:60]]:
        for word in tokenizer.explain(text).words:
            symbols = list(word.spelling)
            for step in word.steps:
                possible = [merges.index(pair) for pair in pairwise(symbols) if pair in merges]
                assert step.rank == min(possible) and merges[step.rank] == (step.left, step.right)
                at = next(i for i in range(len(symbols)) if tuple(symbols[i : i + 2]) == (step.left, step.right))
                symbols[at : at + 2] = [step.left + step.right]
                assert tuple(symbols) == step.pieces
                steps_seen += 1
            if word.steps:
                assert symbols == list(word.pieces)
    assert steps_seen > 100


def test_the_longest_match_and_the_best_path() -> None:
    word = next(word for word in small("wordpiece").explain("gatos").words)
    assert [step.kind for step in word.steps] == ["match"] * len(word.pieces) and word.steps[-1].right == ""
    assert "".join(step.left.removeprefix("##") for step in word.steps) == "gatos"
    unknown = small("wordpiece").explain("\u0e01").words[0]
    assert [step.kind for step in unknown.steps] == ["unknown"]
    path = small("unigram").explain(SENTENCE)
    scores = dict(json.loads(small("unigram").to_json())["model"]["vocab"])
    steps = [step for word in path.words for step in word.steps]
    assert [step.score for step in steps] == [scores[step.left] for step in steps]


def test_stages_of_normalisation_are_told() -> None:
    tokenizer = train("bpe", CORPUS, 300, normalizer=Normalizer(form="NFKC", lowercase=True, squeeze_spaces=True))
    explained = tokenizer.explain(" Aﬁ  B ")
    assert [stage.text for stage in explained.stages] == [" Afi  B ", " afi  b ", " afi b ", "afi b"]
    assert explained.normalized == "afi b" and explained.text == " Aﬁ  B "


def test_added_tokens_are_whole_words() -> None:
    core = Core.from_str(small("bpe").to_json())
    core.add_tokens([AddedToken("<tool>", normalized=False)])
    explained = Tokenizer(core).explain("a<tool>b")
    assert [word.text for word in explained.words] == ["a", "<tool>", "b"]
    assert [id for word in explained.words for id in word.ids] == list(explained.ids)


def test_bytes_are_readable() -> None:
    explained = small("bpe").explain(" ã🙂")
    assert explained.readable("Ġ") == "␣"
    assert explained.readable("Ã£") == "ã"
    assert explained.readable("Ã") == "<0xC3>"
    assert small("unigram").explain("a").readable("▁a") == "␣a"


def test_long_words_and_empty_texts() -> None:
    explained = small("bpe").explain("x" * 5000)
    assert [id for word in explained.words for id in word.ids] == list(explained.ids)
    assert small("bpe").explain("").words == ()


def test_it_is_plain_data() -> None:
    again: dict[str, Any] = json.loads(json.dumps(small("bpe").explain(SENTENCE).to_dict()))
    assert again["text"] == SENTENCE and again["words"][0]["pieces"]


@pytest.mark.parametrize("name", ["t5", "wordllama", "qwen3", "minilm"])
def test_real_tokenizers(name: str) -> None:
    tokenizer = Tokenizer.from_folder(artefact(name))
    for text in (SENTENCE, "não 🙂 <think>\n", "Hello, world!"):
        explained = tokenizer.explain(text)
        assert [id for word in explained.words for id in word.ids] == list(explained.ids)
