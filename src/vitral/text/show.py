"""`vitral tokenizer show`: an `Explained` drawn for a terminal. The only file of this room that imports rich."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from vitral.text.explain import Explained, Step, Word

_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_red")


def render(explained: Explained, *, limit: int = 200) -> RenderableType:
    """The way from text to ids, at most `limit` words of it."""
    words = explained.words[:limit]
    parts: list[RenderableType] = [_heading("text"), Text(_printable(explained.text)), _heading("normalise")]
    parts += _stages(explained)
    parts += [_heading("split"), _joined((word.text for word in words), explained)]
    parts.append(_heading({"BPE": "merges", "Unigram": "best path"}.get(explained.method, "longest match")))
    for word in words:
        parts += _word(word, explained)
    parts += [_heading("ids"), _ids(explained, words)]
    if len(explained.words) > limit:
        parts.append(Text(f"… and {len(explained.words) - limit} more words", style="dim"))
    parts.append(Text(f"{len(explained.ids)} tokens for {len(explained.text)} characters", style="dim"))
    return Group(*parts)


def _heading(title: str) -> Rule:
    return Rule(Text(title, style="bold"), align="left", style="dim")


def _stages(explained: Explained) -> list[RenderableType]:
    changed = []
    before = explained.text
    for stage in explained.stages:
        if stage.text != before:
            changed.append(Text.assemble((f"{stage.name}: ", "dim"), _printable(stage.text)))
        before = stage.text
    return [*changed] or [Text("nothing changes", style="dim")]


def _joined(pieces: Iterable[str], explained: Explained) -> Text:
    line = Text()
    for place, piece in enumerate(pieces):
        line.append("│" if place else "", style="dim")
        line.append(_printable(piece.replace(" ", "␣").replace("▁", "␣")), style=_colour(place))
    return line if line else Text("nothing is left", style="dim")


def _word(word: Word, explained: Explained) -> list[Text]:
    lines = [Text.assemble((_readable(explained, word.spelling), "bold"), _bytes(word.text))]
    lines += [Text.assemble("  ", _step(explained, step)) for step in word.steps]
    if not word.steps:
        lines.append(Text.assemble("  ", _pieces(explained, word.pieces)))
    return lines


def _step(explained: Explained, step: Step) -> Text:
    left, right = _readable(explained, step.left), _readable(explained, step.right)
    if step.kind == "merge":
        pair = Text.assemble((left, "cyan"), (" + ", "dim"), (right, "yellow"))
        return Text.assemble((f"{step.rank:>7} ", "dim"), pair, ("  →  ", "dim"), _pieces(explained, step.pieces))
    if step.kind == "match":
        return Text.assemble((left, "green"), (f"  then {right}" if right else "", "dim"))
    if step.kind == "piece":
        return Text.assemble((f"{step.score:>9.3f} ", "dim"), (left, "green"))
    if step.kind == "whole":
        return Text.assemble((left, "green"), ("  is a piece as it is", "dim"))
    return Text.assemble((left, "red"), ("  no piece fits", "dim"))


def _pieces(explained: Explained, pieces: Iterable[str]) -> Text:
    coloured = (Text(_readable(explained, piece), style=_colour(place)) for place, piece in enumerate(pieces))
    return Text(" ").join(coloured)


def _ids(explained: Explained, words: Iterable[Word]) -> Text:
    line = Text()
    pairs = [pair for word in words for pair in zip(word.pieces, word.ids, strict=True)]
    for place, (piece, id) in enumerate(pairs):
        line.append("  " if place else "")
        line.append(f"{_readable(explained, piece)} ", style=_colour(place))
        line.append(str(id), style="bold")
    return line


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]


def _bytes(text: str) -> tuple[str, str]:
    """The bytes of a word with characters beyond ASCII: a piece may hold only some of them."""
    bare = text.replace("▁", " ")
    if bare.isascii() and bare.isprintable():
        return "", ""
    data = bare.encode("utf-8")
    return f"   bytes {data[:24].hex(' ')}" + (" …" if len(data) > 24 else ""), "dim"


def _readable(explained: Explained, spelling: str) -> str:
    return _printable(explained.readable(spelling))


def _printable(text: str) -> str:
    """Control characters and newlines made visible, so that they neither vanish nor move the cursor."""
    return "".join(character if character.isprintable() else _visible(character) for character in text)


def _visible(character: str) -> str:
    return {"\n": "⏎", "\t": "⇥", "\r": "␍"}.get(character) or f"<U+{ord(character):04X}>"
