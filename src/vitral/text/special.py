"""Special tokens: which there are, what they are for, and how text is kept from becoming one.

A tokenizer matches special tokens by their spelling, so a person who types `<|im_end|>` would end their own turn and
begin another in the system's name. Here text is always encoded with special tokens switched off; the special tokens
that a chat template wrote are put in by id, through slots: added tokens with unguessable spellings that stand in the
text where a special token belongs, so that everything is still encoded in one go, as the model's own tokenizer does.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Core

from vitral.errors import VitralError

ROLES = ("bos", "eos", "unk", "pad", "cls", "sep", "mask")
_USUAL_SPELLINGS = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<｜begin▁of▁sentence｜>", "[BOS]"),
    "eos": ("</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>", "<｜end▁of▁sentence｜>", "[EOS]"),
    "unk": ("<unk>", "[UNK]"),
    "pad": ("<pad>", "[PAD]"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("[MASK]", "<mask>"),
}
_CONTROL_FORM = re.compile(r"<[|｜][^\s<>]+[|｜]>")


def content_of(entry: Any, field: str) -> str | None:
    """The spelling in one entry of tokenizer_config.json: a string, or an object with `content`."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    if entry is not None and not isinstance(entry, str):
        raise VitralError(f"tokenizer_config.json: {field} is {entry!r:.60}", "It must be a string or have `content`")
    return entry or None


