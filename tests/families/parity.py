"""One harness for every family: the same numbers as the published implementation, whichever way the tokens arrive.

    Row (a tiny random model of transformers) ─▶ folder on disk ─▶ vitral ─▶ check(reference, ours) ─▶ worst deviation

A check gives back a number instead of asserting, so that `test_parity.py` can demand that it is small and
`test_mutants.py`, with a known bug put back in, that it is not. NaN and infinity count as an infinite deviation.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.cache_utils import DynamicCache

from vitral.families import names_of
from vitral.nn import Cache, Model
from vitral.weights.load import load_model, open_checkpoint
from vitral.weights.save import save_folder

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

TOLERANCE = 1e-5
"""Largest |Δ| of logits (hidden states, where there is no head) of order 1, in float32."""
ROWS_OF_TEXT, LENGTH = 3, 37
Outputs = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published architecture in one of its variants.

    Args:
        families: the families it speaks for, by their names in `vitral.families()`.
        make: the tiny model of transformers.
        config: changes its config.json into what older or other files say.
        tensors: changes its tensors likewise (names, buffers).
        scales: name ending → factor, laid on after the random fill: tiny streams make every norm's eps count.
        grows: the rotation depends on the length so far: a cached pass differs from a whole one, in transformers too.
        same_names: writing the model again gives the names it was read under.
        reference: what makes the row real; another kind of model brings its own, with its own checks.
    """

    name: str
    families: tuple[str, ...]
    make: Callable[[], Any]
    config: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    tensors: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    scales: Mapping[str, float] | None = None
    grows: bool = False
    same_names: bool = True
    reference: Callable[[Row, Path], Reference] | None = None

    def real(self, folder: Path) -> Reference:
        return (self.reference or Reference)(self, folder)

    def checks(self) -> Iterator[Check]:
        """The checks that mean something for it."""
        return getattr(self.reference or Reference, "checks")(self)  # noqa: B009


