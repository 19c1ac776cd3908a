"""SentencePiece's normalisation rules: which characters become which, compiled into a `.model` file.

The rules are a double-array trie over UTF-8 (the Darts layout) and a table of replacements. At each place the longest
rule that fits is applied, else one character is copied. The `Precompiled` normaliser of `tokenizers` reads the same
rules but applies them by grapheme and so loses combining marks (`Ａ́` becomes `A`); a `.model` is read here as
SentencePiece reads it.
"""

from __future__ import annotations

import base64
import itertools
import re
import struct
from collections.abc import Collection
from typing import Any

from vitral.errors import CheckpointError

_MAX_KEY = 32  # characters; the longest published rule has 18
_MAX_KNOWN = 100_000  # strings whose way through the trie is remembered


class Charsmap:
    """The rules, and a search that passes over text that no rule touches. Calling it is linear in the text.

    Layout of the bytes: the trie's size in bytes as uint32, its units (uint32 each), then the replacements, each ended
    by a 0 byte. In a unit, bit 31 marks a leaf whose lower bits are the replacement's place; else bits 0-7 are the
    label, bit 8 says that a leaf follows, and bits 10-30 are the way to the children (times 256 where bit 9 is set).

    Args:
        compiled: the bytes in `NormalizerSpec.precompiled_charsmap`.
        kept: user-defined pieces, which no rule changes.
    """

    def __init__(self, compiled: bytes, kept: Collection[str] = ()) -> None:
        try:
            size = struct.unpack_from("<I", compiled)[0]
            self._units: tuple[int, ...] = struct.unpack_from(f"<{size // 4}I", compiled, 4)
            self._texts = compiled[4 + size :]
        except struct.error as error:
            raise _damaged(error) from error
        if not self._units or not self._texts.endswith(b"\0"):
            raise _damaged("it ends early")
        self._compiled = compiled
        self._kept = re.compile("|".join(re.escape(piece) for piece in sorted(kept, key=len, reverse=True)) or r"(?!)")
        self._known: dict[str, tuple[int | None, str | None]] = {"": (self._children(0), None)}

    def __call__(self, text: str) -> str:
        """`text` with the rules applied."""
        singles = [character for character in set(text) if self._follow(character)[1] is not None]
        pairs = [first + second for first, second in set(itertools.pairwise(text)) if self._lives(first, second)]
        if not singles and not pairs:
            return text
        candidate = re.compile("|".join((*map(re.escape, (*pairs, *singles)), self._kept.pattern)))
        out: list[str] = []
        done = 0
        while (found := candidate.search(text, done)) is not None:
            start = found.start()
            size, new = self._longest(text, start)
            out += (text[done:start], new)
            done = start + size
        return "".join((*out, text[done:]))

    def as_json(self) -> dict[str, Any]:
        """The rules as a step of tokenizer.json's normaliser."""
        return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(self._compiled).decode("ascii")}

    def _longest(self, text: str, start: int) -> tuple[int, str]:
        """How many characters the longest rule at `start` takes, and what they become; one unchanged if none fits."""
        kept = self._kept.match(text, start)
        if kept:
            return len(kept[0]), kept[0]
        best = (1, text[start])
        for end in range(start + 1, min(start + _MAX_KEY, len(text)) + 1):
            node, new = self._follow(text[start:end])
            if new is not None:
                best = (end - start, new)
            if node is None:
                break
        return best

    def _lives(self, first: str, second: str) -> bool:
        return self._follow(first)[0] is not None and self._follow(first + second) != (None, None)

    def _follow(self, key: str) -> tuple[int | None, str | None]:
        """Where the trie goes on after `key` (None: nowhere), and what `key` itself becomes (None: no rule)."""
        if key not in self._known:
            if len(self._known) >= _MAX_KNOWN:
                self._known = {"": self._known[""]}
            node = self._follow(key[:-1])[0]
            self._known[key] = (None, None) if node is None else self._step(node, key[-1].encode("utf-8"))
        return self._known[key]

    def _step(self, node: int, character: bytes) -> tuple[int | None, str | None]:
        new: str | None = None
        for byte in character:
            place = node ^ byte
            if place >= len(self._units) or self._units[place] & 0x800000FF != byte:
                return None, None
            leaf = self._units[place] >> 8 & 1
            node = self._children(place)
            new = self._replacement(node) if leaf else None
        return node, new

    def _children(self, place: int) -> int:
        unit = self._units[place]
        return place ^ (unit >> 10 << ((unit & 1 << 9) >> 6))

    def _replacement(self, leaf: int) -> str:
        try:
            start = self._units[leaf] & 0x7FFFFFFF
            return self._texts[start : self._texts.index(0, start)].decode("utf-8")
        except (IndexError, ValueError) as error:
            raise _damaged(error) from error


def _damaged(cause: object) -> CheckpointError:
    return CheckpointError(f"precompiled_charsmap is damaged ({cause})", "Fetch the file again")
