"""Encoder–decoders in the parity harness: the same numbers whichever way source and target arrive.

A source goes through the encoder once; what it becomes is the memory of every step of the decoder. References: a model
of transformers, or a NumPy module `logits(tensors, config, source, target)` written from the paper.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.families import numpy_reference, parity
from tests.families.parity import (
    LENGTH,
    ROWS_OF_TEXT,
    Check,
    Outputs,
    Reference,
    Row,
    decoded_raggedly,
    deviation,
    left_padded,
    tied_head,
    worst,
)
from vitral.families import of_config
from vitral.nn import Cache, Cross, Memory, Model
from vitral.weights.load import open_checkpoint
from vitral.weights.save import save_folder

SOURCE = 29
"""Tokens of a source."""


class Seq2SeqReference(Reference):
    """A model of transformers that reads a source and writes a target, and the folder that vitral opens."""

    relative = False
    """Whether positions are distances, which have no end."""
    blind = False
    """Whether padding on the left changes nothing in transformers: absolute positions there count it, experts make room
    for it. Where it does, a padded row can be compared with the same row alone only."""

    @staticmethod
    def checks(row: Row) -> Iterator[Check]:
        yield from (whole_pass, encoder_states, half_precision, cached_pass, filled_once)
        yield from (ragged_batch, fork_and_truncate, source_padding, target_padding, long_pass)
        made = row.make()
        if hasattr(made, "lm_head") and made.lm_head.weight is made.get_input_embeddings().weight:
            yield tied_head

    def __init__(self, row: Row, folder: Path) -> None:
        self.row, self.folder = row, folder
        torch.manual_seed(zlib.crc32(row.name.encode()))
        self.theirs = row.make().eval()
        fill(self.theirs, row)
        self.theirs.save_pretrained(folder)
        if row.config or row.tensors:
            self._rewrite()
        config = self.theirs.config
        self.ask_about(config.vocab_size, getattr(config, "decoder_vocab_size", config.vocab_size))

    def ask_about(self, words: int, target_words: int) -> None:
        """Sources, targets and the reference's answer to them."""
        self.source = torch.randint(0, words, (ROWS_OF_TEXT, SOURCE))
        self.ids = torch.randint(0, target_words, (ROWS_OF_TEXT, LENGTH))
        self.source[:, :3] = self.ids[:, :3] = torch.tensor([0, 1, 2])
        self.segments = None
        self.full = self.ask(self.ids)
        for name, value in self.full.items():
            assert 0.2 < value.std() < 8, f"{self.row.name}: flat or wild {name} (std {value.std():.3g}) prove nothing"

    def ask(self, ids: Tensor, theirs: Any = None, **options: Any) -> Outputs:
        """The reference's answer to targets ids [B, T], of the rows' own sources unless `source` gives others."""
        options.pop("segments", None)
        source, seen = options.get("source", self.source), options.get("seen")
        with torch.no_grad():
            out = (theirs or self.theirs)(
                input_ids=source,
                attention_mask=None if seen is None else seen.long(),
                decoder_input_ids=ids,
                use_cache=False,
            )
        kinds = {"encoder_last_hidden_state": "memory", "last_hidden_state": "hidden", "logits": "logits"}
        return {kinds[key]: value for key, value in out.items() if key in kinds}

    def alone(self, ids: Tensor, row: int = 0, source: Tensor | None = None) -> Outputs:  # type: ignore[override]
        """The answer to one target [T] of a row's source, as [T, …]."""
        source = self.source[row] if source is None else source
        return {name: value[0] for name, value in self.ask(ids[None], source=source[None]).items()}

    def pieces(self, chunks: tuple[int, ...]) -> Tensor:
        return self.main(self.full)

    def answer_of(self, ours: Model) -> Outputs:
        return answer(ours, self.ids, self.source)


def fill(model: Any, row: Row) -> None:
    """Random numbers everywhere, in the shift of the logits too; fixed tables of sinusoids keep theirs."""
    parity.fill(model, row.scales or {})
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "create_weight"):
                module.weight.copy_(module.create_weight())
        for name, buffer in model.named_buffers():
            if name.endswith("final_logits_bias"):
                buffer.copy_(torch.randn(buffer.shape) * (row.scales or {}).get(name, 1.0))


