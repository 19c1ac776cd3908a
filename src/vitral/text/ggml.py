"""The tokenizer inside a GGUF file: `tokenizer.ggml.*` metadata → a `tokenizers` object.

`tokenizer.ggml.model` says which kind: "gpt2" is byte-level BPE (how words are cut is in `tokenizer.ggml.pre`), "llama"
SentencePiece BPE by scores, "t5" SentencePiece Unigram, "bert" WordPiece. Absent fields have llama.cpp's defaults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Core

from vitral.errors import CheckpointError, did_you_mean
from vitral.text import sentencepiece, wordpiece
from vitral.text.charsmap import Charsmap
from vitral.text.frame import set_frame
from vitral.text.gpt2 import byte_bpe
from vitral.text.sentencepiece import Kind
from vitral.text.splits import cut

_SOURCE = "the GGUF file"
_ROLES = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # spelt so in the format
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}
_MISSING = object()


class _Fields:
    """The `tokenizer.ggml.` fields, each checked when it is read."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata

    def __call__(self, name: str, kind: type | tuple[type, ...], default: Any = _MISSING) -> Any:
        key = f"tokenizer.ggml.{name}"
        value = self._metadata.get(key, default)
        if value is _MISSING:
            raise CheckpointError(f"{key} is missing from {_SOURCE}", "It holds no tokenizer; give one beside it")
        if value is not default and not isinstance(value, kind):
            raise CheckpointError(f"{key} is a {type(value).__name__}: {value!r:.40}", "The file is damaged")
        return value

    def rows(self, name: str, kind: type | tuple[type, ...], default: Any = _MISSING) -> list[Any]:
        value = self(name, object, default)
        rows = list(value)
        wrong = next((place for place, row in enumerate(rows) if not isinstance(row, kind)), None)
        if wrong is not None:
            raise CheckpointError(f"tokenizer.ggml.{name}[{wrong}] is {rows[wrong]!r:.40}", "The file is damaged")
        return rows


def read(metadata: Mapping[str, Any]) -> tuple[Core, dict[str, Any], Charsmap | None]:
    """The tokenizer of a GGUF file's metadata, the fields of a tokenizer_config.json, and normalisation rules.

    Raises:
        CheckpointError: a field is missing, of the wrong kind, or names something unknown.
    """
    fields = _Fields(metadata)
    kind = fields("model", str)
    readers: dict[str, Callable[[_Fields], tuple[Core, Charsmap | None]]] = {
        "gpt2": _bpe,
        "llama": _sentencepiece,
        "t5": _unigram,
        "bert": _wordpiece,
    }
    if kind not in readers:
        raise CheckpointError(f"tokenizer.ggml.model is {kind!r}", did_you_mean(kind, readers))
    core, charsmap = readers[kind](fields)
    config: dict[str, Any] = {f"{role}_token": core.id_to_token(id) for role, id in _roles(fields).items()}
    templates = _templates(metadata)
    if templates:
        config["chat_template"] = templates
    return core, config, charsmap


def _templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    prefix = "tokenizer.chat_template"
    found = {key[len(prefix) + 1 :] or "default": value for key, value in metadata.items() if key.startswith(prefix)}
    return {name: source for name, source in found.items() if isinstance(source, str)}


def _roles(fields: _Fields) -> dict[str, int]:
    """bos, eos … → id, as far as the file names them."""
    size = len(fields("tokens", object))
    roles = {}
    for role, name in _ROLES.items():
        id = fields(name, int, None)
        if id is None:
            continue
        if not 0 <= id < size:
            raise CheckpointError(f"tokenizer.ggml.{name} is {id}, of {size} tokens", "The file is damaged")
        roles[role] = int(id)
    return roles


def _vocabulary(fields: _Fields) -> tuple[list[str], list[int]]:
    """Tokens and their kinds. An empty token, which some converters leave, gets a name nobody types.

    Unused ones at the end are left out: they fill the embedding up to a round size, and nothing may generate them.
    """
    tokens = [token or f"[EMPTY_{id}]" for id, token in enumerate(fields.rows("tokens", str))]
    kinds = fields.rows("token_type", int, [int(Kind.NORMAL)] * len(tokens))
    if len(kinds) != len(tokens):
        raise CheckpointError(f"tokenizer.ggml.token_type has {len(kinds)} of {len(tokens)} rows", "It is damaged")
    if len(set(tokens)) != len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise CheckpointError(f"tokenizer.ggml.tokens holds {twice!r} twice", "The file is damaged")
    used = {id for id, kind in enumerate(kinds) if kind != Kind.UNUSED} | set(_roles(fields).values())
    if not used:
        raise CheckpointError("tokenizer.ggml.tokens holds no token that is in use", "The file is damaged")
    return tokens[: max(used) + 1], kinds[: max(used) + 1]


