"""SentencePiece's normalisation rules: which characters become which, compiled into a `.model` file.

The rules are a double-array trie over UTF-8 (the Darts layout) and a table of replacements. At each place the longest
rule that fits is applied, else one character is copied. The `Precompiled` normaliser of `tokenizers` reads the same
rules but applies them by grapheme and so loses combining marks (`Ａ́` becomes `A`); a `.model` is read here as
SentencePiece reads it.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Collection
from typing import Any

from vitral.errors import CheckpointError

_MAX_RULES = 4_000_000


class Charsmap:
    """The rules as a table, and a search that passes over text that no rule touches.

    Args:
        compiled: the bytes in `NormalizerSpec.precompiled_charsmap`.
        kept: user-defined pieces, which no rule changes.
    """

    def __init__(self, compiled: bytes, kept: Collection[str] = ()) -> None:
        self._compiled = compiled
        self._rules = {**_rules(compiled), **{piece: piece for piece in kept}}
        self._longest = max(map(len, self._rules), default=0)
        single = {key for key in self._rules if len(key) == 1}
        first = {key[0] for key in self._rules if len(key) > 1} - single
        second = {key[1] for key in self._rules if len(key) > 1}
        self._candidate = re.compile(f"{_class(single)}|{_class(first)}(?={_class(second)})")

    def __call__(self, text: str) -> str:
        """`text` with the rules applied. Linear in its length."""
        out: list[str] = []
        done = 0
        while (found := self._candidate.search(text, done)) is not None:
            start = found.start()
            size = self._match(text, start)
            out += (text[done:start], self._rules[text[start : start + size]] if size else text[start])
            done = start + max(size, 1)
        return "".join((*out, text[done:]))

    def _match(self, text: str, start: int) -> int:
        """The length of the longest rule that fits at `start`, 0 for none."""
        return next((size for size in range(self._longest, 0, -1) if text[start : start + size] in self._rules), 0)

    def as_json(self) -> dict[str, Any]:
        """The rules as a step of tokenizer.json's normaliser."""
        return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(self._compiled).decode("ascii")}


def _class(characters: Collection[str]) -> str:
    return f"[{''.join(map(re.escape, sorted(characters)))}]" if characters else "(?!)"


def _rules(compiled: bytes) -> dict[str, str]:
    """Every rule of the trie, by walking it.

    Layout: the trie's size in bytes as uint32, its units (uint32 each), then the replacements, each ended by a 0 byte.
    In a unit, bit 31 marks a leaf whose lower bits are the replacement's place; else bits 0-7 are the label, bit 8 says
    that a leaf follows, bit 9 scales the offset in bits 10-30 by 256.
    """
    try:
        size = struct.unpack_from("<I", compiled)[0]
        units = struct.unpack_from(f"<{size // 4}I", compiled, 4)
        texts = compiled[4 + size :]
        rules: dict[str, str] = {}
        stack = [(_offset(units[0]), b"")]
        while stack:
            node, key = stack.pop()
            for label in range(1, 256):
                place = node ^ label
                if place >= len(units) or units[place] & 0x800000FF != label:
                    continue
                unit, longer = units[place], key + bytes([label])
                child = place ^ _offset(unit)
                if unit >> 8 & 1:
                    start = units[child] & 0x7FFFFFFF
                    rules[longer.decode("utf-8")] = texts[start : texts.index(0, start)].decode("utf-8")
                stack.append((child, longer))
            if len(rules) > _MAX_RULES or len(key) > 64:
                raise ValueError("the trie does not end")
    except (struct.error, IndexError, ValueError) as error:
        raise CheckpointError(f"precompiled_charsmap is damaged ({error})", "Fetch the file again") from error
    return rules


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 1 << 9) >> 6)
