"""Marks in what users typed, so that a rendered chat still tells their words from the template's.

A chat template pastes the users' words and the special tokens into one string. Before it does, every place in the
users' words where a special token could begin gets a mark: one character that occurs nowhere else in the chat. A
special token in the rendered text with a mark in it (or right behind it) was not written by the template alone; it
stays text, and all marks are taken out again. Words in which no special token begins are not touched, so templates
that trim, split or compare them see just what was typed.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection
from typing import Any

from vitral.errors import VitralError

_PRIVATE_USE = range(0xE000, 0xF900)
_GENERIC = "<[{(/|"  # characters with which ordinary markup begins too
_FREE_NAMES = ("arguments", "properties")  # objects whose field names the user chose
_USUAL_ROLES = frozenset(
    {
        *("system", "developer", "user", "assistant", "model", "tool", "function", "ipython"),
        *("environment", "observation", "documents", "context"),
    }
)


class Marker:
    """Puts marks into messages, for one set of special tokens.

    A mark stands behind the first character of a word that
    (1) begins like a special token (with as much of it as tells it from ordinary markup),
    (2) ends with the beginning of one, which a neighbouring text could complete,
    (3) begins with the end of one, or (4) is the middle of one, which the template could complete on the left.
    """

    def __init__(self, specials: Collection[str]) -> None:
        beginnings = {_beginning(special) for special in specials if special}
        self._begins = re.compile("|".join(map(re.escape, sorted(beginnings, key=len, reverse=True))) or r"(?!)")
        self._partial = {start[:size] for start in beginnings for size in range(1, len(start))}
        self._ends = {special[size:] for special in specials for size in range(1, len(special) - 1)}
        self._longest = max(map(len, specials), default=0)
        self._insides = "\0".join(special[1:-1] for special in specials)

    def mark(self, value: Any, mark: str, key: str = "") -> Any:
        """`value` (JSON) with marks in all its strings, names of fields included."""
        if isinstance(value, str):
            return self._text(value, mark, key)
        if isinstance(value, dict):
            names = "" if key in _FREE_NAMES else "type"
            return {self._text(name, mark, names): self.mark(item, mark, name) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mark(item, mark, key) for item in value]
        return value

    def _text(self, text: str, mark: str, key: str) -> str:
        if not text:
            return text
        places = {match.start() + 1 for match in self._begins.finditer(text)}
        bare = text.strip()
        start = text.find(bare)
        for size in range(1, min(len(bare), self._longest) + 1):
            if bare[-size:] in self._partial:
                places.add(start + len(bare) - size + 1)
            if size > 1 and bare[:size] in self._ends:
                places.add(start + 1)
        if bare and len(bare) < self._longest and bare in self._insides and not _is_keyword(key, bare):
            places.add(start + 1)
        if not places:
            return text
        cuts = [0, *sorted(places), len(text)]
        return mark.join(text[left:right] for left, right in itertools.pairwise(cuts))


def _is_keyword(key: str, word: str) -> bool:
    """Whether a word belongs to the protocol rather than to the user: templates compare it."""
    return key == "type" or (key == "role" and (word in _USUAL_ROLES or len(word) == 1))


def _beginning(special: str) -> str:
    """So much of a special token that ordinary markup does not begin the same way: `<|`, `</s`, `[I`."""
    size = next((place + 1 for place, char in enumerate(special) if place and char not in _GENERIC), len(special))
    if special[:2] in ("<|", "<｜"):
        size = 2
    return special[:size]


def unused_mark(*texts: str) -> str:
    """A private-use character that none of the texts holds, in itself or escaped as JSON does it."""
    taken = set().union(*(set(text) for text in texts))
    for code in _PRIVATE_USE:
        if chr(code) not in taken and not any(escaped(chr(code)) in text for text in texts):
            return chr(code)
    raise VitralError("messages use every private-use character of Unicode", "Leave some out", param="messages")


def escaped(mark: str) -> str:
    """The mark as a template may write it with `tojson(ensure_ascii=True)`."""
    return json.dumps(mark)[1:-1]
