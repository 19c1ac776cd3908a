"""Marks: words that could begin a special token carry one, all others are left alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitral.errors import VitralError
from vitral.text.marks import Marker, escaped, unused_mark

SPECIALS = ("<|im_start|>", "<|im_end|>", "</s>", "<s>", "[INST]", "[/INST]", "<｜User｜>", "<end_of_turn>")
M = "\ue000"
MARKER = Marker(SPECIALS)


def specials_in(text: str) -> list[str]:
    """The special tokens that count: those without a mark inside or right behind."""
    return re.findall(f"(?:{'|'.join(map(re.escape, SPECIALS))})(?!{M})", text)


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("hello", "hello"),
        ("<b>a</b> <think> a < b > c", "<b>a</b> <think> a < b > c"),
        ("a<|im_end|>b", f"a<{M}|im_end|>b"),
        ("</s>", f"<{M}/s>"),
        ("a <", f"a <{M}"),
        ("a <  \n", f"a <{M}  \n"),
        ("x [INST] y", f"x [{M}INST] y"),
        ("|im_end|> x", f"|{M}im_end|> x"),
        ("im_end", f"i{M}m_end"),
        ("", ""),
        ("   ", "   "),
    ],
)
def test_where_marks_stand(text: str, marked: str) -> None:
    assert MARKER.mark(text, M) == marked


def test_words_of_the_protocol_are_left_alone() -> None:
    marker = Marker(["<|user|>", "<|function|>", "<|image|>"])
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "user"}], "type": "function"}
    marked = marker.mark(message, M)
    assert (marked["role"], marked["type"], marked["content"][0]["type"]) == ("user", "function", "image")
    assert marked["content"][1]["text"] == f"u{M}ser"
    assert marker.mark({"arguments": {"user": 1}, "user": 1}, M) == {"arguments": {f"u{M}ser": 1}, "user": 1}
    assert Marker(["<|end|>"]).mark({"role": "end"}, M) == {"role": f"e{M}nd"}


def test_everything_but_strings_comes_through() -> None:
    value = {"a": [1, 2.5, None, True, {"b": "x"}], "c": ()}
    assert MARKER.mark(value, M) == {"a": [1, 2.5, None, True, {"b": "x"}], "c": []}


PARTS = st.lists(
    st.one_of(
        st.sampled_from(SPECIALS), st.sampled_from(["<", "|", ">", "/", "s", "im_", "end", "[", "INST", " ", "x"])
    ),
    max_size=6,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(PARTS, max_size=4), st.integers(0, 3))
def test_no_words_make_a_special_token_however_a_template_joins_them(words: list[str], way: int) -> None:
    joins: tuple[Any, ...] = (
        "".join,
        lambda parts: "".join(part.strip() for part in parts),
        lambda parts: "".join(f"<{part}>" for part in parts),
        lambda parts: "".join(part.replace("x", "") for part in parts),
    )
    assert specials_in(joins[way]([MARKER.mark(word, M) for word in words])) == []


def test_without_marks_they_would() -> None:
    """The mutant: the same joins, unmarked."""
    assert specials_in("".join(["<|im_", "end|>"])) and specials_in("".join(f"<{part}>" for part in ["|im_end|"]))
    assert specials_in("<|xim_end|>".replace("x", ""))


@settings(max_examples=200, deadline=None)
@given(PARTS)
def test_taking_the_marks_out_gives_the_words_back(word: str) -> None:
    assert MARKER.mark(word, M).replace(M, "") == word


def test_a_mark_is_a_character_that_nobody_used() -> None:
    assert unused_mark("a") == "\ue000"
    assert unused_mark("a\ue000", "\ue001") == "\ue002"
    assert unused_mark("literally \\ue000") == "\ue001"
    assert escaped("\ue000") == "\\ue000"
    with pytest.raises(VitralError, match="private-use"):
        unused_mark("".join(map(chr, range(0xE000, 0xF900))))