class Reference:
    """A row made real: the model of transformers, and the folder that vitral opens."""

    @staticmethod
    def checks(row: Row) -> Iterator[Check]:
        return checks(row)

    def __init__(self, row: Row, folder: Path) -> None:
        self.row, self.folder = row, folder
        torch.manual_seed(zlib.crc32(row.name.encode()))
        self.theirs = row.make().eval()
        fill(self.theirs, row.scales or {})
        self.theirs.save_pretrained(folder)
        if row.config or row.tensors:
            self._rewrite()
        self.ids = torch.randint(0, self.theirs.config.vocab_size, (ROWS_OF_TEXT, LENGTH))
        self.ids[:, :3] = torch.tensor([0, 1, 2])  # the ids whose embeddings may be tiny
        self.segments = torch.randint(0, 2, self.ids.shape) if self.is_bert else None
        self.full = self.ask(self.ids, segments=self.segments)
        logits = next(iter(self.full.values()))
        assert 0.2 < logits.std() < 8, f"{row.name}: flat or wild outputs (std {logits.std():.3g}) prove nothing"

    def _rewrite(self) -> None:
        """Change the files, and let transformers itself say what the changed files mean."""
        self._change_files()
        self.theirs = type(self.theirs).from_pretrained(self.folder, attn_implementation="eager").eval()

    def _change_files(self) -> None:
        path = self.folder / "config.json"
        if self.row.config:
            path.write_text(json.dumps(self.row.config(json.loads(path.read_text("utf-8")))), "utf-8")
        if self.row.tensors:
            path = self.folder / "model.safetensors"
            tensors = self.row.tensors({k: v.clone() for k, v in load_file(path).items()})
            save_file(tensors, path, metadata={"format": "pt"})

    @property
    def is_bert(self) -> bool:
        return self.theirs.config.model_type == "bert"

    @property
    def said(self) -> str:
        """What it is, for a certificate."""
        return f"transformers {type(self.theirs).__name__}"

    def main(self, outputs: Outputs) -> Tensor:
        """Of these outputs the one for each token: logits, or the hidden states of a body without a head."""
        return outputs["logits" if "logits" in self.full else "hidden"]

    def ask(self, ids: Tensor, theirs: Any = None, **options: Any) -> Outputs:
        """What transformers answers: name → tensor."""
        if options.get("segments", True) is None:
            options.pop("segments")
        if "segments" in options:
            options["token_type_ids"] = options.pop("segments")
        theirs = theirs or self.theirs
        with torch.no_grad():
            if self.row.grows:  # its rotary part remembers the longest text since the last short one
                theirs(ids[:, :1])
            out = theirs(ids, **options)
        return named(out, theirs)

    def load(self, dtype: torch.dtype = torch.float32) -> Model:
        return load_model(open_checkpoint(self.folder), dtype=dtype)[0]

    def alone(self, ids: Tensor) -> Outputs:
        """The answer to one text [T], as [T, …]."""
        return {name: value[0] for name, value in self.ask(ids[None]).items()}

    def pieces(self, chunks: tuple[int, ...]) -> Tensor:
        """The reference for texts in pieces (the last size repeats): the whole pass, unless the rotation grows."""
        if not self.row.grows:
            return self.main(self.full)
        out, done, past = [], 0, DynamicCache(config=self.theirs.config)
        with torch.no_grad():
            self.theirs(self.ids[:, :1])
            for chunk in (*chunks, *chunks[-1:] * LENGTH):
                piece = self.ids[:, done : done + chunk]
                done += piece.shape[1]
                if piece.shape[1]:
                    answer = self.theirs(piece, past_key_values=past, use_cache=True)
                    out.append(self.main(named(answer, self.theirs)))
        return torch.cat(out, 1)

    def answers_again(self, folder: Path) -> float:
        """How far the reference's answer from a folder that was written again is from its first."""
        theirs = type(self.theirs).from_pretrained(folder, attn_implementation="eager").eval()
        return worst(self.full, self.ask(self.ids, theirs, segments=self.segments))

    def body_again(self, folder: Path) -> float:
        """The same of the body alone, without heads."""
        body = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        return worst(*(self.ask(self.ids, model, segments=self.segments) for model in (self.theirs.base_model, body)))

    def answer_of(self, ours: Model) -> Outputs:
        """What vitral answers to the whole texts."""
        return answer(ours, self.ids, segments=self.segments)

    def round_trip(self, folder: Path) -> float:
        """See the function below."""
        return round_trip(self, folder)


def named(out: Any, theirs: Any) -> Outputs:
    """The outputs of a transformers model under our words."""
    kinds = {"last_hidden_state": "hidden", "pooler_output": "pooled", "prediction_logits": "logits"}
    kinds |= {"logits": "logits", "seq_relationship_logits": "classes"}
    found = {kinds[key]: value for key, value in out.items() if key in kinds and value is not None}
    if type(theirs).__name__ == "BertForNextSentencePrediction":
        found = {"classes": found["logits"]}
    return found


