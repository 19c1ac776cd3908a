"""GPT-2's two files: vocab.json (piece → id, in the byte alphabet) and merges.txt (one pair a line, best first)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Core

from vitral.errors import CheckpointError
from vitral.text.splits import GPT2, byte_level

_END = "<|endoftext|>"


def read(vocabulary: Path, merges: Path) -> tuple[Core, dict[str, Any]]:
    """A byte-level BPE of the two files; GPT-2's one special token counts where it is in the vocabulary."""
    try:
        pieces = json.loads(vocabulary.read_text("utf-8"))
        lines = merges.read_text("utf-8").split("\n")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{vocabulary.parent}: the vocabulary is damaged ({error})", "Fetch it again") from error
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    core = byte_bpe(pieces, pairs, str(merges))
    core.pre_tokenizer = byte_level(GPT2)
    if _END not in pieces:
        return core, {}
    core.add_special_tokens([AddedToken(_END, special=True, normalized=False)])
    return core, {"bos_token": _END, "eos_token": _END, "unk_token": _END}


def byte_bpe(pieces: dict[str, int], merges: list[Any], source: str, *, ignore_merges: bool = False) -> Core:
    """A byte-level BPE; `source` is named where pieces and merges do not fit together."""
    try:
        core = Core(models.BPE(pieces, merges, fuse_unk=False, byte_fallback=False, ignore_merges=ignore_merges))
    except Exception as error:  # the library raises bare Exception, and TypeError for malformed rows
        raise CheckpointError(f"{source}: the merges do not fit the vocabulary ({error})", "Fetch it again") from error
    core.decoder = decoders.ByteLevel()
    return core
