"""Rank files: tiktoken's (`base64 rank` a line; OpenAI, Llama 3, Qwen) and Mistral's Tekken (JSON).

Both hold byte strings with a rank. Text is cut by a pattern; in each word the two neighbours whose union has the lowest
rank are joined, until none has one. The pattern and the special tokens lie outside the file: they are known here for
the published ones, told apart by their size.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Core

from vitral.errors import CheckpointError, NotFoundError, VitralError
from vitral.text.alphabet import all_splits, spell
from vitral.text.frame import set_frame
from vitral.text.gpt2 import byte_bpe
from vitral.text.splits import CL100K, GPT2, O200K, QWEN2, byte_level

_END, _FIM = "<|endoftext|>", ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")


@dataclass(frozen=True, kw_only=True)
class Published:
    """What belongs to a published rank file but does not lie in it."""

    pattern: str
    specials: dict[str, int]
    roles: dict[str, str] = field(default_factory=dict)
    add_bos: bool = False


def _from(first: int, *names: str) -> dict[str, int]:
    return {name: first + place for place, name in enumerate(names)}


_OPENAI = {"bos": _END, "eos": _END}
_LLAMA3 = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
    *(f"<|reserved_special_token_{number}|>" for number in range(3, 248)),
)
_PUBLISHED: dict[int, Published] = {  # by number of ranks
    50256: Published(pattern=GPT2, specials={_END: 50256}, roles=_OPENAI),  # r50k_base
    50280: Published(pattern=GPT2, specials={_END: 50256}, roles=_OPENAI),  # p50k_base
    100256: Published(  # cl100k_base
        pattern=CL100K, specials=_from(100257, _END, *_FIM) | {"<|endofprompt|>": 100276}, roles=_OPENAI
    ),
    199998: Published(pattern=O200K, specials={_END: 199999, "<|endofprompt|>": 200018}, roles=_OPENAI),  # o200k_base
    128000: Published(
        pattern=CL100K,
        specials=_from(128000, *_LLAMA3),
        roles={"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"},
        add_bos=True,
    ),
    151643: Published(  # Qwen
        pattern=QWEN2,
        specials=_from(151643, _END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205))),
        roles={"eos": _END, "pad": _END},
    ),
}
_TEKKEN: list[dict[str, Any]] = [
    {"rank": rank, "token_str": name}
    for rank, name in enumerate(
        (
            *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
            *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
            *("[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
        )
    )
]
"""The special tokens that tekken.json leaves out in its earlier versions."""


def read(
    path: Path, pattern: str | None = None, specials: Mapping[str, int] | None = None
) -> tuple[Core, dict[str, Any]]:
    """A tokenizer out of a tiktoken file.

    Args:
        pattern: how text is cut, as tiktoken's `pat_str`; needed for files that are not published ones.
        specials: special tokens and their ids.
    """
    ranks = _ranks(path)
    known = _PUBLISHED.get(len(ranks))
    if pattern is None:
        if known is None:
            raise VitralError(
                f"{path} is no published rank file ({len(ranks)} ranks)", "Give pattern=", param="pattern"
            )
        pattern = known.pattern
    if specials is None:
        specials = known.specials if known else {}
    core = _build(ranks, pattern, specials, str(path))
    if known is None or not set(known.roles.values()) <= specials.keys():
        return core, {}
    if known.add_bos:
        set_frame(core, before=[specials[known.roles["bos"]]])
    return core, {f"{role}_token": name for role, name in known.roles.items()}


def read_tekken(path: Path) -> tuple[Core, dict[str, Any]]:
    """A tokenizer out of Mistral's tekken.json: the special tokens come first, the ranks behind them."""
    spec = _json(path)
    try:
        config = spec["config"]
        count, shift = int(config["default_vocab_size"]), int(config["default_num_special_tokens"])
        rows = spec["vocab"][: count - shift]
        ranks = {base64.b64decode(row["token_bytes"], validate=True): shift + int(row["rank"]) for row in rows}
        pattern = str(config["pattern"])
        listed = {int(row["rank"]): row["token_str"] for row in spec.get("special_tokens") or _TEKKEN}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no tekken.json ({error!r})", "Fetch the file again") from error
    names = {id: listed.get(id, f"<SPECIAL_{id}>") for id in range(shift)}
    core = _build(ranks, pattern, {name: id for id, name in names.items()}, str(path))
    set_frame(core, before=[1])
    return core, {"unk_token": names[0], "bos_token": names[1], "eos_token": names[2]}


def _build(ranks: Mapping[bytes, int], pattern: str, specials: Mapping[str, int], source: str) -> Core:
    """A byte-level BPE with the ranks as ids. Ids that nothing holds become unused pieces, as the library wants."""
    pieces = {spell(data): rank for data, rank in ranks.items()}
    merges = all_splits(pieces.items())
    for name, id in specials.items():
        if pieces.get(name, id) != id:
            raise CheckpointError(f"{source}: special token {name!r} is also a piece", "Give other specials=")
        pieces[name] = id
    taken = set(pieces.values())
    if len(taken) != len(pieces):
        raise CheckpointError(f"{source}: two tokens share an id", "Give other specials=")
    pieces |= {f"<|unused_{id}|>": id for id in range(max(taken, default=0)) if id not in taken}
    core = byte_bpe(pieces, merges, source, ignore_merges=True)
    core.pre_tokenizer = byte_level(pattern)
    ordered = sorted(specials, key=lambda name: specials[name])
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ordered])
    return core


def _ranks(path: Path) -> dict[bytes, int]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist", "") from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(f"{path}, line {number} is no `base64 rank`", "Fetch the file again") from error
    return ranks


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist", "") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON ({error})", "Fetch the file again") from error