def fill(model: Any, scales: Mapping[str, float]) -> None:
    """Random numbers in every parameter, norms and biases too, scaled so that logits are of order 1."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape) * min(p.shape[-1], 64) ** -0.5)
            else:
                norm = "norm" in name.lower() or "ln_" in name
                p.copy_(torch.randn(p.shape) * 0.3 + float(norm and name.endswith("weight")))
        for name, p in model.named_parameters():
            for ending, factor in scales.items():
                if name.endswith(ending):
                    p.mul_(factor)
        for head in (m for m in model.modules() if type(m).__name__ == "BertLMPredictionHead"):
            head.decoder.bias.copy_(head.bias)  # one bias under two names, also where the matrices are not tied


# ── our side ────────────────────────────────────────────────────────────────────────────────────────────────


def answer(ours: Model, ids: Tensor, step: Any = None, *, segments: Tensor | None = None) -> Outputs:
    """What vitral answers, under the same words."""
    with torch.no_grad():
        step = step or ours.step(ids)
        hidden = ours.hidden(ids, step, segments=segments)
        out = {"hidden": hidden}
        if ours.head is not None:
            out["logits"] = ours.head(hidden)
        if ours.pooler is not None:
            out["pooled"] = ours.pooler(hidden, step)
            if ours.classifier is not None:
                out["classes"] = ours.classifier(out["pooled"])
        if ours.score is not None:
            out["score"] = ours.score(hidden)
    return out


def worst(theirs: Outputs, ours: Outputs) -> float:
    """The largest deviation over all that both name; infinite where ours is not finite."""
    common = theirs.keys() & ours.keys()
    assert common, f"nothing to compare: {sorted(theirs)} and {sorted(ours)}"
    return max(deviation(theirs[name], ours[name]) for name in common)


def deviation(theirs: Tensor, ours: Tensor) -> float:
    assert theirs.shape == ours.shape, f"shapes {tuple(theirs.shape)} and {tuple(ours.shape)}"
    error = (theirs.double() - ours.double()).abs().max().item()
    return error if math.isfinite(error) else math.inf


def feed(ref: Reference, ours: Model, cache: Cache, ids: Tensor, chunk: int) -> Tensor:
    """ids [B, T] through a cache in pieces: what `ref.main` names, [B, T, …]."""
    return torch.cat([ref.main(answer(ours, piece, cache.extend(piece.shape[1]))) for piece in ids.split(chunk, 1)], 1)


def left_padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(ids, valid) [B, longest]; padding holds an ordinary id, so that leaving out the mask shows."""
    longest = max(len(row) for row in rows)
    ids = torch.stack([torch.cat((torch.full((longest - len(row),), 5), row)) for row in rows])
    valid = torch.stack([torch.arange(longest) >= longest - len(row) for row in rows])
    return ids, valid


# ── checks: (reference, ours) → the largest deviation ───────────────────────────────────────────────────────


def whole_pass(ref: Reference, ours: Model) -> float:
    """One forward over whole texts, with segments where there are any; and the distributions by KL."""
    return with_distributions(ref, answer(ours, ref.ids, segments=ref.segments))


def with_distributions(ref: Reference, mine: Outputs) -> float:
    """The largest deviation; at least twice the tolerance where a distribution is more than 1e-9 nats away."""
    found = worst(ref.full, mine)
    return found if _divergence(ref, mine) <= 1e-9 else max(found, 2 * TOLERANCE)


def _divergence(ref: Reference, mine: Outputs) -> float:
    """The largest KL(theirs ‖ ours) of any next-token distribution, in nats."""
    if "logits" not in ref.full:
        return 0.0
    p, q = (out["logits"].double().log_softmax(-1) for out in (ref.full, mine))
    return (p.exp() * (p - q)).sum(-1).max().item()


def cached_pass(ref: Reference, ours: Model) -> float:
    """Every position the same when texts arrive in pieces of 1, 2, 3 and 7, or as a prompt and single tokens."""
    found = []
    for chunk in (1, 2, 3, 7):
        cache = ours.new_cache(ROWS_OF_TEXT, LENGTH, chunk=chunk)
        found.append(deviation(ref.pieces((chunk,)), feed(ref, ours, cache, ref.ids, chunk)))
    cache = ours.new_cache(ROWS_OF_TEXT, LENGTH, chunk=20)
    mine = torch.cat((feed(ref, ours, cache, ref.ids[:, :20], 20), feed(ref, ours, cache, ref.ids[:, 20:], 1)), 1)
    return max(*found, deviation(ref.pieces((20, 1)), mine))


def ragged_batch(ref: Reference, ours: Model) -> float:
    """Rows of different lengths prefilled together, then decoded together, each resting at times: each as if alone."""
    texts, prompts = [ref.ids[0], ref.ids[1, :30], ref.ids[2, :12]], (25, 9, 1)
    ids, valid = left_padded([text[:n] for text, n in zip(texts, prompts, strict=True)])
    cache = ours.new_cache(3, LENGTH, chunk=32)
    want = [ref.main(ref.alone(text)) for text in texts]
    return decoded_raggedly(cache, texts, ids, valid, want, lambda ids, step: ref.main(answer(ours, ids, step)))


