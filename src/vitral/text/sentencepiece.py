"""SentencePiece models: BPE and Unigram vocabularies with their normalisation, read from the `.model` file itself.

The file is a Protocol Buffers message (`ModelProto` of sentencepiece_model.proto).
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Core

from vitral.errors import CheckpointError, NotFoundError
from vitral.text.alphabet import all_splits
from vitral.text.charsmap import Charsmap
from vitral.text.frame import set_frame
from vitral.text.protobuf import fields, signed

MAX_FILE = 256 << 20  # bytes; the largest published model has 5 MB
_SPACE = "▁"
_UNREACHABLE = -1e6  # a score below that of any way to spell the same text


class Kind(IntEnum):
    """What a piece is for (`ModelProto.SentencePiece.Type`; GGUF uses the same numbers)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """A SentencePiece vocabulary with what belongs to it. Ids are places in the lists."""

    pieces: list[str]
    scores: list[float]
    kinds: list[int]
    unigram: bool
    byte_fallback: bool = False
    charsmap: bytes = b""
    """Normalisation rules, compiled; empty for none."""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    roles: dict[str, int] = field(default_factory=dict)
    """bos, eos, unk, pad → id."""

    def of_kind(self, *kinds: Kind) -> list[int]:
        return [id for id, kind in enumerate(self.kinds) if kind in kinds]

    def defined(self) -> list[str]:
        """User-defined pieces: they stay whole wherever they stand."""
        return [self.pieces[id] for id in self.of_kind(Kind.USER_DEFINED)]


def read(model: str | Path | bytes) -> tuple[Core, dict[str, Any], Charsmap | None]:
    """A tokenizer out of a `.model` file. A BPE begins texts with BOS (Llama), a Unigram ends them with EOS (T5)."""
    if isinstance(model, bytes):
        data, name = model, "the SentencePiece model"
    else:
        path, name = Path(model), str(model)
        if not path.is_file():
            raise NotFoundError(f"{path} does not exist", "")
        if path.stat().st_size > MAX_FILE:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes", "It is no SentencePiece model")
        data = path.read_bytes()
    pieces = parse(data, name)
    role = "eos" if pieces.unigram else "bos"
    return build(pieces, name, begin=role == "bos", end=role == "eos")


