"""A `tokenizer.json` → the `tokenizer.*` metadata of a GGUF file, so that llama.cpp cuts text as we do.

llama.cpp has its own tokenizers and knows pre-tokenizers by name only; what it has no name for is refused here, because
a model that reads other tokens than it was trained on answers nonsense without an error. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.errors import VitralError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""GGUF's token types."""

_ID_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "cls": "cls_token_id",
    "sep": "seperator_token_id",  # llama.cpp's own spelling
}
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_SPLIT % r"\p{N}{1,3}": "llama-bpe", _SPLIT % r"\p{N}": "qwen2"}
"""Published splitting patterns → llama.cpp's name. They differ in how many digits stay together."""
_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def tokenizer_fields(
    tokenizer: Mapping[str, Any],
    *,
    vocab_size: int,
    ids: Mapping[str, int | None],
    chat_template: str | None = None,
) -> dict[str, Any]:
    """The `tokenizer.*` keys of a GGUF file.

    Args:
        tokenizer: a parsed `tokenizer.json`.
        vocab_size: rows of the embedding; ids without a token are filled up, as llama.cpp wants one for each row.
        ids: the special tokens' ids by `bos`, `eos`, `unk`, `pad`, `mask`, `cls`, `sep`; None where there is none.
        chat_template: the model's Jinja template.

    Raises:
        VitralError: a kind of tokenizer or a pre-tokenizer that llama.cpp has no name for, or more tokens than rows.
    """
    model = tokenizer.get("model") or {}
    kind = model.get("type")
    if kind == "BPE" and model.get("byte_fallback"):
        found = _sentencepiece(tokenizer)
    elif kind == "BPE" and _uses_bytes(tokenizer):
        found = _byte_level(tokenizer)
    elif kind == "WordPiece":
        found = _wordpiece(tokenizer)
    else:
        raise VitralError(
            f"A tokenizer of type {kind} cannot be written as GGUF",
            "Possible: byte-level BPE, SentencePiece BPE with byte fallback, WordPiece",
        )
    _fill_up(found, vocab_size)
    found["tokenizer.ggml.add_bos_token"], found["tokenizer.ggml.add_eos_token"] = _added_around(tokenizer)
    for word, key in _ID_KEYS.items():
        if (token := ids.get(word)) is not None:
            found[f"tokenizer.ggml.{key}"] = token
    if chat_template is not None:
        found["tokenizer.chat_template"] = chat_template
    return found


def _vocabulary(tokenizer: Mapping[str, Any]) -> tuple[dict[int, str], dict[int, int]]:
    """(id → token, id → type); added tokens win over the model's own."""
    tokens = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, NORMAL)
    for added in tokenizer.get("added_tokens") or ():
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    return tokens, types


def _byte_level(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    tokens, types = _vocabulary(tokenizer)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _pre_tokenizer(tokenizer),
        "tokens": tokens,
        "types": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in _merges(tokenizer)],
        "tokenizer.ggml.add_space_prefix": False,
    }


def _sentencepiece(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """llama.cpp joins the pair with the best score, so a token's score is minus the rank of its first merge."""
    tokens, types = _vocabulary(tokenizer)
    merges = _merges(tokenizer)
    rank: dict[str, int] = {}
    for index, (left, right) in enumerate(merges):
        rank.setdefault(left + right, index)
    unknown = tokenizer["model"].get("unk_token")
    scores = {}
    for index, token in tokens.items():
        if token == unknown:
            types[index] = UNKNOWN
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[index] = BYTE
        learned = types[index] == NORMAL
        scores[index] = float(-rank.get(token, len(merges))) if learned else 0.0
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokens": tokens,
        "types": types,
        "scores": scores,
        "tokenizer.ggml.add_space_prefix": _prefixes_space(tokenizer),
    }