# ── our side ────────────────────────────────────────────────────────────────────────────────────────────────


def answer(
    ours: Model, ids: Tensor, source: Tensor, *, seen: Tensor | None = None, valid: Tensor | None = None
) -> Outputs:
    """What vitral answers to targets ids [B, T] of sources [B, S]; `seen` and `valid` are False on their padding."""
    with torch.no_grad():
        memory = ours.remember(source, seen)
        assert memory.states is not None
        return {"memory": memory.states, **written(ours, ids, ours.step(ids, valid, memory=memory))}


def written(ours: Model, ids: Tensor, step: Any) -> Outputs:
    """The decoder's answer."""
    return parity.answer(ours, ids, step)


def remember(ours: Model, source: Tensor, seen: Tensor | None = None) -> Memory:
    with torch.no_grad():
        return ours.remember(source, seen)


def feed(ref: Reference, ours: Model, cache: Cache, ids: Tensor, chunk: int) -> Tensor:
    """ids [B, T] through a cache in pieces: what `ref.main` names, [B, T, …]."""
    return torch.cat([ref.main(written(ours, p, cache.extend(p.shape[1]))) for p in ids.split(chunk, 1)], 1)


# ── checks: (reference, ours) → the largest deviation ───────────────────────────────────────────────────────


def whole_pass(ref: Any, ours: Model) -> float:
    """Whole sources and whole targets, no padding; and the distributions by KL, at most 1e-9 nats apart."""
    return parity.with_distributions(ref, ref.answer_of(ours))


def encoder_states(ref: Any, ours: Model) -> float:
    """The memory alone, of each source by itself and of shorter ones."""
    found = []
    for length in (1, 2, 17, SOURCE):
        source = ref.source[:, :length]
        theirs = ref.ask(ref.ids[:, :2], source=source)["memory"]
        found.append(deviation(theirs, remember(ours, source).states))
    return max(found)


def cached_pass(ref: Any, ours: Model) -> float:
    """Every position the same when targets are written in pieces of 1, 2, 3 and 7, or as a prompt and single tokens."""
    found, want = [], ref.main(ref.full)
    for chunk in (1, 2, 3, 7):
        cache = ours.new_cache(ROWS_OF_TEXT, LENGTH, chunk=chunk, memory=remember(ours, ref.source))
        found.append(deviation(want, feed(ref, ours, cache, ref.ids, chunk)))
    cache = ours.new_cache(ROWS_OF_TEXT, LENGTH, chunk=20, memory=remember(ours, ref.source))
    mine = torch.cat((feed(ref, ours, cache, ref.ids[:, :20], 20), feed(ref, ours, cache, ref.ids[:, 20:], 1)), 1)
    return max(*found, deviation(want, mine))


def filled_once(ref: Any, ours: Model) -> float:
    """Keys and values of the memory are computed in the first step and never again: 0, or how often they were."""
    layers = [module for module in ours.modules() if isinstance(module, Cross)]
    calls = dict.fromkeys(layers, 0)

    def count(layer: Cross) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[layer] += 1

        return hook

    hooks = [layer.k.register_forward_hook(count(layer)) for layer in layers]
    cache = ours.new_cache(ROWS_OF_TEXT, LENGTH, memory=remember(ours, ref.source))
    feed(ref, ours, cache, ref.ids[:, :6], 1)
    for hook in hooks:
        hook.remove()
    assert layers, "nothing here reads a memory"
    return max(abs(n - 1) for n in calls.values())


def ragged_batch(ref: Any, ours: Model) -> float:
    """Sources and prompts of different lengths together, then single tokens, each row resting at times: as if alone."""
    sources = [ref.source[0], ref.source[1, :18], ref.source[2, :5]]
    texts, prompts = [ref.ids[0], ref.ids[1, :30], ref.ids[2, :12]], (25, 9, 1)
    ids, valid = left_padded([text[:n] for text, n in zip(texts, prompts, strict=True)])
    cache = ours.new_cache(3, LENGTH, chunk=32, memory=remember(ours, *left_padded(sources)))
    want = [ref.main(ref.alone(text, source=source)) for text, source in zip(texts, sources, strict=True)]
    return decoded_raggedly(cache, texts, ids, valid, want, lambda ids, step: ref.main(written(ours, ids, step)))