def decoded_raggedly(
    cache: Cache,
    texts: Sequence[Tensor],
    ids: Tensor,
    valid: Tensor,
    want: Sequence[Tensor],
    say: Callable[[Tensor, Any], Tensor],
) -> float:
    """Padded prompts `ids`, and then what is left of the texts, a token at a time: how far all is from `want`.

    Args:
        say: (ids, step) → what is compared, [B, T, …].
    """
    out = say(ids, cache.extend(valid))
    got = [[row[keep]] for row, keep in zip(out, valid, strict=True)]
    for turn in itertools.count():
        left = [text[n:] for n, text in zip(cache.lengths, texts, strict=True)]
        if not any(len(rest) for rest in left):
            return max(deviation(a, torch.cat(b)) for a, b in zip(want, got, strict=True))
        alive = torch.tensor([[len(rest) > 0 and (turn + row) % 3 > 0] for row, rest in enumerate(left)])
        ids = torch.stack([rest[:1] if on else torch.tensor([5]) for rest, on in zip(left, alive, strict=True)])
        out = say(ids, cache.extend(alive))
        for pieces, row, on in zip(got, out, alive, strict=True):
            pieces.append(row[on])
    raise AssertionError


def fork_and_truncate(ref: Reference, ours: Model) -> float:
    """A copied cache goes its own way and leaves the first alone; a row cut back continues with other tokens."""
    texts, other = ref.ids, ref.ids.flip(0)
    cache = ours.new_cache(3, 64, chunk=7)
    feed(ref, ours, cache, texts[:, :15], 7)
    branch = cache.fork([2, 0, 0])
    branched = torch.cat((texts[[2, 0, 0], :15], other[:, 15:29]), 1)
    apart = deviation(ref.main(ref.ask(branched))[:, 15:], feed(ref, ours, branch, branched[:, 15:], 7))
    mine = feed(ref, ours, cache, texts[:, 15:29], 7)
    same = deviation(ref.main(ref.full)[:, 15:29], mine)
    lengths = (28, 22, 26)
    for row, length in enumerate(lengths):
        cache.truncate(row, length)
    joined = [torch.cat((texts[row, :n], other[row, 3:15])) for row, n in enumerate(lengths)]
    mine = feed(ref, ours, cache, other[:, 3:15], 5)
    cut = max(deviation(ref.main(ref.alone(text))[-12:], row) for text, row in zip(joined, mine, strict=True))
    return max(apart, same, cut)