def _wordpiece(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """llama.cpp marks the start of a word (▁) where WordPiece marks its continuation (##)."""
    if not any(part.get("lowercase") for part in _parts(tokenizer.get("normalizer"), "normalizers")):
        raise VitralError("A WordPiece tokenizer that keeps capitals cannot be written as GGUF")
    tokens, types = _vocabulary(tokenizer)
    mark = tokenizer["model"].get("continuing_subword_prefix", "##")
    for index, token in tokens.items():
        if types[index] == NORMAL:
            tokens[index] = token.removeprefix(mark) if token.startswith(mark) else "▁" + token
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokens": tokens,
        "types": types,
    }


def _fill_up(found: dict[str, Any], vocab_size: int) -> None:
    """Turn the dicts by id into the lists GGUF wants, one entry for each row of the embedding."""
    tokens, types, scores = found.pop("tokens"), found.pop("types"), found.pop("scores", None)
    if tokens and max(tokens) >= vocab_size:
        raise VitralError(f"The tokenizer has ids up to {max(tokens)}, the embedding {vocab_size} rows")
    found["tokenizer.ggml.tokens"] = [tokens.get(index, f"[PAD{index}]") for index in range(vocab_size)]
    found["tokenizer.ggml.token_type"] = [types.get(index, UNUSED) for index in range(vocab_size)]
    if scores is not None:
        found["tokenizer.ggml.scores"] = [scores.get(index, 0.0) for index in range(vocab_size)]


def _merges(tokenizer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merges as pairs, from either spelling of tokenizer.json."""
    found = []
    for merge in tokenizer["model"].get("merges") or ():
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        found.append((left, right))
    return found


def _parts(stage: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    """A stage's steps, whether it is one or a Sequence of them."""
    if not stage:
        return []
    return list(stage[key]) if stage.get("type") == "Sequence" else [stage]


def _uses_bytes(tokenizer: Mapping[str, Any]) -> bool:
    return any(part["type"] == "ByteLevel" for part in _parts(tokenizer.get("pre_tokenizer"), "pretokenizers"))


def _pre_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for how text is cut before the merges."""
    parts = _parts(tokenizer.get("pre_tokenizer"), "pretokenizers")
    *before, last = parts
    patterns = [part.get("pattern", {}).get("Regex", "") for part in before]
    if last["type"] == "ByteLevel" and not last.get("add_prefix_space"):
        whole = last.get("use_regex", True)
        if whole and not before:
            return "gpt-2"
        if whole and len(before) == 1 and _cuts_digits(before[0]):
            return "smollm"
        if not whole and len(before) == 1:
            if patterns == [_GPT2_SPLIT]:
                return "gpt-2"
            if patterns[0] in _SPLITS:
                return _SPLITS[patterns[0]]
        if not whole and len(before) == 2 and _cuts_digits(before[0]) and patterns[1] == _GPT2_SPLIT:
            return "smollm"
    shown = " → ".join(part["type"] for part in parts)
    raise VitralError(
        f"The pre-tokenizer {shown} has no name in llama.cpp, so the model cannot be written as GGUF",
        "Export to the Hugging Face format instead (--to hf)",
    )


def _cuts_digits(part: Mapping[str, Any]) -> bool:
    if part["type"] == "Digits":
        return bool(part.get("individual_digits"))
    return part["type"] == "Split" and part.get("pattern", {}).get("Regex") in (r"\p{N}", r"\d")


def _prefixes_space(tokenizer: Mapping[str, Any]) -> bool:
    normalizers = _parts(tokenizer.get("normalizer"), "normalizers")
    cutters = _parts(tokenizer.get("pre_tokenizer"), "pretokenizers")
    return any(part["type"] == "Prepend" for part in normalizers) or any(
        part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never" for part in cutters
    )


def _added_around(tokenizer: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the post-processor puts a special token before and after a text."""
    for part in _parts(tokenizer.get("post_processor"), "processors"):
        if part["type"] == "TemplateProcessing" and part["single"]:
            return "SpecialToken" in part["single"][0], "SpecialToken" in part["single"][-1]
        if part["type"] in ("BertProcessing", "RobertaProcessing"):
            return True, True
    return False, False
