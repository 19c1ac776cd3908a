"""The Tokenizer itself: special tokens, roles, bad text, saving."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Core

from tests.artefacts import artefact
from tests.text.samples import CORPUS, TEXTS, small
from vitral.errors import VitralError
from vitral.text.frame import set_frame
from vitral.text.tokenizer import Tokenizer


@pytest.mark.parametrize("text", TEXTS[:60], ids=range(60))
def test_byte_level_round_trip(text: str) -> None:
    tokenizer = small("bpe")
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_ids_are_those_of_the_library(kind: str) -> None:
    tokenizer = small(kind)
    core = Core.from_str(tokenizer.to_json())
    for text in TEXTS:
        if not any(special in text for special in tokenizer.control_tokens):
            assert tokenizer.encode(text) == core.encode(text).ids, text


def test_typed_special_tokens_stay_text() -> None:
    tokenizer = small("bpe")
    text = "a<|im_end|>b<|endoftext|><|im_start|>system"
    ids = tokenizer.encode(text)
    assert tokenizer.special_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == text
    opened = tokenizer.encode(text, allow_special=True)
    assert [id for id in opened if id in tokenizer.special_ids] == [
        tokenizer.token_id(token) for token in ("<|im_end|>", "<|endoftext|>", "<|im_start|>")
    ]
    assert opened == Core.from_str(tokenizer.to_json()).encode(text).ids


def test_a_vocabulary_that_spells_its_special_tokens_does_not_leak() -> None:
    """Unigram and ignore_merges reach a special token through the vocabulary, past the library's own switch."""
    tokenizer = small("unigram")
    text = "rato </s> <unk> <pad> gato"
    core = Core.from_str(tokenizer.to_json())
    core.encode_special_tokens = True
    assert tokenizer.eos_id in core.encode(text, add_special_tokens=False).ids  # the switch alone is not enough
    ids = tokenizer.encode(text, add_special=False)
    assert {tokenizer.eos_id, tokenizer.pad_id}.isdisjoint(ids)
    assert tokenizer.encode(text) == [*ids, tokenizer.eos_id]
    assert tokenizer.encode("rato e gato") == core.encode("rato e gato").ids


def test_whole_words_do_not_leak_either() -> None:
    core = Core(models.BPE({"<": 0, "s": 1, ">": 2, "<s>": 3, "a": 4}, [], ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(["<s>"])
    assert Tokenizer(core).encode("a <s> a") == [4, 0, 1, 2, 4]


def test_markers_that_a_file_does_not_flag_are_special_too() -> None:
    core = Core.from_str(small("bpe").to_json())
    core.add_tokens([AddedToken("<｜User｜>", normalized=True), AddedToken("<think>", normalized=False)])
    before = core.to_str()
    tokenizer = Tokenizer(core)
    user, think = (tokenizer.token_id(token) for token in ("<｜User｜>", "<think>"))
    assert user not in tokenizer.encode("x <｜User｜> y")
    assert think in tokenizer.encode("x <think> y")  # as in transformers
    assert user in tokenizer.encode("x <｜User｜> y", allow_special=True)
    assert tokenizer.decode([user]) == "<｜User｜>"  # unflagged: it is not skipped
    assert json.loads(tokenizer.to_json()) == json.loads(before)


def test_special_tokens_that_strip_spaces_do_so_by_slot_too() -> None:
    core = Core.from_str(small("bpe").to_json())
    core.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False)])
    text = "o gato  <mask>  o rato"
    expected = Core.from_str(core.to_str()).encode(text).ids
    assert Tokenizer(core).encode(text, allow_special=True) == expected


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_a_prefix_is_put_where_the_library_puts_it(scheme: str) -> None:
    """Encoding the stretches between special tokens one by one would put a prefix into each."""
    core = Core.from_str(small("unigram").to_json())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    core.add_special_tokens(["<x>"])
    text = "<x>o gato<x>o rato <x>"
    expected = Core.from_str(core.to_str()).encode(text).ids
    assert Tokenizer(core).encode(text, allow_special=True) == expected


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff"])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_lone_surrogate_is_no_text(kind: str, text: str) -> None:
    with pytest.raises(VitralError, match="lone surrogate at character"):
        small(kind).encode(text)


def test_not_a_string() -> None:
    with pytest.raises(VitralError, match="bytes"):
        small("bpe").encode(b"abc")  # type: ignore[arg-type]


def test_empty_text() -> None:
    assert small("bpe").encode("") == []
    cls, sep = small("wordpiece").cls_id, small("wordpiece").sep_id
    assert small("wordpiece").encode("") == [cls, sep]
    assert small("bpe").decode([]) == ""


def test_pairs_have_segments() -> None:
    tokenizer = small("wordpiece")
    core = Core.from_str(tokenizer.to_json())
    ids, segments = tokenizer.encode_pair("o gato", "o rato [SEP]")
    assert ids.count(tokenizer.sep_id) == 2  # the typed one stays text
    ids, segments = tokenizer.encode_pair("o gato", "o rato")
    expected = core.encode("o gato", "o rato")
    assert (ids, segments) == (expected.ids, expected.type_ids)


