"""What is asked of a generator and what it answers: plain frozen values, no torch.

The server, the CLI and Python code all build a `Sampling`, and all receive `Token`s and a `Generation`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from types import NoneType
from typing import Any, Literal

from vitral.errors import PromptTooLongError, VitralError

FinishReason = Literal["stop", "length"]
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_CANDIDATES = 20


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Checked on creation: a bad number never reaches the model.

    temperature 0 is greedy. The filters apply in the order temperature → top_k → top_p → min_p
    (the order of Hugging Face's processors); penalties come first.
    `repetition_penalty` looks at prompt and output (CTRL, arXiv:1909.05858 §4.1), `presence_penalty` and
    `frequency_penalty` at the output alone (OpenAI's definition).
    """

    max_tokens: int | None = None
    """At most this many new tokens; None means up to the end of the context."""
    temperature: float = 0.0
    top_k: int = 0
    """0 keeps every token."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """A single string may be given too."""
    candidates: int = 0
    """How many alternatives to report for each new token (log-probabilities before temperature and filters)."""
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        given: Any = self.stop
        if not isinstance(given, (str, list, tuple, NoneType)):
            raise VitralError(f"stop is {given!r:.40}", "Give a string, or a list of strings", param="stop")
        object.__setattr__(self, "stop", (given,) if isinstance(given, str) else tuple(given or ()))
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 1, 2**31)
        _number("temperature", self.temperature, 0.0, 100.0)
        _whole("top_k", self.top_k, 0, 2**31)
        _number("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition_penalty", self.repetition_penalty, 0.0, 100.0, open_low=True)
        _number("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _number("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        _whole("candidates", self.candidates, 0, MAX_CANDIDATES)
        if self.seed is not None:
            _whole("seed", self.seed, -(2**63), 2**64 - 1)
        if len(self.stop) > MAX_STOPS:
            raise VitralError(f"stop holds {len(self.stop)} strings", f"Give at most {MAX_STOPS}", param="stop")
        for text in self.stop:
            if not isinstance(text, str) or not text or len(text) > MAX_STOP_LENGTH:
                raise VitralError(
                    f"stop holds {text!r:.40}", f"Each stop is 1 to {MAX_STOP_LENGTH} characters of text", param="stop"
                )


def check_text_length(length: int, *, longest: int | None, context: int, param: str) -> None:
    """Refuse a text by its characters alone: making ids of megabytes takes seconds and holds every thread.

    Args:
        length: characters of the text.
        longest: most characters that can fit the context; None where no such bound is known.
        context: tokens.
    """
    if longest is not None and length > longest:
        raise PromptTooLongError(
            f"the text is {length} characters long, at least {length * context // longest} tokens, and the context of "
            f"{context} tokens holds at most {longest}",
            "Shorten it; nothing is cut silently",
            param=param,
        )


def _number(name: str, value: Any, low: float, high: float, *, open_low: bool = False) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high or (open_low and value == low):
        bracket = "(" if open_low else "["
        raise VitralError(f"{name} is {value!r:.40}", f"Give a number in {bracket}{low:g}, {high:g}]", param=name)


def _whole(name: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise VitralError(f"{name} is {value!r:.40}", f"Give a whole number from {low} to {high}", param=name)


@dataclass(frozen=True)
class Candidate:
    """One token the model could have taken, with its log-probability (natural log, at temperature 1)."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, kw_only=True)
class Token:
    """One new token of a stream.

    `text` is what this token adds to the visible text: "" while a character is incomplete, while a stop string may
    be starting, or for the token that ends the answer. The texts of a stream joined are the answer.
    """

    id: int
    text: str
    logprob: float
    candidates: tuple[Candidate, ...] = ()
    finish_reason: FinishReason | None = None
    """None on every token but the last."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A finished answer and how it came about."""

    text: str
    prompt_ids: tuple[int, ...]
    tokens: tuple[Token, ...] = field(repr=False)
    finish_reason: FinishReason
    prompt_text: str = ""
    """What the model really read, special tokens included."""

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)

    @property
    def logprob(self) -> float:
        """Summed log-probability of the new tokens."""
        return sum(token.logprob for token in self.tokens)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
