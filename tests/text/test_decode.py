"""Streams against the `tokenizers` library, and the promise that chunks joined are the whole."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models

from tests.text.samples import TEXTS, small
from vitral.errors import VitralError
from vitral.text.decode import IncrementalDecoder, stages

PIECES = [
    *("▁O", "▁ga", "to", "▁", "▁▁", "x▁y", "##to", "rato", "Ġgato", "Ċ", "ð", "Ł", "ĻĤ", "Ã", "£", "wor</w>", "ld</w>"),
    *(" .", "n't", "'s", "do not", " ' ", "é", "🙂", "Ã£o", "a b", " ", "  "),
]
DECODERS = {
    "byte level": decoders.ByteLevel(),
    "metaspace": decoders.Metaspace(),
    "metaspace never": decoders.Metaspace(prepend_scheme="never"),
    "wordpiece": decoders.WordPiece(cleanup=True),
    "wordpiece plain": decoders.WordPiece(cleanup=False),
    "bpe": decoders.BPEDecoder(),
    "replace": decoders.Replace("▁", " "),
    "llama": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "strip pieces": decoders.Strip(" ", 1, 0),
}


def _chunks(decoder: Any, pieces: list[str]) -> list[str]:
    rows = None if decoder is None else json.loads(decoder.__getstate__())
    stream = IncrementalDecoder(dict(enumerate(pieces)).get, stages(rows))
    return [stream.push(id) for id in range(len(pieces))] + [stream.finish()]


@pytest.mark.parametrize("name", DECODERS)
def test_chunks_joined_are_what_the_library_decodes(name: str) -> None:
    dice = random.Random(name)
    for _ in range(500):
        pieces = dice.choices(PIECES, k=dice.randrange(0, 9))
        assert "".join(_chunks(DECODERS[name], pieces)) == DECODERS[name].decode(pieces), pieces


@pytest.mark.parametrize(
    ("pieces", "text"),
    [(["   a", " ", "b  ", " "], " a b "), ([" ", " ", " ", " ", " "], " "), (["  "], ""), (["a"], "a"), ([], "")],
)
def test_strip_takes_a_few_from_both_ends_of_the_whole(pieces: list[str], text: str) -> None:
    rows = {
        "type": "Sequence",
        "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 2, "stop": 2}],
    }
    stream = IncrementalDecoder(dict(enumerate(pieces)).get, stages(rows))
    assert "".join([stream.push(id) for id in range(len(pieces))]) + stream.finish() == text


def test_without_a_decoder_pieces_are_words() -> None:
    core = Core(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    assert "".join(_chunks(None, ["a", "b", "a"])) == core.decode([0, 1, 0]) == "a b a"


def test_byte_pieces_become_characters_one_by_one() -> None:
    pieces = [f"<0x{byte:02X}>" for byte in "€🙂".encode()]
    assert _chunks(DECODERS["llama"], ["▁a", *pieces]) == ["a", "", "", "€", "", "", "", "🙂", ""]


def test_a_stray_byte_costs_only_itself() -> None:
    assert "".join(_chunks(DECODERS["llama"], ["<0xE2>", "<0x82>", "<0xAC>", "<0xFF>", "x"])) == "€\ufffdx"
    assert "".join(_chunks(DECODERS["llama"], ["<0xE2>", "<0x82>", "x"])) == "\ufffd\ufffdx"


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_stream_never_shows_half_a_character(kind: str) -> None:
    tokenizer = small(kind)
    for text in TEXTS:
        if "\ufffd" in text:
            continue
        ids = tokenizer.encode(text, add_special=False)
        stream = tokenizer.stream()
        chunks = [stream.push(id) for id in ids] + [stream.finish()]
        assert "".join(chunks) == tokenizer.decode(ids)
        assert not any("\ufffd" in chunk for chunk in chunks), (text, chunks)


def test_decoding_token_by_token_would_show_half_characters() -> None:
    """The mutant: what the test above must be able to catch does happen in these texts."""
    tokenizer = small("bpe")
    naive = [tokenizer.decode([id]) for text in TEXTS for id in tokenizer.encode(text) if "\ufffd" not in text]
    assert any("\ufffd" in chunk for chunk in naive)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_decode_equals_the_library_on_any_ids(kind: str) -> None:
    tokenizer, dice = small(kind), random.Random(1)
    core = Core.from_str(tokenizer.to_json())
    for _ in range(500):
        ids = dice.choices(range(tokenizer.vocab_size), k=dice.randrange(0, 12))
        assert tokenizer.decode(ids) == core.decode(ids)
        assert tokenizer.decode(ids, skip_special=False) == core.decode(ids, skip_special_tokens=False)


def test_a_long_stream_costs_the_same_for_each_token() -> None:
    tokenizer = small("bpe")
    ids = tokenizer.encode("O gato perseguiu o rato 🙂. ") * 4000
    stream, halves = tokenizer.stream(), []
    for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :]):
        began = time.perf_counter()
        for id in half:
            stream.push(id)
        halves.append(time.perf_counter() - began)
    assert halves[1] < 4 * halves[0], halves  # re-decoding the text each time would be thousands of times slower


def test_odd_ids() -> None:
    tokenizer = small("bpe")
    assert tokenizer.decode([tokenizer.vocab_size, 10**9]) == ""  # a padded row of the embedding
    with pytest.raises(VitralError, match="negative"):
        tokenizer.decode([-1])


def test_an_unknown_decoder_is_named() -> None:
    with pytest.raises(VitralError, match="'CTC'"):
        stages({"type": "CTC"})
