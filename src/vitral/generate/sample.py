"""Logits → next id: penalties, temperature, filters, the draw. Pure functions; nothing is changed in place.

    logits ─▶ penalties ─▶ temperature ─▶ top_k ─▶ top_p ─▶ min_p ─▶ draw ─▶ id
       └────▶ log_softmax ─▶ log-probabilities and candidates, those of the model itself

The order, and which ids survive each filter, ties included, are those of Hugging Face's logits processors. Each row is
worked alone with its own settings and generator, so what it draws cannot depend on its neighbours. (B rows, V ids)
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitral.errors import VitralError
from vitral.generate.request import Sampling

COLDEST = 1e-5  # temperatures below this are greedy: only exact ties would still be drawn, and dividing may overflow
NEVER = -1e30  # a logit of probability 0 that every penalty leaves finite


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sequence that wants its next id. Only a greedy one may go without a generator (see `seeded`)."""

    sampling: Sampling
    generator: torch.Generator | None = None
    prompt: Sequence[int] = ()
    output: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The id taken, its natural log-probability, and the `Sampling.candidates` best (id, log-probability) pairs."""

    id: int
    logprob: float
    candidates: tuple[tuple[int, float], ...] = ()


def seeded(seed: int | None) -> torch.Generator:
    """One request's own randomness; None takes a fresh seed from the operating system.

    On the CPU whatever the model's device, so that a seed means the same everywhere. Only the seed's low 32 bits count.
    """
    return torch.Generator().manual_seed(secrets.randbits(32) if seed is None else seed)


def choose(
    logits: Tensor, rows: Sequence[Row], *, vocab_limit: int | None = None, banned: Collection[int] = ()
) -> list[Choice]:
    """Choose the next id of every row of logits [B, V], which may be of any float type; the work is in float32.

    Ids from `vocab_limit` on are padding that the tokenizer does not know, and `banned` ones those that the model's
    publisher never wants chosen. They are cut off before anything else: their probability is 0, and the other
    probabilities sum to 1 without them.

    Raises VitralError when a logit is NaN or infinite, or a setting made it so.
    """
    if logits.shape[0] != len(rows):
        raise ValueError(f"{logits.shape[0]} rows of logits for {len(rows)} sequences")
    logits = logits[:, :vocab_limit].float()
    _require_finite(logits, "The model's output")
    if banned:
        logits = logits.index_fill(1, torch.tensor(sorted(banned), device=logits.device), NEVER)
    log_probs = torch.log_softmax(logits, dim=-1)
    greedy = logits.argmax(dim=-1).tolist()  # the first maximum, so the lowest id wins a tie
    ids = [_next_id(logits[i], row, greedy[i]) for i, row in enumerate(rows)]
    taken = log_probs.gather(1, torch.tensor(ids, device=logits.device)[:, None])[:, 0].tolist()
    return [
        Choice(id=ids[i], logprob=taken[i], candidates=best(logits[i], log_probs[i], row.sampling.candidates))
        for i, row in enumerate(rows)
    ]


def _next_id(logits: Tensor, row: Row, greedy: int) -> int:
    penalised = penalise(logits, row.sampling, row.prompt, row.output)
    if row.sampling.temperature < COLDEST:
        return greedy if penalised is logits else int(penalised.argmax())
    if row.generator is None:
        raise ValueError("a row with a temperature needs a generator")
    return draw(narrow(penalised, row.sampling), row.generator)[0]


def penalise(logits: Tensor, sampling: Sampling, prompt: Sequence[int], output: Sequence[int]) -> Tensor:
    """The penalties that `sampling` asks for on one row [V]; the very same tensor when it asks for none."""
    penalised = logits
    if sampling.repetition_penalty != 1.0:
        penalised = repetition_penalty(penalised, [*prompt, *output], sampling.repetition_penalty)
    if sampling.frequency_penalty:
        penalised = frequency_penalty(penalised, output, sampling.frequency_penalty)
    if sampling.presence_penalty:
        penalised = presence_penalty(penalised, output, sampling.presence_penalty)
    if penalised is not logits:
        _require_finite(penalised, "The penalised output")
    return penalised


def narrow(logits: Tensor, sampling: Sampling) -> Tensor:
    """Temperature and filters on [..., V]: the logits of the distribution that is drawn from, -inf where cut."""
    if sampling.temperature != 1.0:
        logits = temperature(logits, sampling.temperature)
    if sampling.top_k:
        logits = top_k(logits, sampling.top_k)
    if sampling.top_p < 1.0:
        logits = top_p(logits, sampling.top_p)
    if sampling.min_p:
        logits = min_p(logits, sampling.min_p)
    return logits


def draw(logits: Tensor, generator: torch.Generator, count: int = 1) -> list[int]:
    """Draw ids from softmax(logits [V]), each by inverting the distribution function at one uniform number.

    A draw takes one float64 in [0, 1) from the generator, whatever the filters. Sums run in float64 on the host, over
    the ids left, in rising order; the first whose sum exceeds the number is taken, so one of probability 0 never is.
    """
    left = (logits != -torch.inf).nonzero()[:, 0].cpu()
    cumulative = logits.cpu()[left].double().softmax(dim=-1).cumsum(dim=-1)
    _require_finite(cumulative, "The distribution to draw from")
    points = torch.rand(count, dtype=torch.float64, generator=generator) * cumulative[-1]
    return left[torch.searchsorted(cumulative, points, right=True)].tolist()


def best(logits: Tensor, log_probs: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """The likeliest ids of a row [V], by logit (the normaliser's rounding may tie log-probabilities); ties by id."""
    if count == 0:
        return ()
    contenders = (top_k(logits, count) != -torch.inf).nonzero()[:, 0]  # with all that tie: topk alone picks as it likes
    ids = contenders[logits[contenders].sort(descending=True, stable=True).indices[:count]]
    return tuple(zip(ids.tolist(), log_probs[ids].tolist(), strict=True))


def repetition_penalty(logits: Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """CTRL's (arXiv:1909.05858 §4.1), on [V]: seen ids' positive logits are divided, their negative ones multiplied."""
    return torch.where(_times(ids, logits) > 0, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def frequency_penalty(logits: Tensor, output: Sequence[int], penalty: float) -> Tensor:
    """OpenAI's, on [V]: `penalty` off an id's logit for each time that it was put out."""
    return logits - penalty * _times(output, logits)


def presence_penalty(logits: Tensor, output: Sequence[int], penalty: float) -> Tensor:
    """OpenAI's, on [V]: `penalty` off an id's logit, once, if it was put out at all."""
    return logits - penalty * _times(output, logits).clamp(max=1)


def temperature(logits: Tensor, value: float) -> Tensor:
    """Below 1 sharpens, above 1 flattens."""
    return logits / value


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest ids, and every id that ties with the last of them."""
    return logits.masked_fill(logits < logits.topk(min(k, logits.shape[-1])).values[..., -1:], -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Nucleus (arXiv:1904.09751 §3.1): keep the fewest likeliest ids that weigh p together, and one at least."""
    # Summed from the unlikely end, as Hugging Face does; among equal ids at the edge the sort settles which stay.
    rising, order = logits.sort(dim=-1)
    drop = rising.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    drop[..., -1] = False
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def min_p(logits: Tensor, floor: float) -> Tensor:
    """Keep the ids that are at least `floor` times as likely as the likeliest (arXiv:2407.01082 §3)."""
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < floor * probabilities.amax(dim=-1, keepdim=True), -torch.inf)


def _times(ids: Sequence[int], logits: Tensor) -> Tensor:
    """How often each of the [V] ids occurs; ids without a logit (an image placeholder, say) need no penalty."""
    covered = [i for i in ids if 0 <= i < logits.shape[-1]]
    return torch.tensor(covered, dtype=torch.long, device=logits.device).bincount(minlength=logits.shape[-1])


def _require_finite(values: Tensor, what: str) -> None:
    if not bool(values.isfinite().all()):
        raise VitralError(f"{what} holds NaN or infinite numbers", "Check the weights, or use milder settings")