def fork_and_truncate(ref: Any, ours: Model) -> float:
    """A copied cache takes its rows' memories with it and leaves the first alone; a row cut back goes on otherwise."""
    texts, other, sources = ref.ids, ref.ids.flip(0), [ref.source[0], ref.source[1, :11], ref.source[2, :20]]
    cache = ours.new_cache(3, 64, chunk=7, memory=remember(ours, *left_padded(sources)))
    want = [ref.main(ref.alone(text, source=source)) for text, source in zip(texts, sources, strict=True)]
    feed(ref, ours, cache, texts[:, :15], 7)
    rows = [2, 0, 0]
    branch = cache.fork(rows)
    branched = torch.cat((texts[rows, :15], other[:, 15:29]), 1)
    mine = feed(ref, ours, branch, branched[:, 15:], 7)
    theirs = [ref.main(ref.alone(text, source=sources[row]))[15:] for text, row in zip(branched, rows, strict=True)]
    apart = max(deviation(a, b) for a, b in zip(theirs, mine, strict=True))
    mine = feed(ref, ours, cache, texts[:, 15:29], 7)
    same = max(deviation(a[15:29], b) for a, b in zip(want, mine, strict=True))
    lengths = (28, 22, 0)
    for row, length in enumerate(lengths):
        cache.truncate(row, length)
    joined = [torch.cat((texts[row, :n], other[row, 3:15])) for row, n in enumerate(lengths)]
    mine = feed(ref, ours, cache, other[:, 3:15], 5)
    theirs = [ref.main(ref.alone(text, source=source))[-12:] for text, source in zip(joined, sources, strict=True)]
    cut = max(deviation(a, b) for a, b in zip(theirs, mine, strict=True))
    return max(apart, same, cut)


