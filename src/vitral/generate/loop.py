"""Prompts → tokens: one prefill, then one forward a token, for a batch of requests that each have their own settings.

    ids ─▶ prefill in pieces ─▶ ┌─▶ logits ─▶ choose ─▶ text, held back while a stop string may be starting ─▶ Token
                                └── next step of the rows still running ◀──┘

Rows of different lengths share a batch: padding goes on the left and is never stored, so it costs no position.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from vitral.errors import PromptTooLongError, VitralError
from vitral.generate.request import Candidate, FinishReason, Sampling, Token
from vitral.generate.sample import Choice, Row, choose, seeded
from vitral.generate.start import Start
from vitral.nn import Cache, Model

CHUNK = 512
"""Prompt tokens that go through the model at once; bounds the memory of a long prompt."""


class Decoder(Protocol):
    """Turns the ids of one answer into text as they come, never half a character."""

    def push(self, id: int) -> str: ...
    def finish(self) -> str: ...


class Tokenizer(Protocol):
    """What the loop needs of a tokenizer."""

    def stream(self) -> Decoder: ...
    def token_text(self, id: int) -> str: ...


class NoText:
    """The tokenizer of a model that has none: ids come, and say nothing."""

    def stream(self) -> NoText:
        return self

    def push(self, id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""

    def token_text(self, id: int) -> str:
        return ""


@dataclass
class StopStrings:
    """Text on its way out, held back as long as it may be the beginning of a stop string."""

    stops: tuple[str, ...]
    held: str = ""
    found: bool = False

    def push(self, text: str) -> str:
        """The text that can be shown now; once `found`, the answer ends before the stop string."""
        self.held += text
        cuts = [at for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if cuts:
            self.found = True
            out, self.held = self.held[: min(cuts)], ""
            return out
        keep = max((_overlap(self.held, stop) for stop in self.stops), default=0)
        out, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return out

    def finish(self) -> str:
        out, self.held = self.held, ""
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


@dataclass
class Running:
    """One request on its way."""

    prompt: Sequence[int]
    sampling: Sampling
    budget: int
    decoder: Decoder
    stops: StopStrings
    generator: torch.Generator | None
    output: list[int] = field(default_factory=list)
    finished: bool = False

    def row(self) -> Row:
        return Row(sampling=self.sampling, generator=self.generator, prompt=self.prompt, output=self.output)

    def take(self, choice: Choice, eos: frozenset[int], tokenizer: Tokenizer) -> Token:
        """Book a choice and say what it adds to the visible text."""
        self.output.append(choice.id)
        ended = choice.id in eos and not self.sampling.ignore_eos
        text = "" if ended else self.stops.push(self.decoder.push(choice.id))
        reason: FinishReason | None = None
        if ended or self.stops.found:
            reason = "stop"
        elif len(self.output) >= self.budget:
            reason = "length"
        if reason is not None and not self.stops.found:
            text += self.stops.push(self.decoder.finish())
            text += self.stops.finish()
        self.finished = reason is not None
        candidates = tuple(Candidate(id, tokenizer.token_text(id), logprob) for id, logprob in choice.candidates)
        return Token(id=choice.id, text=text, logprob=choice.logprob, candidates=candidates, finish_reason=reason)


def run(
    model: Model,
    prompts: Sequence[Sequence[int]] | Start,
    samplings: Sequence[Sampling],
    *,
    tokenizer: Tokenizer,
    eos: frozenset[int],
    vocab_limit: int | None = None,
    banned: Collection[int] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, Token]]:
    """Generate for a batch; the iterator yields (row, token) as they come, until every row has finished.

    What cannot be done is refused here, before the iterator is made. Closing the iterator stops the work.

    Args:
        prompts: the ids of each row; or a `Start`, which may bring what an encoder made of them.
        eos: ids that end an answer.
        vocab_limit: ids from here on are padding that no tokenizer knows; never chosen. `banned` ids neither.
        stopped: asked before each piece of a prompt and before each token; once it says True the iterator ends.

    Raises:
        PromptTooLongError: a prompt that leaves no room in the context, with both lengths.
    """
    start = prompts if isinstance(prompts, Start) else Start(prompts=prompts)
    rows = [
        Running(
            prompt=prompt,
            sampling=sampling,
            budget=_budget(model, prompt, sampling),
            decoder=tokenizer.stream(),
            stops=StopStrings(sampling.stop),
            generator=seeded(sampling.seed) if sampling.temperature else None,
        )
        for prompt, sampling in zip(start.prompts, samplings, strict=True)
    ]
    never = {"vocab_limit": vocab_limit, "banned": frozenset(banned)}
    return _steps(model, rows, start, tokenizer=tokenizer, eos=eos, never=never, stopped=stopped)


def _steps(
    model: Model,
    rows: list[Running],
    start: Start,
    *,
    tokenizer: Tokenizer,
    eos: frozenset[int],
    never: Mapping[str, Any],
    stopped: Callable[[], bool],
) -> Iterator[tuple[int, Token]]:
    device = next(model.parameters()).device
    length = max(len(row.prompt) + row.budget for row in rows)
    # Pictures are read in one piece with their text: tokens of a picture see each other.
    chunk = CHUNK if start.pixels is None else length
    cache = model.new_cache(len(rows), length, chunk=chunk, memory=start.memory)
    with torch.inference_mode():
        last = _prefill(model, cache, start, device, stopped)
    while last is not None and not stopped():
        with torch.inference_mode():
            choices = choose(model.head(last), [row.row() for row in rows], **never)  # type: ignore
        for index, (row, choice) in enumerate(zip(rows, choices, strict=True)):
            if not row.finished:
                yield index, row.take(choice, eos, tokenizer)
        if all(row.finished for row in rows):
            return
        with torch.inference_mode():
            alive = torch.tensor([[not row.finished] for row in rows])
            ids = torch.tensor([[row.output[-1]] for row in rows], device=device)
            last = model.hidden(ids, cache.extend(alive))[:, -1]


def _prefill(
    model: Model, cache: Cache, start: Start, device: torch.device, stopped: Callable[[], bool]
) -> torch.Tensor | None:
    """The hidden state [B, d] of each prompt's last token; None when stopped on the way."""
    longest = max(len(prompt) for prompt in start.prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in start.prompts], device=device)
    valid = torch.tensor([[False] * (longest - len(prompt)) + [True] * len(prompt) for prompt in start.prompts])
    if start.pixels is not None:
        return model.hidden(ids, cache.extend(valid, soft=model.show(ids, start.pixels)))[:, -1]
    for begin in range(0, longest, CHUNK):
        if stopped():
            return None
        piece = slice(begin, begin + CHUNK)
        hidden = model.hidden(ids[:, piece], cache.extend(valid[:, piece]))
    return hidden[:, -1]


def _budget(model: Model, prompt: Sequence[int], sampling: Sampling) -> int:
    """How many tokens may be new."""
    if not prompt:
        raise VitralError("the prompt is empty", "Give at least one token", param="prompt")
    room = model.context - len(prompt)
    if room < 1:
        raise PromptTooLongError(
            f"the prompt is {len(prompt)} tokens long and the context holds {model.context}",
            "Shorten the prompt; nothing is cut silently",
            param="prompt",
        )
    return room if sampling.max_tokens is None else min(sampling.max_tokens, room)