def _flag(fields: _Fields, name: str, default: bool) -> bool:
    return bool(fields(name, (bool, int), default))


def _bpe(fields: _Fields) -> tuple[Core, None]:
    tokens, kinds = _vocabulary(fields)
    rule = cut(fields("pre", str, "default"))
    merges = [_pair(row, place) for place, row in enumerate(fields.rows("merges", str))]
    pieces = {token: id for id, token in enumerate(tokens)}
    core = byte_bpe(pieces, merges, "tokenizer.ggml.merges", ignore_merges=rule.ignore_merges)
    core.pre_tokenizer = rule.pre_tokenizer()
    roles = _roles(fields)
    named = {id for role, id in roles.items() if role != "unk" or kinds[id] == Kind.CONTROL}
    controls = sorted({*named, *(id for id, kind in enumerate(kinds) if kind == Kind.CONTROL)})
    core.add_special_tokens([AddedToken(tokens[id], special=True, normalized=False) for id in controls])
    defined = [tokens[id] for id, kind in enumerate(kinds) if kind == Kind.USER_DEFINED and id not in named]
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in defined])
    begin = "bos" in roles and _flag(fields, "add_bos_token", rule.add_bos)
    end = "eos" in roles and _flag(fields, "add_eos_token", False)
    if begin or end:
        set_frame(core, before=[roles["bos"]] if begin else [], after=[roles["eos"]] if end else [])
    return core, None


def _pair(merge: str, place: int) -> tuple[str, str]:
    # The first piece is never empty and may itself begin with a space only in vocabularies that are not byte-level.
    cut_at = merge.find(" ", 1)
    if cut_at < 0:
        raise CheckpointError(f"tokenizer.ggml.merges[{place}] is {merge!r:.40}", "A merge is two tokens and a space")
    return merge[:cut_at], merge[cut_at + 1 :]


def _sentencepiece(fields: _Fields, *, unigram: bool = False) -> tuple[Core, Charsmap | None]:
    tokens, kinds = _vocabulary(fields)
    scores = fields.rows("scores", (int, float))
    rows = len(fields("tokens", object))
    if len(scores) != rows:
        raise CheckpointError(f"tokenizer.ggml.scores has {len(scores)} of {rows} rows", "The file is damaged")
    roles = _roles(fields)
    if "unk" not in roles and Kind.UNKNOWN in kinds:
        roles["unk"] = kinds.index(Kind.UNKNOWN)
    for id, sort in enumerate(kinds):
        if sort == Kind.USER_DEFINED:  # the format writes spaces there, the vocabulary ▁
            tokens[id] = tokens[id].replace(" ", "▁")
    pieces = sentencepiece.Pieces(
        pieces=tokens,
        scores=[float(score) for score in scores[: len(tokens)]],
        kinds=kinds,
        unigram=unigram,
        byte_fallback=Kind.BYTE in kinds,
        charsmap=bytes(fields("precompiled_charsmap", object, b"")),
        add_dummy_prefix=_flag(fields, "add_space_prefix", True),
        remove_extra_whitespaces=_flag(fields, "remove_extra_whitespaces", unigram),
        roles=roles,
    )
    begin, end = _flag(fields, "add_bos_token", not unigram), _flag(fields, "add_eos_token", unigram)
    core, _, charsmap = sentencepiece.build(pieces, _SOURCE, begin=begin, end=end)
    return core, charsmap


def _unigram(fields: _Fields) -> tuple[Core, Charsmap | None]:
    return _sentencepiece(fields, unigram=True)


def _wordpiece(fields: _Fields) -> tuple[Core, None]:
    """BERT: the format marks the beginning of a word (`▁`) where BERT's own file marks continuations (`##`)."""
    tokens, kinds = _vocabulary(fields)

    def own(token: str, kind: int) -> str:
        if kind != Kind.NORMAL or (token.startswith("[") and token.endswith("]")):
            return token
        return token[1:] if token.startswith("▁") else f"##{token}"

    pieces = {own(token, kind): id for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))}
    # The format does not say whether texts are lowercased: an uncased vocabulary has no capitals.
    cased = any("A" <= token.removeprefix("▁")[:1] <= "Z" for token in tokens)
    return wordpiece.build(pieces, not cased, _SOURCE)[0], None