def _token(entry: Any, field: str) -> AddedToken | None:
    content = content_of(entry, field)
    if content is None:
        return None
    flags = entry if isinstance(entry, dict) else {}
    names = ("single_word", "lstrip", "rstrip", "normalized")
    kept = {name: bool(flags[name]) for name in names if name in flags}
    return AddedToken(content, special=bool(flags.get("special", True)), **kept)


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token`, `image_token` … → spelling: what chat templates see under these names."""
    named = {}
    for key, entry in config.items():
        if key.endswith("_token") and not key.startswith("add_") and isinstance(entry, str | dict):
            content = content_of(entry, key)
            if content is not None:
                named[key] = content
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        named |= {key: text for key, entry in extra.items() if (text := content_of(entry, key)) is not None}
    return named


def register(core: Core, config: Mapping[str, Any]) -> None:
    """Makes every token that tokenizer_config.json names known to `core`, as `transformers` does on loading."""
    known = {token.content for token in core.get_added_tokens_decoder().values()}
    rows = config.get("added_tokens_decoder") or {}
    ordered = [(f"added_tokens_decoder.{key}", rows[key]) for key in sorted(rows, key=int)]
    ordered += [(f"{role}_token", config.get(f"{role}_token")) for role in ROLES]
    ordered += [(key, entry) for key, entry in config.items() if key.endswith("_token") and isinstance(entry, str)]
    for field in ("additional_special_tokens", "extra_special_tokens"):
        entries = config.get(field) or []
        ordered += [(field, entry) for entry in (entries.values() if isinstance(entries, dict) else entries)]
    for field, entry in ordered:
        token = _token(entry, field)
        if token is None or token.content in known:
            continue
        known.add(token.content)
        core.add_special_tokens([token]) if token.special else core.add_tokens([token])


def role_ids(core: Core, config: Mapping[str, Any], *, guess: bool) -> dict[str, int]:
    """bos, eos … → id. With `guess` (a bare tokenizer.json) the usual spellings among the special tokens count."""
    special = {token.content for token in core.get_added_tokens_decoder().values() if token.special}
    ids = {}
    for role in ROLES:
        content = content_of(config.get(f"{role}_token"), f"{role}_token")
        if content is None and guess:
            content = next((usual for usual in _USUAL_SPELLINGS[role] if usual in special), None)
        found = None if content is None else core.token_to_id(content)
        if found is not None:
            ids[role] = found
    return ids


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """One stand-in: special tokens that strip the spaces beside them need one that does so too."""

    spelling: str
    id: int


class SpecialTokens:
    """The special tokens of one tokenizer, and the slots that stand in for them. Changes `core` once, on creation.

    `ids` are the tokens flagged special: decoding can skip them. `controls` are those that text may not become: the
    same, and the added tokens spelt `<|…|>`, since DeepSeek and others leave their role markers unflagged.
    """

    def __init__(self, core: Core, unk_id: int | None = None) -> None:
        added = core.get_added_tokens_decoder()
        self.size = core.get_vocab_size(with_added_tokens=True)  # before the slots
        self.ids = frozenset(id for id, token in added.items() if token.special)
        self.unflagged = frozenset(
            id for id, token in added.items() if not token.special and _CONTROL_FORM.fullmatch(token.content)
        )
        self.id_of = {added[id].content: id for id in sorted(self.ids | self.unflagged)}
        core.add_special_tokens([_flagged(added[id]) for id in sorted(self.unflagged)])
        core.encode_special_tokens = True
        self._added = {token.content: token for token in added.values()}
        self._slots = {(left, right): self._slot(core, left, right) for left in (0, 1) for right in (0, 1)}
        self._slot_ids = frozenset(slot.id for slot in self._slots.values())
        spellings = sorted(self.id_of, key=len, reverse=True)  # an alternation takes the first that fits
        self._pattern = "|".join(map(re.escape, spellings)) or r"(?!)"
        self._any = re.compile(self._pattern)
        self._unk = None if unk_id is None else (unk_id, core.id_to_token(unk_id) or "")
        self._refused = (self.ids | self.unflagged) - {unk_id}

    @staticmethod
    def _slot(core: Core, left: int, right: int) -> _Slot:
        spelling = f"\ue0a5{secrets.token_hex(12)}\ue0a5"
        core.add_tokens([AddedToken(spelling, special=False, normalized=False, lstrip=bool(left), rstrip=bool(right))])
        id = core.token_to_id(spelling)
        assert id is not None
        return _Slot(spelling=spelling, id=id)

    def hide(self, text: str, mark: str = "") -> tuple[str, list[int]]:
        """`text` with slots for its special tokens, and their ids in order.

        A special token with `mark` inside or right behind it came from outside and stays text; marks are removed.
        """
        ids: list[int] = []
        pattern = re.compile(f"(?:{self._pattern})(?!{re.escape(mark)})") if mark else self._any

        def slot(match: re.Match[str]) -> str:
            token = self._added[match[0]]
            if token.single_word and _inside_word(text, match.start(), match.end()):
                return match[0]
            ids.append(self.id_of[match[0]])
            return self._slots[int(token.lstrip), int(token.rstrip)].spelling

        hidden = pattern.sub(slot, text)
        return (hidden.replace(mark, "") if mark else hidden), ids

    def reveal(self, ids: Iterable[int], hidden: list[int]) -> list[int]:
        """`ids` with the slots' ids replaced by those of the special tokens they stand for."""
        if not hidden:
            return list(ids)
        rest = iter(hidden)
        out = [next(rest) if id in self._slot_ids else id for id in ids]
        assert next(rest, None) is None, "a slot was not matched"
        return out

    def leaked(self, ids: list[int], text: str) -> bool:
        """Whether plain `text` became a special token by way of the vocabulary (a Unigram may hold `</s>`)."""
        if not self._refused.isdisjoint(ids):
            return True
        return self._unk is not None and self._unk[1] in text and self._unk[0] in ids

    def strict(self, core: Core) -> Core:
        """A copy of `core` whose vocabulary spells special tokens so that no text can reach them."""
        spec = json.loads(core.to_str())
        model = spec["model"]
        ids = {*self.id_of.values(), *(() if self._unk is None else self._unk[:1])}
        rename = {core.id_to_token(id): f"\ue0a6{secrets.token_hex(12)}{id}" for id in ids}
        if isinstance(model["vocab"], dict):
            model["vocab"] = {rename.get(piece, piece): id for piece, id in model["vocab"].items()}
        else:
            model["vocab"] = [(rename.get(piece, piece), score) for piece, score in model["vocab"]]
        if model.get("unk_token") in rename:
            model["unk_token"] = rename[model["unk_token"]]
        if "merges" in model:
            pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
            model["merges"] = [pair for pair in pairs if rename.keys().isdisjoint((*pair, "".join(pair)))]
        for row in spec["added_tokens"]:
            row["content"] = rename.get(row["content"], row["content"])
        strict = Core.from_str(json.dumps(spec))
        strict.encode_special_tokens = True
        return strict

    def restore(self, spec: dict[str, Any]) -> dict[str, Any]:
        """tokenizer.json as it was before the slots came."""
        rows = [dict(row) for row in spec["added_tokens"] if row["id"] not in self._slot_ids]
        for row in rows:
            original = self._added.get(row["content"])
            if original is not None and row["id"] in self.unflagged:
                row |= {"special": False, "normalized": original.normalized}
        return {**spec, "added_tokens": rows}


def _flagged(token: AddedToken) -> AddedToken:
    return AddedToken(
        token.content,
        special=True,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
    )


def _inside_word(text: str, start: int, end: int) -> bool:
    around = text[start - 1 : start] + text[end : end + 1]
    return any(character.isalnum() or character == "_" for character in around)
