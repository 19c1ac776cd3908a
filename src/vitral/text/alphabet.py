"""The byte alphabet of byte-level BPE: one printable character for each of the 256 bytes.

GPT-2 wrote its vocabulary in this alphabet so that merges could be kept in a text file (a space is `Ġ`, a newline
`Ċ`). Bytes that are printable Latin-1 characters stand for themselves, the others take the code points from 256 on.
"""

from __future__ import annotations

from collections.abc import Iterable


def _alphabet() -> list[str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


CHARACTER_OF_BYTE: list[str] = _alphabet()
BYTE_OF_CHARACTER: dict[str, int] = {character: byte for byte, character in enumerate(CHARACTER_OF_BYTE)}
_SPELL = {byte: character for byte, character in enumerate(CHARACTER_OF_BYTE)}


def spell(data: bytes) -> str:
    """Bytes written in the alphabet: `b" \\n"` is "ĠĊ"."""
    return data.decode("latin-1").translate(_SPELL)


def unspell(piece: str) -> bytes:
    """The bytes of a piece written in the alphabet; a piece with any other character stands for its own UTF-8."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in piece])
    except KeyError:
        return piece.encode("utf-8")


def all_splits(pieces: Iterable[tuple[str, float]]) -> list[tuple[str, str]]:
    """The merges that make a BPE out of pieces and their ranks (lower first; any order in).

    Rank-based tokenizers (tiktoken, SentencePiece BPE) join any two neighbours whose union is a piece, lowest rank
    first; merge-based ones name the pairs. Naming every way to cut every piece in two pieces, in order of rank, is the
    same rule: a merge's place in the list is the rank of what it makes.
    """
    rank = dict(pieces)
    merges: list[tuple[str, str]] = []
    for piece in sorted(rank, key=lambda piece: rank[piece]):
        cuts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges.extend(pair for pair in cuts if pair[0] in rank and pair[1] in rank)
    return merges
