"""`vitral tokenizer show` and `vitral tokenizer train`."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Core
from tokenizers import models

from tests.artefacts import artefact
from vitral import Tokenizer

TEXT = "O gato perseguiu o rato. O rato fugiu do gato, e o gato dormiu.\n" * 30


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, "utf-8")
    return path


def test_show_is_what_encode_does(run: Any, tiny: Path) -> None:
    explained = run("tokenizer", "show", "o gato e o rato", "--model", tiny, "--json").json
    ids = Tokenizer.from_folder(tiny).encode("o gato e o rato", add_special=False)
    assert explained["ids"] == ids and explained["text"] == "o gato e o rato"
    shown = run("tokenizer", "show", "o gato e o rato", "--model", tiny).out
    assert [word for word in ("normalise", "split", "merges", "ids") if word not in shown] == []
    assert all(str(id) in shown for id in ids)


def test_show_reads_stdin(run: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("olá".encode()), encoding="utf-8"))
    assert run("tokenizer", "show", "--model", tiny, "--json").json["text"] == "olá"


def test_show_reads_no_weights(run: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitral.weights.safetensors import SafetensorsFolder

    monkeypatch.setattr(SafetensorsFolder, "read", lambda *_: pytest.fail("a weight was read"))
    assert run("tokenizer", "show", "o", "--model", tiny).code == 0


@pytest.mark.parametrize(
    ("name", "file"),
    [("qwen3", "tokenizer.json"), ("mistral_common", "tokenizer.model.v1"), ("tiktoken", "cl100k_base.tiktoken")],
)
def test_show_by_file(run: Any, tmp_path: Path, name: str, file: str) -> None:
    source = artefact(name) / file
    path = tmp_path / file.removesuffix(".v1")
    path.write_bytes(source.read_bytes())
    explained = run("tokenizer", "show", "O gato", "--model", path, "--json").json
    assert 2 <= len(explained["ids"]) <= 6


def test_show_by_gguf(run: Any) -> None:
    explained = run("tokenizer", "show", "O gato perseguiu o rato", "--model", artefact("smollm2"), "--json").json
    assert explained["ids"] == [63, 310, 6401, 33576, 32116, 101, 263, 4309, 95]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_train(run: Any, corpus: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "tokenizer"
    size = 300 if kind == "bpe" else 60
    made = run(
        "tokenizer", "train", corpus, "--kind", kind, "--vocab-size", size, "--lowercase", "--out", out, "--json"
    )
    tokenizer = Tokenizer.from_folder(out)
    assert made.json == {"path": str(out), "kind": kind, "vocab_size": tokenizer.vocab_size, "asked": size}
    assert tokenizer.vocab_size <= size
    assert tokenizer.encode("GATO") == tokenizer.encode("gato")
    assert len(tokenizer.encode("gato", add_special=False)) < 4
    assert run("tokenizer", "show", "o gato", "--model", out).code == 0


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_train_says_when_the_text_gives_fewer_ids(run: Any, corpus: Path, tmp_path: Path, options: list[str]) -> None:
    made = run("tokenizer", "train", corpus, "--vocab-size", 9000, "--out", tmp_path / "short", *options)
    size = Tokenizer.from_folder(tmp_path / "short").vocab_size
    assert size < 9000 and made.err.splitlines()[-1] == f"the text gives {size} of the 9000 ids asked for"
    whole = run("tokenizer", "train", corpus, "--vocab-size", 260, "--out", tmp_path / "whole", *options)
    assert whole.code == 0 and "the text gives" not in whole.err


@pytest.mark.parametrize("verb", ["show", "train"])
def test_each_verb_has_examples_of_its_own(run: Any, verb: str) -> None:
    shown = run("tokenizer", verb, "-h").out.partition("Examples:")[2].split("\n")[1:]
    examples = [line for line in shown if line.strip()]
    assert examples and all(f"vitral tokenizer {verb} " in line for line in examples)


def test_train_options_reach_the_tokenizer(run: Any, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer"
    options = ["--form", "NFKC", "--strip-accents", "--squeeze-spaces", "--special", "<|im_start|>"]
    assert run("tokenizer", "train", corpus, "--vocab-size", 300, *options, "--out", out).code == 0
    tokenizer = Tokenizer.from_folder(out)
    assert tokenizer.encode("ﬁm  né") == tokenizer.encode("fim ne")
    assert tokenizer.encode("<|im_start|>", allow_special=True)[0] in tokenizer.special_ids


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["{corpus}", "--vocab-size", "10"], "vocab_size is 10"),
        (["{corpus}", "--kind", "words"], "--kind"),
        (["{corpus}", "--form", "NFD"], "--form"),
        (["{nowhere}"], "does not exist. Check its name"),
        (["{folder}"], "is a folder. Name the text files in it"),
        (["/dev/null"], "is not a regular file"),
        (["{latin}", "--vocab-size", "300"], "is not UTF-8"),
    ],
)
def test_wrong_requests(run: Any, corpus: Path, tmp_path: Path, args: list[str], said: str) -> None:
    (tmp_path / "latin.txt").write_bytes("ação".encode("latin-1"))
    paths = {"corpus": corpus, "nowhere": tmp_path / "nowhere.txt", "latin": tmp_path / "latin.txt", "folder": tmp_path}
    outcome = run("tokenizer", "train", *(arg.format(**paths) for arg in args), "--out", tmp_path / "out")
    assert outcome.code == 2 and said in outcome.error
    assert not (tmp_path / "out").exists()


def test_train_overwrites_nothing(run: Any, corpus: Path) -> None:
    outcome = run("tokenizer", "train", corpus, "--out", corpus.parent)
    assert outcome.code == 2 and "exists and is not empty" in outcome.error and corpus.read_text() == TEXT


def test_train_looks_at_its_place_first(run: Any, corpus: Path) -> None:
    outcome = run("tokenizer", "train", corpus, "--out", corpus / "below")
    assert outcome.code == 2 and "corpus.txt' is a file" in outcome.error and outcome.err.count("\n") == 1


def test_a_text_outside_the_vocabulary(run: Any, tmp_path: Path) -> None:
    core = Core(models.Unigram([("a", -1.0)], unk_id=None, byte_fallback=False))
    core.save(str(tmp_path / "tokenizer.json"))
    assert run("tokenizer", "show", "a", "--model", tmp_path / "tokenizer.json", "--json").json["ids"] == [0]
    outcome = run("tokenizer", "show", "zz", "--model", tmp_path / "tokenizer.json")
    assert outcome.code == 2 and "unknown token" in outcome.error and outcome.out == ""


def test_a_file_that_is_no_tokenizer(run: Any, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"")
    assert "a tokenizer file ends in" in run("tokenizer", "show", "o", "--model", tmp_path / "x.bin").error
