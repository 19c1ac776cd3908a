"""Training a tokenizer: from texts to a vocabulary, by the three methods that language models use.

- "bpe": byte-level byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909; bytes: GPT-2). Joins the most frequent
  pair again and again; any text can be encoded.
- "wordpiece": as BERT reads it (arXiv:1810.04805): pieces and `##` continuations, the longest match from the left.
- "unigram": Kudo 2018 (arXiv:1804.10959): begins with many pieces and drops those whose loss costs least likelihood.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Core

from vitral.errors import NotFoundError, VitralError, did_you_mean
from vitral.text.frame import set_bert_frame, set_frame
from vitral.text.normalizer import Normalizer
from vitral.text.splits import GPT2, byte_level
from vitral.text.tokenizer import Tokenizer

Kind = Literal["bpe", "wordpiece", "unigram"]
ROLES: dict[str, dict[str, str]] = {
    "bpe": {"bos": "<|endoftext|>", "eos": "<|endoftext|>"},
    "wordpiece": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "unigram": {"pad": "<pad>", "eos": "</s>", "unk": "<unk>", "bos": "<s>"},
}
"""The special tokens that each kind has from the start; they take the first ids."""
_LARGER = "Give a larger one, or normalise more"
_CHUNK = 1 << 16  # characters handed over at a time


def train(
    kind: Kind,
    source: Iterable[str | Path],
    vocab_size: int,
    *,
    normalizer: Normalizer | None = None,
    specials: Sequence[str] = (),
    pattern: str = GPT2,
    min_frequency: int = 2,
) -> Tokenizer:
    """A tokenizer learnt from texts. The same texts in the same order give the same tokenizer.

    Args:
        source: texts (`str`) and files of text (`Path`), in any mixture; read once ("wordpiece" reads twice).
        vocab_size: number of ids, special tokens included; fewer if the texts do not give so many.
        normalizer: what is done to texts first; it becomes part of the tokenizer.
        specials: further special tokens, such as `<|im_start|>`.
        pattern: how "bpe" cuts texts into words.
        min_frequency: how often a pair must occur to be joined ("bpe", "wordpiece").

    Raises:
        VitralError: an unknown kind, a size that does not hold the special tokens and letters, or no text at all.
    """
    builders: dict[str, Callable[[str], tuple[Core, dict[str, Any]]]] = {
        "bpe": _bpe,
        "wordpiece": _wordpiece,
        "unigram": _unigram,
    }
    if kind not in builders:
        raise VitralError(f"kind is {kind!r}", did_you_mean(str(kind), builders), param="kind")
    names = list(dict.fromkeys((*ROLES[kind].values(), *specials)))
    least = len(names) + (256 if kind == "bpe" else 1)
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < least:
        raise VitralError(f"vocab_size is {vocab_size!r}", f"{kind} needs at least {least} here", param="vocab_size")
    core, options = builders[kind](pattern)
    core.normalizer = normalizers.Sequence((normalizer or Normalizer()).stages())
    if kind == "wordpiece":
        source = list(source)
    _learn(kind, core, source, options | {"vocab_size": vocab_size, "min_frequency": min_frequency}, names)
    size = core.get_vocab_size()
    if size > vocab_size:
        raise VitralError(
            f"vocab_size is {vocab_size}, but the letters of the texts alone take {size}",
            _LARGER,
            param="vocab_size",
        )
    _set_frame(kind, core)
    return Tokenizer(core, {f"{role}_token": name for role, name in ROLES[kind].items()})


def _bpe(pattern: str) -> tuple[Core, dict[str, Any]]:
    core = Core(models.BPE())
    core.pre_tokenizer = byte_level(pattern)
    core.decoder = decoders.ByteLevel()
    return core, {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}


def _wordpiece(_: str) -> tuple[Core, dict[str, Any]]:
    core = Core(models.WordPiece(unk_token=ROLES["wordpiece"]["unk"]))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return core, {}


def _unigram(_: str) -> tuple[Core, dict[str, Any]]:
    core = Core(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return core, {"unk_token": ROLES["unigram"]["unk"]}


def _learn(kind: str, core: Core, source: Iterable[str | Path], options: dict[str, Any], names: list[str]) -> None:
    """Trains the model of `core`, whose special tokens are `names`."""
    makers: dict[str, Callable[..., trainers.Trainer]] = {
        "bpe": trainers.BpeTrainer,
        "wordpiece": trainers.WordPieceTrainer,
        "unigram": trainers.UnigramTrainer,
    }
    if kind == "unigram":
        del options["min_frequency"]
    # The library numbers `##` letters in the order of a hash table, different in each run; numbered here first, they
    # are not. They leave the special tokens again below.
    letters = _continuations(core, source) if kind == "wordpiece" else []
    learner = Core(core.model)
    learner.normalizer, learner.pre_tokenizer = core.normalizer, core.pre_tokenizer
    trainer = makers[kind](special_tokens=[*names, *letters], show_progress=False, **options)
    seen = _Seen()
    try:
        learner.train_from_iterator(seen.through(_texts(source)), trainer)
    except VitralError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise VitralError(
            f"the texts give no {kind} of vocab_size {options['vocab_size']} ({error})", _LARGER
        ) from error
    if not seen.characters:
        raise VitralError("source holds no text", "Give texts or files to learn from", param="source")
    core.model = _settled(learner.model, len(names)) if kind == "unigram" else learner.model
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def _continuations(core: Core, source: Iterable[str | Path]) -> list[str]:
    """The letters that follow another in a word, as WordPiece writes them."""
    found: set[str] = set()
    for text in _texts(source):
        for word, _ in core.pre_tokenizer.pre_tokenize_str(core.normalizer.normalize_str(text)):
            found.update(word[1:])
    return [f"##{letter}" for letter in sorted(found)]


def _settled(model: models.Model, fixed: int) -> models.Model:
    """The same Unigram whatever the run: two things in it depend on the order of a hash table.

    Sums of scores differ in their last digits, so scores are rounded. Letters that were pruned come back at the end of
    the list, each at most 0.0001 less likely than the one before; these are sorted.
    """
    spec = json.loads(model.__getstate__())
    rows = sorted(spec["vocab"][fixed:], key=lambda row: -row[1])
    tail = len(rows) - 1
    while tail > 0 and len(rows[tail - 1][0]) == 1 and rows[tail - 1][1] - rows[tail][1] < 1.01e-4:
        tail -= 1
    letters = sorted(piece for piece, _ in rows[tail:])
    settled = rows[:tail] + [[letter, score] for letter, (_, score) in zip(letters, rows[tail:], strict=True)]
    rounded = sorted(((piece, round(score, 6)) for piece, score in settled), key=lambda row: (-row[1], row[0]))
    head = [(piece, score) for piece, score in spec["vocab"][:fixed]]
    return models.Unigram(head + rounded, unk_id=spec["unk_id"], byte_fallback=False)


def _set_frame(kind: str, core: Core) -> None:
    ids = core.get_vocab()
    if kind == "wordpiece":
        set_bert_frame(core, ids[ROLES[kind]["cls"]], ids[ROLES[kind]["sep"]])
    elif kind == "unigram":
        set_frame(core, after=[ids[ROLES[kind]["eos"]]])


class _Seen:
    """Counts what passes through, since the library is silent about learning from nothing."""

    def __init__(self) -> None:
        self.characters = 0

    def through(self, texts: Iterator[str]) -> Iterator[str]:
        for text in texts:
            self.characters += len(text)
            yield text


def _texts(source: Any) -> Iterator[str]:
    if isinstance(source, str | Path):
        raise VitralError(f"source is a single {type(source).__name__}", "Give a list", param="source")
    for item in source:
        if isinstance(item, Path):
            yield from _lines(item)
        elif isinstance(item, str) and item.isascii():
            yield item
        else:
            yield _checked(item)


def _lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        if path.is_dir():
            raise VitralError(f"{path} is a folder", "Name the text files in it")
        if path.exists():
            raise VitralError(f"{path} is not a regular file", "Write the text to one first")
        raise NotFoundError(f"{path} does not exist", "Check its name")
    try:
        with path.open(encoding="utf-8") as file:
            while chunk := file.readlines(_CHUNK):
                yield "".join(chunk)
    except UnicodeDecodeError as error:
        raise VitralError(f"{path} is not UTF-8 (byte {error.start} of a block)", "Re-encode it as UTF-8") from error


def _checked(item: Any) -> str:
    try:
        item.encode("utf-8")
    except (AttributeError, UnicodeEncodeError) as error:
        raise VitralError(f"source holds {item!r:.40}, which is no valid text", "Give texts or Paths") from error
    return item