def build(pieces: Pieces, source: str, *, begin: bool, end: bool) -> tuple[Core, dict[str, Any], Charsmap | None]:
    """The `tokenizers` object of a SentencePiece vocabulary, its configuration and its normalisation rules.

    `begin`, `end`: BOS and EOS go around each text. The rules are applied before the object is called.
    """
    if len(set(pieces.pieces)) != len(pieces.pieces):
        twice = Counter(pieces.pieces).most_common(1)[0][0]
        raise CheckpointError(f"{source} holds the piece {twice!r} twice", "Fetch the file again")
    core = Core(_model(pieces, source))
    steps: list[normalizers.Normalizer] = []
    if pieces.remove_extra_whitespaces:
        # At the end SentencePiece takes ▁ that was typed for a space; the lookbehind keeps the search linear.
        steps += [normalizers.Replace(Regex(r"\A +|(?<![ ▁])[ ▁]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if pieces.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    core.decoder = _decoder(pieces)
    controls = sorted({*pieces.of_kind(Kind.CONTROL, Kind.UNKNOWN), *pieces.roles.values()})
    core.add_special_tokens([AddedToken(pieces.pieces[id], special=True, normalized=False) for id in controls])
    _keep_whole(core, pieces)
    roles = pieces.roles
    set_frame(
        core,
        before=[roles["bos"]] if begin and "bos" in roles else [],
        after=[roles["eos"]] if end and "eos" in roles else [],
    )
    kept = [piece.replace(_SPACE, " ") for piece in pieces.defined()]
    charsmap = Charsmap(pieces.charsmap, kept) if pieces.charsmap else None
    return core, {f"{role}_token": pieces.pieces[id] for role, id in roles.items()}, charsmap


def _model(pieces: Pieces, source: str) -> models.Model:
    unk = pieces.roles.get("unk")
    if pieces.unigram:
        return models.Unigram(
            list(zip(pieces.pieces, _unigram_scores(pieces), strict=True)),
            unk_id=unk,
            byte_fallback=pieces.byte_fallback,
        )
    mergeable = pieces.of_kind(Kind.NORMAL)
    order = sorted(mergeable, key=lambda id: (-pieces.scores[id], id))
    merges = all_splits((pieces.pieces[id], rank) for rank, id in enumerate(order))
    try:
        return models.BPE(
            {piece: id for id, piece in enumerate(pieces.pieces)},
            merges,
            unk_token=None if unk is None else pieces.pieces[unk],
            fuse_unk=True,
            byte_fallback=pieces.byte_fallback,
            ignore_merges=bool(pieces.defined()),
        )
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{source}: the pieces make no BPE ({error})", "Fetch the file again") from error


def _unigram_scores(pieces: Pieces) -> list[float]:
    """Scores by which user-defined pieces always win, as in SentencePiece, and unused ones and bytes never do."""
    best = max((pieces.scores[id] for id in pieces.of_kind(Kind.NORMAL)), default=0.0)
    scores = list(pieces.scores)
    for id in pieces.of_kind(Kind.USER_DEFINED):
        scores[id] = len(pieces.pieces[id].encode("utf-8")) * best - 0.1
    for id in pieces.of_kind(Kind.UNUSED, Kind.BYTE):
        scores[id] = _UNREACHABLE
    return scores


def _keep_whole(core: Core, pieces: Pieces) -> None:
    """Cuts user-defined pieces out of the normalised text; the model takes each as it is (`ignore_merges`).

    Added tokens would cut the text before it is normalised, and what follows them would get a prefix of its own. A
    Unigram needs no cut for them: its scores see to it. Text that spells a byte piece (`<0x41>`) is cut where the model
    would otherwise take it for that byte.
    """
    patterns = []
    if pieces.unigram:
        patterns += [r"<(?=0x[0-9A-F]{2}>)"] if pieces.byte_fallback else []
    elif pieces.defined():
        patterns += [any_of(pieces.defined()), *([r"\A<(?=0x[0-9A-F]{2}>\z)"] if pieces.byte_fallback else [])]
    if patterns:
        core.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(patterns)), behavior="isolated")


def any_of(words: Collection[str]) -> str:
    """A pattern for the longest of `words` that fits: common beginnings are written once, so that it fails early."""
    branches: dict[str, list[str]] = {}
    for word in words:
        if word:
            branches.setdefault(word[0], []).append(word[1:])
    choices = [re.escape(first) + any_of(rest) for first, rest in sorted(branches.items())]
    if not choices:
        return ""
    grouped = choices[0] if len(choices) == 1 else f"(?:{'|'.join(choices)})"
    return f"(?:{grouped})?" if "" in words else grouped


def _decoder(pieces: Pieces) -> decoders.Decoder:
    stages = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if pieces.remove_extra_whitespaces:
        stages.append(decoders.Strip(" ", 1 << 16, 0))
    elif pieces.add_dummy_prefix:
        stages.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(stages)


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────────


def parse(data: bytes, source: str) -> Pieces:
    """The vocabulary in the bytes of a `.model`.

    Raises:
        CheckpointError: the bytes are no such message, or say something that is not supported.
    """
    pieces: list[str] = []
    scores: list[float] = []
    kinds: list[int] = []
    trainer: dict[int, Any] = {}
    rules: dict[int, Any] = {}
    try:
        for number, value in fields(data):
            if number == 1:
                row = dict(fields(value))
                pieces.append(row[1].decode("utf-8"))
                scores.append(struct.unpack("<f", row.get(2, b"\0\0\0\0"))[0])
                kinds.append(row.get(3, Kind.NORMAL))
            elif number in (2, 3):
                (trainer if number == 2 else rules).update(fields(value))
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(f"{source} is no SentencePiece model ({error})", "Fetch the file again") from error
    if not pieces:
        raise CheckpointError(f"{source} holds no pieces", "It is no SentencePiece model")
    return _pieces(pieces, scores, kinds, trainer, rules, source)


def _pieces(
    pieces: list[str],
    scores: list[float],
    kinds: list[int],
    trainer: dict[int, Any],
    rules: dict[int, Any],
    source: str,
) -> Pieces:
    """Field numbers are those of TrainerSpec and NormalizerSpec; an absent field means the default written there."""
    model_type = trainer.get(3, 1)
    if model_type not in (1, 2):
        raise CheckpointError(f"{source}: trainer_spec.model_type is {model_type}", "Only Unigram and BPE are known")
    if trainer.get(24, 0):
        raise CheckpointError(f"{source}: treat_whitespace_as_suffix is not supported", "Use a tokenizer.json")
    spellings = {name: trainer.get(number, default) for name, number, default in _ROLE_PIECES}
    roles = {}
    for name, number, default in _ROLE_IDS:
        id = signed(trainer.get(number, default))
        spelt = spellings[name].decode("utf-8", "replace")
        if id < 0 or id >= len(pieces):
            continue
        # Pieces can be moved after training: the spelling is then the surer sign.
        roles[name] = id if pieces[id] == spelt or spelt not in pieces else pieces.index(spelt)
    if "unk" not in roles and Kind.UNKNOWN in kinds:
        roles["unk"] = kinds.index(Kind.UNKNOWN)
    return Pieces(
        pieces=pieces,
        scores=scores,
        kinds=kinds,
        unigram=model_type == 1,
        byte_fallback=bool(trainer.get(35, 0)),
        charsmap=rules.get(2, b""),
        add_dummy_prefix=bool(rules.get(3, 1)),
        remove_extra_whitespaces=bool(rules.get(4, 1)),
        roles=roles,
    )


_ROLE_IDS = (("unk", 40, 0), ("bos", 41, 1), ("eos", 42, 2), ("pad", 43, -1))
_ROLE_PIECES = (("unk", 45, b"<unk>"), ("bos", 46, b"<s>"), ("eos", 47, b"</s>"), ("pad", 48, b"<pad>"))
