"""What `vitral tokenizer show` draws."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.text.samples import small
from vitral.text.show import render

SENTENCE = "O gato perseguiu o rato"


def _draw(kind: str, text: str, *, colour: bool = False, limit: int = 200) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=colour, color_system="standard" if colour else None)
    console.print(render(small(kind).explain(text), limit=limit))
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "headings"),
    [
        ("bpe", ["text", "normalise", "split", "merges", "ids"]),
        ("wordpiece", ["text", "normalise", "split", "longest match", "ids"]),
        ("unigram", ["text", "normalise", "split", "best path", "ids"]),
    ],
)
def test_the_five_parts_in_order(kind: str, headings: list[str]) -> None:
    drawn = _draw(kind, SENTENCE)
    places = [drawn.index(f"{heading} ─") for heading in headings]
    assert places == sorted(places)
    ids = small(kind).encode(SENTENCE, add_special=False)
    assert all(str(id) in drawn[places[-1] :] for id in ids)
    assert f"{len(ids)} tokens for {len(SENTENCE)} characters" in drawn


def test_each_merge_is_shown_with_its_rank() -> None:
    drawn = _draw("bpe", SENTENCE)
    for word in small("bpe").explain(SENTENCE).words:
        for step in word.steps:
            assert f"{step.rank} " in drawn
    assert " + " in drawn and "→" in drawn


def test_bytes_and_control_characters_are_visible() -> None:
    drawn = _draw("bpe", "não\x1b[31m\n🙂")
    assert "bytes 6e c3 a3 6f" in drawn and "f0 9f 99 82" in drawn
    assert "\x1b" not in drawn and "<U+001B>" in drawn and "⏎" in drawn


def test_colour_only_where_there_is_a_terminal() -> None:
    assert "\x1b[" in _draw("bpe", SENTENCE, colour=True)
    assert "\x1b[" not in _draw("bpe", SENTENCE)


def test_a_long_text_is_cut_with_a_word_about_it() -> None:
    assert "more words" in _draw("bpe", SENTENCE * 20, limit=10)
    assert "more words" not in _draw("bpe", SENTENCE)


def test_markup_in_a_text_is_not_markup() -> None:
    assert "[bold]" in _draw("wordpiece", "[bold]x[/bold]").replace("│", "")


def test_an_empty_text() -> None:
    assert "nothing is left" in _draw("bpe", "")