def test_roles_and_readable_tokens() -> None:
    tokenizer = small("bpe")
    assert tokenizer.bos_id == tokenizer.eos_id == tokenizer.token_id("<|endoftext|>")
    assert tokenizer.pad_id is None and tokenizer.cls_id is None
    face = tokenizer.encode("🙂")
    if len(face) > 1:
        assert tokenizer.token_text(face[0]).startswith(("<0xF0>",))
    assert tokenizer.token_text(tokenizer.encode(" a")[0]) == " a"
    assert tokenizer.token_text(tokenizer.eos_id or 0) == "<|endoftext|>"
    assert small("wordpiece").token_text(small("wordpiece").token_id("##o") or 0) == "o"


def test_a_bare_file_is_read_by_the_usual_spellings(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(small("unigram").to_json(), "utf-8")
    bare = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert (bare.bos_id, bare.eos_id, bare.unk_id, bare.pad_id) == (3, 1, 2, 0)


def test_training_limits_in_a_file_cut_nothing() -> None:
    core = Core.from_str(small("wordpiece").to_json())
    core.enable_truncation(4)
    core.enable_padding(length=16)
    text = CORPUS[0]
    assert Tokenizer(core).encode(text) == small("wordpiece").encode(text)


def test_threads_share_one_tokenizer() -> None:
    tokenizer = small("bpe")
    expected = [tokenizer.encode(text) for text in TEXTS]
    wrong: list[str] = []

    def work() -> None:
        for text, ids in zip(TEXTS, expected, strict=True):
            if tokenizer.encode(text) != ids or tokenizer.encode(text, allow_special=True) is None:
                wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_saved_tokenizer_opens_in_transformers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = small(kind)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    for text in TEXTS[:80]:
        assert again.encode(text) == tokenizer.encode(text)
        if not any(special in text for special in tokenizer.control_tokens):
            assert theirs(text).input_ids == tokenizer.encode(text)
    for role in ("bos", "eos", "pad", "unk", "cls", "sep", "mask"):
        assert getattr(theirs, f"{role}_token_id") == getattr(tokenizer, f"{role}_id") == getattr(again, f"{role}_id")
    assert len(theirs) == tokenizer.vocab_size == again.vocab_size


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.replace", _refuse)
    with pytest.raises(OSError, match="no space"):
        small("bpe").save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _refuse(*_: object) -> None:
    raise OSError("no space left")


def test_a_normaliser_that_changes_lengths() -> None:
    core = Core(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.Fuse()
    assert Tokenizer(core).encode("A b") == [0, 1]


REAL = ["qwen3", "deepseek_v3", "llama3", "llama3_1", "gemma3", "wordllama", "t5", "minilm"]


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_give_the_library_s_ids_and_texts(name: str) -> None:
    folder = artefact(name)
    tokenizer, core = Tokenizer.from_folder(folder), Core.from_file(str(folder / "tokenizer.json"))
    core.no_truncation()
    core.no_padding()
    for text in TEXTS:
        if any(special in text for special in tokenizer.control_tokens):
            continue
        ids = core.encode(text).ids
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.decode(ids) == core.decode(ids), text
        assert tokenizer.decode(ids, skip_special=False) == core.decode(ids, skip_special_tokens=False), text


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_cannot_be_made_to_speak_special_tokens(name: str) -> None:
    tokenizer = Tokenizer.from_folder(artefact(name))
    refused = (tokenizer.special_ids | {tokenizer.token_id(token) for token in tokenizer.control_tokens}) - {
        tokenizer.unk_id
    }
    for token in sorted(tokenizer.control_tokens)[:300]:
        assert refused.isdisjoint(tokenizer.encode(f"a {token}{token} b", add_special=False)), token
        assert refused.isdisjoint(tokenizer.encode(token, add_special=False)), token


def test_a_vocabulary_without_an_unknown_token() -> None:
    """The library raises a bare Exception for what it cannot spell, also for the probes of the constructor."""
    tokenizer = Tokenizer(Core(models.Unigram([("b", -1.0), ("c", -1.5)], unk_id=None, byte_fallback=False)))
    assert tokenizer.encode("bcb") == [0, 1, 0]
    for call in (lambda: tokenizer.encode("zz"), lambda: tokenizer.encode_pair("b", "zz")):
        with pytest.raises(VitralError, match=r"the vocabulary cannot spell the text \(.*unk_id.*\)\. "):
            call()


def test_a_frame_is_found_by_letters_the_vocabulary_has() -> None:
    core = Core(models.Unigram([("<s>", 0.0), ("</s>", 0.0), ("b", -1.0)], unk_id=None, byte_fallback=False))
    core.add_special_tokens(["<s>", "</s>"])
    set_frame(core, before=[0], after=[1])
    assert Tokenizer(core).encode("bb") == [0, 2, 2, 1]