def padding(ref: Reference, ours: Model) -> float:
    """0 to 31 paddings on the left, on the right, on both sides: as without; never NaN; as transformers has it."""
    text = ref.ids[0]
    texts = [text[: LENGTH - pad] for pad in range(32)]
    whole = ref.alone(text)
    sliceable = not ref.is_bert and not ref.row.grows
    alone = [{"x": ref.main(whole)[: len(t)]} if sliceable else _each(ref, ref.alone(t)) for t in texts]
    left, valid = left_padded(texts)
    right = torch.stack([row.roll(-pad) for pad, row in enumerate(left)])
    both = torch.stack([row.roll(-(pad // 2)) for pad, row in enumerate(left)])
    found = []
    for ids, seen in (
        (left, valid),
        (right, torch.stack([row.roll(-pad) for pad, row in enumerate(valid)])),
        (both, torch.stack([row.roll(-(pad // 2)) for pad, row in enumerate(valid)])),
    ):
        mine = answer(ours, ids, ours.step(ids, seen))
        if not all(value.isfinite().all() for value in mine.values()):
            return math.inf
        found += [deviation(a["x"], ref.main(mine)[i][seen[i]]) for i, a in enumerate(alone)]
        found += [deviation(a["pooled"], mine["pooled"][i]) for i, a in enumerate(alone) if "pooled" in a]
    lost = valid.clone()
    lost[7] = False  # a row of nothing but padding
    if not ref.main(answer(ours, left, ours.step(left, lost))).isfinite().all():
        return math.inf
    if not ref.row.grows:  # there transformers lets a row depend on its neighbours' length
        positions = (valid.cumsum(-1) - 1).clamp_min(0)
        theirs = ref.main(ref.ask(left, attention_mask=valid.long(), position_ids=positions))
        mine = ref.main(answer(ours, left, ours.step(left, valid)))
        found.append(deviation(theirs[valid], mine[valid]))
    return max(found)


def _each(ref: Reference, outputs: Outputs) -> Outputs:
    return {"x": ref.main(outputs)} | {name: outputs[name] for name in outputs.keys() & {"pooled"}}


def far_positions(ref: Reference, ours: Model) -> float:
    """A few tokens each around positions 0, 8191, 8192 and 60000."""
    found = []
    for start in (0, 8188, 8192, 59997):
        ids = ref.ids[:1, 5:12]
        positions = torch.arange(start, start + ids.shape[1])[None]
        mine = answer(ours, ids, ours.step(ids, positions=positions))
        found.append(worst(ref.ask(ids, position_ids=positions), mine))
    return max(found)


def tied_head(ref: Reference, ours: Model) -> float:
    """The head reads the embedding itself, not a copy: a change of the one is a change of the other."""
    table = ours.embed.tokens.weight
    x = torch.randn(2, table.shape[1])
    with torch.no_grad():
        table += torch.randn(table.shape)
    ours.head.proj(x).sum().backward()
    through_head = table.grad
    if through_head is None:
        return math.inf
    return max(deviation(x @ table.T, ours.head.proj(x)), deviation(x.sum(0).expand_as(table), through_head))


def half_precision(ref: Reference, ours: Model) -> float:
    """The weights in bfloat16: all finite, and near the float32 numbers on average (the deviation is 0 if so)."""
    mine = answer(ref.load(torch.bfloat16), ref.ids, segments=ref.segments)
    for name, theirs in ref.full.items():
        error = (theirs - mine[name].float()).abs().mean()
        if not mine[name].isfinite().all() or error > 0.1 * max(theirs.std().item(), 1):
            return math.inf
    return 0.0


Check = Callable[[Reference, Model], float]
DECODING: tuple[Check, ...] = (cached_pass, ragged_batch, fork_and_truncate)


def checks(row: Row) -> Iterator[Check]:
    """The checks that mean something for a row."""
    model = row.make()
    kind = model.config.model_type
    yield whole_pass
    yield half_precision
    if kind != "bert":
        yield from DECODING if not row.grows else (cached_pass,)
    if type(model).__name__ != "BertForNextSentencePrediction":
        yield padding
    if kind not in ("bert", "gpt2", "openai-gpt"):  # learned positions end somewhere
        yield far_positions
    if model.config.tie_word_embeddings and not type(model).__name__.endswith(("BertModel", "Prediction")):
        yield tied_head


def write_again(ref: Reference, folder: Path, **options: Any) -> Path:
    """Read the reference's folder and write it to another."""
    model, _, config, family = load_model(open_checkpoint(ref.folder))
    return save_folder(folder, model=model, names=names_of(family, config), config=config, dtype="float32", **options)


def round_trip(ref: Reference, folder: Path) -> float:
    """Import and export, whole and in shards: the same numbers bit for bit, which both sides read as the first.

    Back comes the largest deviation of an answer, theirs or ours, from what it was before. It is 0 or near it: equal
    numbers at other addresses may be summed in another order.
    """
    one, shards = write_again(ref, folder / "one"), write_again(ref, folder / "shards", max_shard_bytes=9000)
    assert len(list(shards.glob("model-*.safetensors"))) > 1, "9000 bytes a file, and all in one"
    if ref.row.same_names:
        before, after = (load_file(place / "model.safetensors") for place in (ref.folder, one))
        assert after.keys() == before.keys(), f"other names: {sorted(after.keys() ^ before.keys())}"
        changed = [key for key in before if not same_bits(after[key], before[key])]
        assert not changed, f"other numbers: {changed}"
    found = [ref.body_again(one)]
    for place in (one, shards):
        first, again = ref.load(), load_model(open_checkpoint(place))[0]
        held = again.state_dict()
        changed = [name for name, value in first.state_dict().items() if not same_bits(value, held[name])]
        assert not changed, f"other numbers: {changed}"
        found += [ref.answers_again(place), worst(ref.answer_of(first), ref.answer_of(again))]
    return max(found)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
