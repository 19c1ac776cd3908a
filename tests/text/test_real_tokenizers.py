"""Published vocabularies over ten thousand texts: the ids and the texts are those of each tokenizer's own library.

Where a vocabulary is published for tiktoken or SentencePiece, that library is asked; where it is published as a
tokenizer.json, the `tokenizers` library is (texts that spell a special token are left out there: it would obey them,
and ours must not, which test_tokenizer.py checks).
"""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tokenizers import Tokenizer as Core

from tests.artefacts import artefact
from tests.text.many import COUNT, many_texts
from vitral.text.tokenizer import Tokenizer

Ids = Sequence[Sequence[int]]


def _ranks(path: Path) -> dict[bytes, int]:
    rows = (line.split() for line in path.read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in rows}


def _tiktoken(name: str) -> Any:
    """OpenAI's own definition over the file that lies here; nothing is downloaded."""
    tiktoken = pytest.importorskip("tiktoken")
    public = pytest.importorskip("tiktoken_ext.openai_public")
    ranks = _ranks(artefact("tiktoken") / f"{name}.tiktoken")
    with mock.patch.multiple(
        public, load_tiktoken_bpe=lambda *_, **__: ranks, data_gym_to_mergeable_bpe_ranks=lambda **_: ranks
    ):
        return tiktoken.Encoding(**getattr(public, name)())


def _check(
    ours: Tokenizer, texts: Sequence[str], ids: Ids, decoded: Sequence[str], *, exact: Callable[[str], str] | None
) -> None:
    """Ours gives these ids, and of them these texts; `exact` says what must come back of a text, if all of it does."""
    for text, expected, back in zip(texts, ids, decoded, strict=True):
        found = ours.encode(text)
        assert found == list(expected), text
        assert ours.decode(found) == back, text
        if exact is not None:
            assert back == exact(text), text


def _same(text: str) -> str:
    return text


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _spaces(text: str) -> str:
    """SentencePiece writes a space as ▁, so that one that was typed comes back as a space."""
    return text.replace("▁", " ")


@pytest.mark.parametrize(("name", "file"), [("r50k_base", "gpt2"), ("cl100k_base", ""), ("o200k_base", "")])
def test_openai(name: str, file: str) -> None:
    """GPT-2 from its own two files; the later ones from rank files."""
    theirs = _tiktoken(name)
    ours = (
        Tokenizer.from_folder(artefact(file))
        if file
        else Tokenizer.from_tiktoken(artefact("tiktoken") / f"{name}.tiktoken")
    )
    texts = many_texts()
    ids = theirs.encode_ordinary_batch(list(texts), num_threads=1)
    _check(ours, texts, ids, texts, exact=_same)


def test_tekken() -> None:
    tiktoken = pytest.importorskip("tiktoken")
    path = artefact("mistral_common") / "tekken_240911.json"
    spec = json.loads(path.read_text("utf-8"))
    shift, size = spec["config"]["default_num_special_tokens"], spec["config"]["default_vocab_size"]
    ranks = {base64.b64decode(row["token_bytes"]): row["rank"] for row in spec["vocab"][: size - shift]}
    theirs = tiktoken.Encoding("tekken", pat_str=spec["config"]["pattern"], mergeable_ranks=ranks, special_tokens={})
    texts = many_texts()
    ids = [[1, *(id + shift for id in row)] for row in theirs.encode_ordinary_batch(list(texts), num_threads=1)]
    _check(Tokenizer.from_tekken(path), texts, ids, texts, exact=_same)


@pytest.mark.parametrize("file", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"])
def test_mistral_sentencepiece(file: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    path = artefact("mistral_common") / file
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    texts = list(many_texts())
    ids = theirs.encode(texts)
    _check(Tokenizer.from_sentencepiece(path), texts, [[1, *row] for row in ids], theirs.decode(ids), exact=_spaces)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("wordllama", _spaces),
        ("llama3", _same),
        ("qwen3", _nfc),
        ("deepseek_v3", _same),
        ("gemma3", _spaces),
        ("t5", None),
        ("minilm", None),
    ],
)
def test_tokenizer_json(name: str, exact: Callable[[str], str] | None) -> None:
    """Llama 2 and 3, Qwen 3, DeepSeek-V3, Gemma 3, T5 and BERT."""
    ours, theirs = Tokenizer.from_folder(artefact(name)), Core.from_file(str(artefact(name) / "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    texts = [text for text in many_texts() if not any(special in text for special in ours.control_tokens)]
    assert len(texts) > 0.99 * COUNT
    ids = [encoding.ids for encoding in theirs.encode_batch_fast(texts)]
    _check(ours, texts, ids, theirs.decode_batch(ids), exact=exact)
