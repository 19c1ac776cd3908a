"""From pieces back to text, one token at a time, never half a character.

A tokenizer's decoder is a chain of stages. Here each is a small machine that takes a piece when it comes and gives
out what has become certain: the UTF-8 stages hold back the bytes of an unfinished character, all others pass text
straight on. Each push costs the same however long the text is, and the chunks joined are the whole text by
construction: `decode` is the same machine run to its end.

One difference to the `tokenizers` library, where byte pieces (`<0xE2>`) do not add up to valid UTF-8: the library
gives up on the whole run of bytes, here every complete character survives and each stray byte becomes U+FFFD, as in
SentencePiece itself.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from vitral.errors import VitralError
from vitral.text.alphabet import unspell

Pieces = Iterable[str]
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _undecodable(show: Callable[[bytes], str]) -> Callable[[UnicodeError], tuple[str, int]]:
    def handle(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        return show(error.object[error.start : error.end]), error.end

    return handle


EACH_BYTE, SHOW_BYTES = "vitral.each", "vitral.show"
"""How undecodable bytes come out (`errors=` of `bytes.decode`): each as U+FFFD, or as `<0xE2>`."""
codecs.register_error(EACH_BYTE, _undecodable(lambda stray: "\ufffd" * len(stray)))
codecs.register_error(SHOW_BYTES, _undecodable(lambda stray: "".join(f"<0x{byte:02X}>" for byte in stray)))


class Stage(Protocol):
    """One step of a decoder. Pieces in, pieces out, any number of them; `finish` gives what was held back."""

    def push(self, piece: str) -> Pieces: ...
    def finish(self) -> Pieces: ...


class _Stateless:
    """A stage that turns each piece into one other."""

    def __init__(self, change: Callable[[str], str]) -> None:
        self._change = change

    def push(self, piece: str) -> Pieces:
        return (self._change(piece),)

    def finish(self) -> Pieces:
        return ()


class _First:
    """A stage that treats the first piece differently from the others."""

    def __init__(self, first: Callable[[str], str], rest: Callable[[str], str]) -> None:
        self._change, self._rest = first, rest

    def push(self, piece: str) -> Pieces:
        change, self._change = self._change, self._rest
        return (change(piece),)

    def finish(self) -> Pieces:
        return ()


class _ByteLevel:
    """Pieces in the byte alphabet → text. An unfinished character waits for its last byte."""

    def __init__(self, errors: str) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, piece: str) -> Pieces:
        return (self._utf8.decode(unspell(piece)),)

    def finish(self) -> Pieces:
        return (self._utf8.decode(b"", final=True),)


class _ByteFallback:
    """`<0x..>` pieces → text; the other pieces pass through and end the run of bytes."""

    def __init__(self, errors: str) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, piece: str) -> Pieces:
        byte = _BYTE_PIECE.fullmatch(piece)
        if byte:
            text = self._utf8.decode(bytes([int(byte[1], 16)]))
            return (text,) if text else ()
        return (*self.finish(), piece)

    def finish(self) -> Pieces:
        rest = self._utf8.decode(b"", final=True)
        return (rest,) if rest else ()


class _Strip:
    """Takes up to `start` characters off the beginning and `stop` off the end of the whole text."""

    def __init__(self, character: str, start: int, stop: int) -> None:
        self._character, self._start, self._stop = character, start, stop
        self._held = ""

    def push(self, piece: str) -> Pieces:
        while self._start and piece:
            if not piece.startswith(self._character):
                self._start = 0
                break
            piece, self._start = piece[1:], self._start - 1
        text = self._held + piece
        tail = len(text) - len(text.rstrip(self._character))
        cut = len(text) - min(tail, self._stop)
        self._held = text[cut:]
        return (text[:cut],)

    def finish(self) -> Pieces:
        return ()  # what is held are at most `stop` of the characters to take off


class _WordEnds:
    """Pieces that end a word carry a suffix (`</w>`): a space there, except after the last piece."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._held: str | None = None

    def push(self, piece: str) -> Pieces:
        held, self._held = self._held, piece
        return () if held is None else (held.replace(self._suffix, " "),)

    def finish(self) -> Pieces:
        return () if self._held is None else (self._held.replace(self._suffix, ""),)


