"""How a text becomes ids, told step by step: normalise → split → merges → ids.

The steps are worked out again here, in plain Python, and end in the pieces that the tokenizer itself gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Core

from vitral.text.alphabet import unspell
from vitral.text.decode import SHOW_BYTES

if TYPE_CHECKING:
    from vitral.text.tokenizer import Tokenizer

MAX_SYMBOLS = 256  # a longer word is shown without its steps


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The text after one stage of normalisation."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step inside a word.

    "merge": `left` and `right` became one, by merge number `rank` of the vocabulary; `pieces` is the word after it.
    "match": `left` was the longest piece that fits (WordPiece), `right` is what remains.
    "piece": `left` is on the best path (Unigram), with its log-probability `score`.
    "whole": the word is itself a piece. "unknown": no piece fits.
    """

    kind: str
    left: str
    right: str = ""
    rank: int | None = None
    score: float | None = None
    pieces: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word after the split, how it was taken apart, and its pieces in the end."""

    text: str
    spelling: str
    """As the vocabulary spells it."""
    steps: tuple[Step, ...]
    pieces: tuple[str, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Explained:
    """The whole way. `ids` are `Tokenizer.encode` of the text without what goes around it."""

    text: str
    method: str
    """BPE, WordPiece, Unigram or WordLevel."""
    stages: tuple[Stage, ...]
    normalized: str
    words: tuple[Word, ...]
    ids: tuple[int, ...]
    byte_level: bool = False
    """Pieces are spelt in the byte alphabet."""

    def readable(self, spelling: str) -> str:
        """A spelling as people read it: spaces as ␣, bytes that make no character on their own as `<0xF0>`."""
        if self.byte_level:
            spelling = unspell(spelling).decode("utf-8", SHOW_BYTES)
        return spelling.replace(" ", "␣").replace("▁", "␣")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Explainer:
    """Explains texts for one tokenizer. Making one reads the merges, which takes a moment for a large vocabulary."""

    def __init__(self, tokenizer: Tokenizer, core: Core, charsmap: Callable[[str], str] | None) -> None:
        self._tokenizer, self._core, self._charsmap = tokenizer, core, charsmap
        self._model: dict[str, Any] = json.loads(core.model.__getstate__())
        self.method: str = self._model["type"]
        self._byte_level = "ByteLevel" in (b"" if core.decoder is None else core.decoder.__getstate__()).decode()
        pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in self._model.get("merges", ()))
        self._ranks: dict[tuple[str, str], int] = {(left, right): rank for rank, (left, right) in enumerate(pairs)}
        added = core.get_added_tokens_decoder()
        whole = [token.content for id, token in added.items() if id < tokenizer.vocab_size and not token.special]
        self._whole = re.compile("|".join(map(re.escape, sorted(whole, key=len, reverse=True))) or r"(?!)")

    def explain(self, text: str) -> Explained:
        ids = tuple(self._tokenizer.encode(text, add_special=False))
        stages = self._stages(text)
        words: list[Word] = []
        done = 0
        for found in self._whole.finditer(text):
            words += [*self._words(text[done : found.start()]), self._added(found[0])]
            done = found.end()
        words += self._words(text[done:])
        normalized = stages[-1].text if stages else text
        return Explained(
            text=text,
            method=self.method,
            stages=stages,
            normalized=normalized,
            words=tuple(words),
            ids=ids,
            byte_level=self._byte_level,
        )

    # ── normalise ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _stages(self, text: str) -> tuple[Stage, ...]:
        stages = []
        for name, change in self._changes():
            text = change(text)
            stages.append(Stage(name=name, text=text))
        return tuple(stages)

    def _changes(self) -> list[tuple[str, Callable[[str], str]]]:
        changes: list[tuple[str, Callable[[str], str]]] = []
        if self._charsmap is not None:
            changes.append(("SentencePiece rules", self._charsmap))
        normalizer = self._core.normalizer
        if normalizer is None:
            return changes
        rows = json.loads(normalizer.__getstate__())
        parts = [normalizer] if rows["type"] != "Sequence" else list(normalizer)
        names = [rows] if rows["type"] != "Sequence" else rows["normalizers"]
        return changes + [(_name(row), part.normalize_str) for row, part in zip(names, parts, strict=True)]

    # ── split ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _words(self, text: str) -> list[Word]:
        for _, change in self._changes():
            text = change(text)
        if not text:
            return []
        splitter = self._core.pre_tokenizer
        spellings = [text] if splitter is None else [piece for piece, _ in splitter.pre_tokenize_str(text)]
        return [self._word(spelling) for spelling in spellings]

    def _word(self, spelling: str) -> Word:
        tokens = self._core.model.tokenize(spelling)
        pieces = tuple(token.value for token in tokens)
        steps = {"BPE": self._merges, "WordPiece": self._matches, "Unigram": self._path}.get(self.method)
        return Word(
            text=unspell(spelling).decode("utf-8", SHOW_BYTES) if self._byte_level else spelling,
            spelling=spelling,
            steps=tuple(steps(spelling, pieces)) if steps else (),
            pieces=pieces,
            ids=tuple(token.id for token in tokens),
        )

    def _added(self, content: str) -> Word:
        id = self._core.token_to_id(content)
        assert id is not None
        step = Step(kind="whole", left=content)
        return Word(text=content, spelling=content, steps=(step,), pieces=(content,), ids=(id,))

    # ── take apart ────────────────────────────────────────────────────────────────────────────────────────────────

    def _merges(self, spelling: str, pieces: Sequence[str]) -> list[Step]:
        """The merges of one word, the lowest rank first and of equals the leftmost."""
        if self._model.get("ignore_merges") and len(pieces) == 1 and spelling in self._model["vocab"]:
            return [Step(kind="whole", left=spelling, pieces=(spelling,))]
        if len(spelling) > MAX_SYMBOLS:
            return []
        symbols = list(spelling)
        steps: list[Step] = []
        while len(symbols) > 1:
            places = range(len(symbols) - 1)
            ranked = [(self._ranks.get((symbols[at], symbols[at + 1]), -1), at) for at in places]
            rank, at = min((pair for pair in ranked if pair[0] >= 0), default=(-1, 0))
            if rank < 0:
                break
            left, right = symbols[at : at + 2]
            symbols[at : at + 2] = [left + right]
            steps.append(Step(kind="merge", left=left, right=right, rank=rank, pieces=tuple(symbols)))
        return steps

    def _matches(self, spelling: str, pieces: Sequence[str]) -> list[Step]:
        if self._tokenizer.unk_id is not None and list(pieces) == [self._tokenizer.token(self._tokenizer.unk_id)]:
            return [Step(kind="unknown", left=spelling)]
        steps, rest = [], spelling
        prefix = self._model.get("continuing_subword_prefix", "##")
        for place, piece in enumerate(pieces):
            rest = rest[len(piece.removeprefix(prefix) if place else piece) :]
            steps.append(Step(kind="match", left=piece, right=rest))
        return steps

    def _path(self, spelling: str, pieces: Sequence[str]) -> list[Step]:
        scores = dict(self._model["vocab"])
        return [
            Step(kind="piece" if piece in scores else "unknown", left=piece, score=scores.get(piece))
            for piece in pieces
        ]


def _name(row: dict[str, Any]) -> str:
    """A stage of a normaliser in a few words."""
    if row["type"] == "Replace":
        pattern = next(iter(row["pattern"].values()))
        return f"replace {pattern!r} by {row['content']!r}"
    if row["type"] == "Prepend":
        return f"put {row['prepend']!r} in front"
    if row["type"] == "BertNormalizer":
        return "BERT: clean" + (", lowercase, no accents" if row.get("lowercase") else "")
    return {"Precompiled": "SentencePiece rules", "StripAccents": "no accents"}.get(row["type"], row["type"])
