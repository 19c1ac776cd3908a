"""BERT's WordPiece: a vocabulary of whole words and `##` continuations, matched greedily from the left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Core

from vitral.errors import CheckpointError, NotFoundError
from vitral.text.frame import set_bert_frame

_NAMES = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}


def read(path: Path, lowercase: bool) -> tuple[Core, dict[str, Any]]:
    """vocab.txt: one piece a line, its id the line's number from 0."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist", "") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 (byte {error.start})", "Fetch the file again") from error
    while lines and not lines[-1]:
        lines.pop()
    return build({piece: id for id, piece in enumerate(lines)}, lowercase, str(path))


def build(vocabulary: Mapping[str, int], lowercase: bool, source: str) -> tuple[Core, dict[str, Any]]:
    """A BERT tokenizer of the pieces; `source` is named where one is missing."""
    for name in ("[UNK]", "[CLS]", "[SEP]"):
        if name not in vocabulary:
            raise CheckpointError(f"{source} lacks the piece {name}", "It is not a BERT vocabulary")
    core = Core(models.WordPiece(dict(vocabulary), unk_token="[UNK]", max_input_chars_per_word=100))
    core.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    present = {role: name for role, name in _NAMES.items() if name in vocabulary}
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in present.values()])
    set_bert_frame(core, vocabulary["[CLS]"], vocabulary["[SEP]"])
    return core, {f"{role}_token": name for role, name in present.items()} | {"do_lower_case": lowercase}