# What the WordPiece decoder of `tokenizers` undoes, in its order.
_ENGLISH = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


def _cleaned(text: str) -> str:
    """English detokenising: no space before punctuation and contractions."""
    for spaced, joined in _ENGLISH:
        text = text.replace(spaced, joined)
    return text


def _word_piece(row: dict[str, Any]) -> Stage:
    prefix, clean = row["prefix"], _cleaned if row.get("cleanup", True) else str

    def later(piece: str) -> str:
        return clean(piece[len(prefix) :] if piece.startswith(prefix) else f" {piece}")

    return _First(clean, later)


def _metaspace(row: dict[str, Any]) -> Stage:
    mark = row.get("replacement", "▁")
    # Older files say add_prefix_space where newer ones say prepend_scheme.
    prepends = row.get("prepend_scheme", "always" if row.get("add_prefix_space", True) else "never") != "never"
    first = "" if prepends else " "
    return _First(lambda piece: piece.replace(mark, first), lambda piece: piece.replace(mark, " "))


def _replace(row: dict[str, Any]) -> Stage:
    content: str = row["content"]
    pattern: dict[str, str] = row["pattern"]
    if "String" in pattern:
        return _Stateless(lambda piece: piece.replace(pattern["String"], content))
    found = re.compile(pattern["Regex"])
    return _Stateless(lambda piece: found.sub(lambda _: content, piece))


def _stage(row: dict[str, Any], errors: str | None, fused: bool) -> Stage | None:
    """The machine for one row of the decoder; None for a row that changes nothing here."""
    kind = row["type"]
    if kind == "ByteLevel":
        return _ByteLevel(errors or "replace")
    if kind == "ByteFallback":
        return _ByteFallback(errors or EACH_BYTE)
    if kind == "Strip":
        character, start, stop = row["content"], row["start"], row["stop"]
        if fused:
            return _Strip(character, start, stop)

        def strip_one(piece: str) -> str:
            single = _Strip(character, start, stop)
            return "".join(single.push(piece))

        return _Stateless(strip_one)
    if kind == "Fuse":
        return None  # pieces are joined as they come
    if kind == "BPEDecoder":
        return _WordEnds(row["suffix"])
    simple = {"WordPiece": _word_piece, "Metaspace": _metaspace, "Replace": _replace}
    if kind not in simple:
        raise VitralError(f"decoder.type is {kind!r}, which is not known here", "Use a tokenizer of a language model")
    return simple[kind](row)


def stages(decoder: dict[str, Any] | None, errors: str | None = None) -> list[Stage]:
    """The machines of a decoder as tokenizer.json writes it.

    `errors` says how undecodable bytes show, if not as U+FFFD. Without a decoder the pieces are words, and spaces stand
    between them.
    """
    if decoder is None:
        return [_First(str, lambda piece: f" {piece}")]
    rows = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    chain: list[Stage] = []
    fused = False
    for row in rows:
        if row["type"] == "Sequence":
            raise VitralError("decoder holds a Sequence inside a Sequence", "Write its stages in one list")
        stage = _stage(row, errors, fused)
        if stage is not None:
            chain.append(stage)
        fused = fused or row["type"] in ("Fuse", "ByteLevel")
    return chain


class IncrementalDecoder:
    """Text out of ids as they come. `push(id)` gives what became certain, `finish()` the rest; then it is used up."""

    def __init__(self, piece_of: Callable[[int], str | None], chain: list[Stage]) -> None:
        self._piece_of = piece_of
        self._chain = chain

    def push(self, id: int) -> str:
        """What token `id` adds to the text: "" while a character is incomplete, and for ids that say nothing."""
        piece = self._piece_of(id)
        return "" if piece is None else self.push_piece(piece)

    def push_piece(self, piece: str, stage: int = 0) -> str:
        pieces: Pieces = (piece,)
        for machine in self._chain[stage:]:
            pieces = [out for each in pieces for out in machine.push(each)]
        return "".join(pieces)

    def finish(self) -> str:
        """The text still held back; bytes that never became a character show as U+FFFD."""
        text = ""
        for place, machine in enumerate(self._chain):
            text += "".join(self.push_piece(piece, place + 1) for piece in machine.finish())
        return text
