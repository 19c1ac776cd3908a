"""Text ↔ ids: one `Tokenizer` over the `tokenizers` library, whatever file the vocabulary came in.

The readers beside this file turn each format into the same two things: a `tokenizers` object, which does the work in
Rust, and the fields of a tokenizer_config.json, which say what the tokens are for.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Core

from vitral.errors import VitralError
from vitral.text.decode import SHOW_BYTES, IncrementalDecoder, stages
from vitral.text.special import SpecialTokens, named_tokens, register, role_ids

if TYPE_CHECKING:
    from vitral.text.charsmap import Charsmap
    from vitral.text.explain import Explained

_NO_LIMIT = 10**9  # files write 1e30 where they mean that no length was ever set


class Tokenizer:
    """Text to ids and back. Immutable and safe to share between threads.

    `bos_id`, `eos_id`, `unk_id`, `pad_id`, `cls_id`, `sep_id`, `mask_id` are None where the vocabulary has no such
    token. `special_ids` are the tokens that `decode` can skip; `chat_templates` maps names to Jinja sources.

    Args:
        core: the `tokenizers` object; it becomes this object's own.
        config: fields of a tokenizer_config.json; None where there is none, then the usual spellings are looked for.
        charsmap: normalisation rules that come before those of `core`.
    """

    def __init__(self, core: Core, config: Mapping[str, Any] | None = None, charsmap: Charsmap | None = None) -> None:
        core.no_truncation()  # a file may carry the limits of its training run; nothing is ever cut here
        core.no_padding()
        self.config: dict[str, Any] = dict(config or {})
        register(core, self.config)
        self._roles = role_ids(core, self.config, guess=not self.config)
        self._special = SpecialTokens(core, self._roles.get("unk"))
        self._core = core
        self._charsmap = charsmap
        self._decoder = None if core.decoder is None else json.loads(core.decoder.__getstate__())
        self._strict_core: Core | None = None
        self._lock = threading.Lock()
        self._before, self._after = self._frame()
        self.vocab_size: int = self._special.size
        """Number of ids, added tokens included."""
        self.special_ids: frozenset[int] = self._special.ids
        self.control_tokens: frozenset[str] = frozenset(self._special.id_of)
        """The spellings that text from outside can never turn into: special tokens, and markers spelt `<|…|>`."""
        self.chat_templates: dict[str, str] = _chat_templates(self.config.get("chat_template"))
        length = self.config.get("model_max_length")
        self.model_max_length: int | None = int(length) if isinstance(length, int) and 0 < length < _NO_LIMIT else None

    bos_id = property(lambda self: self._roles.get("bos"))
    eos_id = property(lambda self: self._roles.get("eos"))
    unk_id = property(lambda self: self._roles.get("unk"))
    pad_id = property(lambda self: self._roles.get("pad"))
    cls_id = property(lambda self: self._roles.get("cls"))
    sep_id = property(lambda self: self._roles.get("sep"))
    mask_id = property(lambda self: self._roles.get("mask"))

    @property
    def chat_template(self) -> str | None:
        """The default chat template's source; None for a base model."""
        return self.chat_templates.get("default")

    @cached_property
    def longest_piece(self) -> int | None:
        """Most characters of a text that one id can stand for; None where normalising may make a text shorter."""
        if self._core.normalizer is not None or self._charsmap is not None:
            return None
        return max((len(piece) for piece in self._core.get_vocab()), default=None)

    @property
    def named_tokens(self) -> dict[str, str]:
        """`bos_token`, `eos_token` … as spelt: what a chat template may print under these names."""
        named = {f"{role}_token": self.token(id) for role, id in self._roles.items()}
        return named_tokens(self.config) | named

    # ── text → ids ────────────────────────────────────────────────────────────────────────────────────────────────

    def encode(self, text: str, *, add_special: bool = True, allow_special: bool = False) -> list[int]:
        """The ids of `text`.

        Args:
            text: any text; the empty one gives only what `add_special` adds.
            add_special: also what the model's post-processor puts around a text (BOS; CLS and SEP).
            allow_special: special tokens spelt out in `text` become themselves. Never set it for text from outside.

        Raises:
            VitralError: `text` is no valid text (a lone surrogate, or not a string).
        """
        hidden: list[int] = []
        if allow_special:
            text, hidden = self._special.hide(text)
        ids = self._special.reveal(self._encode_plain(text), hidden)
        return [*self._before, *ids, *self._after] if add_special else ids

    def encode_marked(self, text: str, mark: str) -> list[int]:
        """The ids of a rendered chat: special tokens count, except those with `mark` (one character) in or behind them.

        See `chat.py`; nothing is added around the text, since a chat template writes its own BOS.
        """
        plain, hidden = self._special.hide(text, mark)
        return self._special.reveal(self._encode_plain(plain), hidden)

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """Ids and segment ids (0 and 1) of two texts in one input, as BERT reads them."""
        core = self._core
        first, second = self._mapped(first), self._mapped(second)
        for text in (first, second):
            if self._special.leaked(self._raw_ids(core, text), text):
                core = self._strict()
        encoding = core.encode(first, second, add_special_tokens=True)
        return encoding.ids, encoding.type_ids

    def _encode_plain(self, text: str) -> list[int]:
        text = self._mapped(text)
        ids = self._raw_ids(self._core, text)
        if self._special.leaked(ids, text):
            ids = self._raw_ids(self._strict(), text)
            if self._special.leaked(ids, ""):  # what is unknown now is unknown by right
                raise VitralError("the text spells a special token in a way that cannot be told apart", "Reword it")
        return ids

    def _mapped(self, text: str) -> str:
        if self._charsmap is None:
            return text
        try:
            return self._charsmap(text)
        except (TypeError, UnicodeEncodeError):
            raise _not_text(text) from None

    @staticmethod
    def _raw_ids(core: Core, text: str) -> list[int]:
        try:
            return core.encode(text, add_special_tokens=False).ids
        except TypeError:
            raise _not_text(text) from None
        except Exception as error:  # bare: so the library says that something is unknown and no token stands for that
            raise VitralError(f"the vocabulary cannot spell the text ({error})", "Leave out what it lacks") from error

    def _strict(self) -> Core:
        with self._lock:
            if self._strict_core is None:
                self._strict_core = self._special.strict(self._core)
            return self._strict_core

    def _frame(self) -> tuple[list[int], list[int]]:
        """What the post-processor puts before and after a text, found by looking: it is the same for all texts."""
        for probe in self._probes():
            with suppress(VitralError):  # not every vocabulary can spell every text
                bare = self._raw_ids(self._core, probe)
                full = self._core.encode(probe, add_special_tokens=True).ids
                for start in range(len(full) - len(bare) + 1):
                    if bare and full[start : start + len(bare)] == bare:
                        return full[:start], full[start + len(bare) :]
        return self._core.encode("", add_special_tokens=True).ids, []

    def _probes(self) -> Iterator[str]:
        """Texts to try a tokenizer with: letters that nearly all have, then the vocabulary's own pieces."""
        yield from ("a", "0", " ")
        yield from (piece for piece in self._core.get_vocab() if piece not in self._special.id_of)

    # ── ids → text ────────────────────────────────────────────────────────────────────────────────────────────────

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`. Bytes that make no character become U+FFFD; an id the vocabulary lacks says nothing."""
        decoder = self.stream(skip_special=skip_special)
        return "".join([decoder.push(id) for id in ids]) + decoder.finish()

    def stream(self, *, skip_special: bool = True) -> IncrementalDecoder:
        """A decoder that takes ids one by one; its chunks joined are `decode` of them all."""
        skipped = self.special_ids if skip_special else frozenset()

        def piece_of(id: int) -> str | None:
            return None if id in skipped else self._piece(id)

        return IncrementalDecoder(piece_of, stages(self._decoder))

    def token(self, id: int) -> str:
        """The piece as the vocabulary spells it (`Ġgato`, `▁gato`, `##to`, `<|im_end|>`); "" for an id it lacks."""
        return self._piece(id) or ""

    def token_text(self, id: int) -> str:
        """What one token would add in the middle of a text, incomplete characters as `<0xE2>`: for people to read."""
        piece = self.token(id)
        if id in self.special_ids or not piece:
            return piece
        decoder = IncrementalDecoder(self._piece, stages(self._decoder, errors=SHOW_BYTES))
        before = decoder.push_piece("a")
        return (before + decoder.push_piece(piece) + decoder.finish())[1:]

    def token_id(self, token: str) -> int | None:
        """The id of a piece as the vocabulary spells it."""
        id = self._core.token_to_id(token)
        return id if id is not None and id < self.vocab_size else None

    def _piece(self, id: int) -> str | None:
        if id < 0:
            raise VitralError(f"token id {id} is negative", f"Ids are 0 to {self.vocab_size - 1}")
        return self._core.id_to_token(id) if id < self.vocab_size else None

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def to_json(self) -> str:
        """The whole tokenizer as one tokenizer.json."""
        spec = self._special.restore(json.loads(self._core.to_str()))
        if self._charsmap is not None:
            spec["normalizer"]["normalizers"].insert(0, self._charsmap.as_json())
        return json.dumps(spec, ensure_ascii=False)

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and chat templates; `transformers.AutoTokenizer` opens them."""
        from vitral.text.folder import write

        write(Path(folder), self.to_json(), self.config | self.named_tokens, self.chat_templates)

    def explain(self, text: str) -> Explained:
        """How `text` becomes ids, step by step."""
        from vitral.text.explain import Explainer

        return Explainer(self, self._core, self._charsmap).explain(text)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of a model folder, in whichever format it lies there."""
        from vitral.text.folder import read

        return cls(*read(Path(folder)))

    @classmethod
    def from_file(cls, path: str | Path, config: Mapping[str, Any] | None = None) -> Tokenizer:
        """A tokenizer.json of the `tokenizers` library."""
        from vitral.text.folder import read_json

        return cls(read_json(Path(path)), config)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer inside a GGUF file's metadata (the `tokenizer.*` keys)."""
        from vitral.text.ggml import read

        return cls(*read(metadata))

    @classmethod
    def from_sentencepiece(cls, model: str | Path | bytes) -> Tokenizer:
        """A SentencePiece `.model` (BPE or Unigram), as a path or its bytes."""
        from vitral.text.sentencepiece import read

        return cls(*read(model))

    @classmethod
    def from_tiktoken(
        cls, path: str | Path, *, pattern: str | None = None, specials: Mapping[str, int] | None = None
    ) -> Tokenizer:
        """A file of tiktoken ranks. Pattern and special tokens are known for OpenAI's own files, by name."""
        from vitral.text.tiktoken import read

        return cls(*read(Path(path), pattern, specials))

    @classmethod
    def from_tekken(cls, path: str | Path) -> Tokenizer:
        """Mistral's tekken.json."""
        from vitral.text.tiktoken import read_tekken

        return cls(*read_tekken(Path(path)))

    @classmethod
    def from_vocab(cls, path: str | Path, *, lowercase: bool = True) -> Tokenizer:
        """BERT's vocab.txt: one WordPiece a line, the line number is the id."""
        from vitral.text.wordpiece import read

        return cls(*read(Path(path), lowercase))


def _chat_templates(entry: Any) -> dict[str, str]:
    """tokenizer_config.json holds one template, or a list of named ones; folders can hold more (see folder.py)."""
    if entry is None:
        return {}
    if isinstance(entry, str):
        return {"default": entry}
    if isinstance(entry, list) and all(isinstance(row, dict) and {"name", "template"} <= row.keys() for row in entry):
        return {row["name"]: row["template"] for row in entry}
    if isinstance(entry, dict) and all(isinstance(source, str) for source in entry.values()):
        return dict(entry)
    raise VitralError("tokenizer_config.json: chat_template is malformed", "It is a string or a list of name, template")


def _not_text(text: Any) -> VitralError:
    if not isinstance(text, str):
        return VitralError(f"text is a {type(text).__name__}", "Give a string")
    place = next(place for place, character in enumerate(text) if 0xD800 <= ord(character) < 0xE000)
    return VitralError(f"text is not valid UTF-8 (a lone surrogate at character {place})", "Re-encode it as UTF-8")