def sides(rows: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids, valid) of rows padded on the left, on the right, on both sides."""
    left, valid = left_padded(rows)
    shifts = [left.shape[1] - len(row) for row in rows]
    for share in (0, 1, 2):
        by = [0 if not share else shift // share for shift in shifts]
        turned = [torch.stack([row.roll(-n) for row, n in zip(each, by, strict=True)]) for each in (left, valid)]
        yield turned[0], turned[1]


def source_padding(ref: Any, ours: Model) -> float:
    """0 to 28 paddings of a source on the left, on the right, on both sides: as without, and never NaN; on the right
    (on the left too, where transformers is blind to it) also as transformers has it."""
    sources = [ref.source[0, : SOURCE - pad] for pad in range(SOURCE)]
    ids = ref.ids[:1, :7]
    alone = [ref.alone(ids[0], source=source) for source in sources]
    targets, found = ids.expand(len(sources), -1), []
    for turn, (source, seen) in enumerate(sides(sources)):
        mine = answer(ours, targets, source, seen=seen)
        if not all(value.isfinite().all() for value in mine.values()):
            return math.inf
        for i, each in enumerate(alone):
            found.append(deviation(each["memory"], mine["memory"][i, seen[i]]))
            found.append(deviation(ref.main(each), ref.main(mine)[i]))
        if turn == 1 or ref.blind:
            theirs = ref.ask(targets, source=source, seen=seen)
            found.append(deviation(ref.main(theirs), ref.main(mine)))
            found.append(deviation(theirs["memory"][seen], mine["memory"][seen]))
    seen[7] = False  # a source of nothing but padding
    if not all(value.isfinite().all() for value in answer(ours, targets, source, seen=seen).values()):
        return math.inf
    return max(found)


def target_padding(ref: Any, ours: Model) -> float:
    """0 to 31 paddings of a target on any side, beside sources padded too: as without."""
    texts = [ref.ids[0, : LENGTH - pad] for pad in range(32)]
    lengths = [3 + (5 * i) % (SOURCE - 2) for i in range(32)]
    sources = [ref.source[0, :n] for n in lengths]
    want = [ref.main(ref.alone(text, source=source)) for text, source in zip(texts, sources, strict=True)]
    source, seen = left_padded(sources)
    found = []
    for ids, valid in sides(texts):
        mine = ref.main(answer(ours, ids, source, seen=seen, valid=valid))
        if not mine.isfinite().all():
            return math.inf
        found += [deviation(each, mine[i][valid[i]]) for i, each in enumerate(want)]
    return max(found)


def long_pass(ref: Any, ours: Model) -> float:
    """A source and a target far longer than any distance that has a bucket of its own, or as long as the context."""
    length = 300 if ref.relative else 64
    source, ids = (each.repeat(1, 12)[:2, :length] for each in (ref.source, ref.ids))
    return worst(ref.ask(ids, source=source), answer(ours, ids, source))


def half_precision(ref: Any, ours: Model) -> float:
    """The weights in bfloat16: all finite, and near the float32 numbers on average (the deviation is 0 if so)."""
    mine = answer(ref.load(torch.bfloat16), ref.ids, ref.source)
    for name, theirs in ref.full.items():
        error = (theirs - mine[name].float()).abs().mean()
        if not mine[name].isfinite().all() or error > 0.1 * max(theirs.std().item(), 1):
            return math.inf
    return 0.0


class ByDistance(Seq2SeqReference):
    """One whose positions are distances."""

    relative = blind = True


class Routed(ByDistance):
    """One whose experts have a limit, towards which transformers counts padding."""

    blind = False


class Seq2SeqNumpy(Seq2SeqReference):
    """A folder that vitral wrote from random numbers, and what a NumPy module makes of the tensors in it, in float64.

    `Row.make` gives (the module, a config). Padding is taken out of each row before the module is asked.
    """

    @staticmethod
    def checks(row: Row) -> Iterator[Check]:
        yield from (whole_pass, encoder_states, half_precision, cached_pass, filled_once)
        yield from (ragged_batch, fork_and_truncate, source_padding, target_padding)
        if row.make()[1]["tie_word_embeddings"]:
            yield tied_head

    def __init__(self, row: Row, folder: Path) -> None:
        self.row, self.folder = row, folder
        torch.manual_seed(zlib.crc32(row.name.encode()))
        self.module, config = row.make()
        family = of_config(config)
        model = family.spec(config).build().eval()
        numpy_reference.fill(model, row.scales or {})
        save_folder(folder, model=model, names=family.NAMES, config=config, dtype="float32")
        self.theirs = self.read(folder)
        self.ask_about(config["vocab_size"], config["vocab_size"])

    @property
    def said(self) -> str:
        return f"float64 NumPy, written from the paper (tests/references/{self.module.__name__.split('.')[-1]}.py)"

    def read(self, folder: Path) -> Any:
        tensors = {name: value.double().numpy() for name, value in numpy_reference.load_tensors(folder).items()}
        return tensors, open_checkpoint(folder).config

    def ask(self, ids: Tensor, theirs: Any = None, **options: Any) -> Outputs:
        source, seen = options.get("source", self.source), options.get("seen")
        tensors, config = theirs or self.theirs
        if seen is None:
            found = self.module.logits(tensors, config, source.numpy(), ids.numpy())
            return {name: torch.from_numpy(value) for name, value in found.items()}
        out = {"memory": torch.zeros(*source.shape, config["d_model"], dtype=torch.float64)}
        out["logits"] = torch.zeros(*ids.shape, config["vocab_size"], dtype=torch.float64)
        for i, mask in enumerate(seen):
            row = self.ask(ids[i : i + 1], theirs, source=source[i : i + 1, mask])
            out["memory"][i, mask], out["logits"][i] = row["memory"][0], row["logits"][0]
        return out

    def answers_again(self, folder: Path) -> float:
        """How far the module's answer from a folder that was written again is from its first."""
        return worst(self.full, self.ask(self.ids, self.read(folder)))

    def body_again(self, folder: Path) -> float:
        """Nothing: there is no class for a body alone."""
        return 0.0


class Renamed(Seq2SeqReference):
    """A model of transformers whose folder is then given the name and keys of another family that must compute the same
    (the row's `config` and `tensors` say how); transformers still answers from what it made itself.
    """

    def _rewrite(self) -> None:
        self._change_files()

    @staticmethod
    def checks(row: Row) -> Iterator[Check]:
        yield from (whole_pass, encoder_states, cached_pass, source_padding)

    def round_trip(self, folder: Path) -> float:
        """Nothing to read back: transformers has no such family."""
        return 0.0
