"""Rank files against tiktoken."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.artefacts import artefact
from tests.text.samples import TEXTS, small
from vitral.errors import CheckpointError, NotFoundError, VitralError
from vitral.text.alphabet import BYTE_OF_CHARACTER, CHARACTER_OF_BYTE, spell, unspell
from vitral.text.splits import CL100K, GPT2, O200K, for_oniguruma
from vitral.text.tokenizer import Tokenizer

tiktoken = pytest.importorskip("tiktoken")


def _ranks() -> dict[bytes, int]:
    """The trained byte-level BPE as ranks: bytes first, then what its merges make, in order."""
    spec = json.loads(small("bpe").to_json())["model"]
    letters = [bytes([byte]) for byte in range(256)]
    made = [unspell("".join(merge)) for merge in spec["merges"]]
    return {token: rank for rank, token in enumerate(dict.fromkeys([*letters, *made]))}


def _write(path: Path, ranks: dict[bytes, int]) -> Path:
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()), "ascii")
    return path


@pytest.mark.parametrize(
    "pattern", [GPT2, CL100K, O200K, r"\p{L}{1,3}+|\s++$|\s+|[^\s\p{L}]++"], ids=["gpt2", "cl", "o", "own"]
)
def test_ids_are_those_of_tiktoken(pattern: str, tmp_path: Path) -> None:
    ranks = _ranks()
    specials = {"<|end|>": len(ranks) + 3, "<|start|>": len(ranks)}  # with a gap
    theirs = tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)
    ours = Tokenizer.from_tiktoken(_write(tmp_path / "own.tiktoken", ranks), pattern=pattern, specials=specials)
    assert ours.vocab_size == theirs.n_vocab
    for text in [*TEXTS, "a <|end|> b"]:
        assert ours.encode(text) == theirs.encode(text, disallowed_special=()), text
        assert ours.encode(text, allow_special=True) == theirs.encode(text, allowed_special="all"), text
        assert ours.decode(ours.encode(text)) == text


def test_merges_alone_would_not_be_enough(tmp_path: Path) -> None:
    """A rank tokenizer joins any pair whose union has a rank; the mutant keeps one pair for each token."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258}
    ours = Tokenizer.from_tiktoken(_write(tmp_path / "own.tiktoken", ranks), pattern=r"\S+|\s+", specials={})
    spec = json.loads(ours.to_json())["model"]
    assert [pair for pair in spec["merges"] if "".join(pair) == "abc"] == [["a", "bc"], ["ab", "c"]]


def test_the_pattern_of_an_unknown_file_must_be_given(tmp_path: Path) -> None:
    path = _write(tmp_path / "own.tiktoken", _ranks())
    with pytest.raises(VitralError, match="pattern"):
        Tokenizer.from_tiktoken(path)


@pytest.mark.parametrize("line", ["YQ==", "YQ== x", "?? 1", "YQ== 1 2"])
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "own.tiktoken"
    path.write_text(f"YQ== 0\n{line}\n")
    with pytest.raises(CheckpointError, match="line 2"):
        Tokenizer.from_tiktoken(path, pattern=GPT2)


def test_special_tokens_may_not_share_ids(tmp_path: Path) -> None:
    path = _write(tmp_path / "own.tiktoken", _ranks())
    with pytest.raises(CheckpointError, match="share an id"):
        Tokenizer.from_tiktoken(path, pattern=GPT2, specials={"<|a|>": 3})
    with pytest.raises(NotFoundError):
        Tokenizer.from_tiktoken(tmp_path / "none", pattern=GPT2)


def test_patterns_are_rewritten_for_the_other_engine() -> None:
    assert for_oniguruma(r"\p{N}{1,3}+|\s++$|[$]|\$") == r"\p{N}{1,3}|\s++\z|[$]|\$"


def test_the_byte_alphabet_is_one_to_one() -> None:
    assert len(set(CHARACTER_OF_BYTE)) == len(BYTE_OF_CHARACTER) == 256
    assert all(character.isprintable() for character in CHARACTER_OF_BYTE)
    assert unspell(spell(bytes(range(256)))) == bytes(range(256))
    assert spell(b" \n") == "ĠĊ"
    assert unspell("a b") == b"a b"  # an added token, outside the alphabet


def _published(name: str, path: Path) -> Any:
    import tiktoken_ext.openai_public as public

    ranks = {
        base64.b64decode(token): int(rank) for token, rank in (line.split() for line in path.read_bytes().splitlines())
    }
    original = public.load_tiktoken_bpe
    public.load_tiktoken_bpe = lambda *_args, **_kwargs: ranks  # the file lies here; nothing is downloaded
    try:
        return tiktoken.Encoding(**getattr(public, name)())
    finally:
        public.load_tiktoken_bpe = original


@pytest.mark.parametrize("name", ["r50k_base", "p50k_base", "cl100k_base", "o200k_base"])
def test_published_files(name: str) -> None:
    path = artefact("tiktoken") / f"{name}.tiktoken"
    theirs, ours = _published(name, path), Tokenizer.from_tiktoken(path)
    assert ours.vocab_size == theirs.n_vocab
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, disallowed_special=()), text
        assert ours.encode(text, allow_special=True) == theirs.encode(text, allowed_special="all"), text
        assert ours.decode(ours.encode(text)) == text


def test_tekken() -> None:
    path = artefact("mistral_common") / "tekken_240911.json"
    spec, ours = json.loads(path.read_text("utf-8")), Tokenizer.from_tekken(path)
    ranks = {base64.b64decode(row["token_bytes"]): row["rank"] for row in spec["vocab"][: 131072 - 1000]}
    theirs = tiktoken.Encoding("tekken", pat_str=spec["config"]["pattern"], mergeable_ranks=ranks, special_tokens={})
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (131072, 1, 2)
    for text in TEXTS:
        assert ours.encode(text) == [1, *(id + 1000 for id in theirs.encode_ordinary(text))], text


def test_a_broken_tekken_file(tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text('{"config": {}}')
    with pytest.raises(CheckpointError, match="default_vocab_size"):
        Tokenizer.from_tekken(tmp_path / "tekken.json")


def test_gpt2_s_own_files() -> None:
    ours = Tokenizer.from_folder(artefact("gpt2"))
    theirs = _published("r50k_base", artefact("tiktoken") / "r50k_base.tiktoken")
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, disallowed_special=()), text
