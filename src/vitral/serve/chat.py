"""From tokens to chat completions: the whole answer, or its stream of chunks.

Both read the same tickets, so the texts are equal. Chunks go: the role; one for each token that adds text (or carries
log-probabilities); one with the finish reason and an empty delta; the usage, if asked for, with no choices; `[DONE]`.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitral.generate.request import Candidate, FinishReason, Token
from vitral.serve.engine import Engine, Prompt, Request, Ticket
from vitral.serve.errors import Refusal, log_fault, refusal
from vitral.serve.schema import (
    AnswerMessage,
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    Delta,
    Logprobs,
    TokenLogprob,
    TopLogprob,
    Usage,
)

IMPOSSIBLE = -9999.0
"""What OpenAI sends for a log-probability of minus infinity, which JSON cannot write."""
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One chat request on its way: its tickets (one a choice) and how it wants to be answered."""

    tickets: Sequence[Ticket]
    model: str
    logprobs: bool
    include_usage: bool
    return_prompt: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def cancel(self) -> None:
        for ticket in self.tickets:
            ticket.cancel()

    async def opened(self) -> Prompt:
        """Wait for the first token of the first choice; raises the faults that come before it."""
        return await self.tickets[0].opened()

    async def completion(self) -> Completion:
        """The whole answer."""
        prompt = await self.opened()
        choices = []
        n_tokens = 0
        for index, ticket in enumerate(self.tickets):
            tokens = [token async for token in ticket]
            n_tokens += len(tokens)
            choices.append(self._choice(index, tokens))
        return Completion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            choices=choices,
            usage=_usage(prompt, n_tokens),
            **self._prompt_field(prompt),
        )

    async def events(self) -> AsyncIterator[str]:
        """The answer as server-sent events. A fault on the way becomes an error event, and the stream ends there."""
        try:
            async for chunk in self._chunks():
                yield f"data: {chunk.json_text()}\n\n"
            yield "data: [DONE]\n\n"
        except Exception as fault:
            answer = refusal(fault)
            if answer.status_code >= 500 and answer is not fault:  # a Refusal is meant
                log_fault(fault, self.id)
            yield f"data: {json.dumps(answer.body)}\n\n"

    async def _chunks(self) -> AsyncIterator[Chunk]:
        prompt = await self.opened()
        n_tokens = 0
        for index, ticket in enumerate(self.tickets):
            first = self._chunk(index, Delta(role="assistant", content=""))
            yield first.model_copy(update=self._prompt_field(prompt)) if index == 0 else first
            finish = None
            async for token in ticket:
                n_tokens += 1
                finish = token.finish_reason
                if token.text or self.logprobs:
                    logprobs = Logprobs(content=[_logprob(token, ticket)]) if self.logprobs else None
                    yield self._chunk(index, Delta(content=token.text), logprobs=logprobs)
            yield self._chunk(index, Delta(), finish=_known(finish))
        if self.include_usage:
            yield self._new_chunk([], usage=_usage(prompt, n_tokens))

    def _chunk(
        self, index: int, delta: Delta, *, logprobs: Logprobs | None = None, finish: FinishReason | None = None
    ) -> Chunk:
        chunk = self._new_chunk([ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish)])
        return chunk.model_copy(update={"usage": None}) if self.include_usage else chunk

    def _new_chunk(self, choices: list[ChunkChoice], **fields: Any) -> Chunk:
        return Chunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
            **fields,
        )

    def _choice(self, index: int, tokens: Sequence[Token]) -> Choice:
        ticket = self.tickets[index]
        return Choice(
            index=index,
            message=AnswerMessage(role="assistant", content="".join(token.text for token in tokens), refusal=None),
            logprobs=Logprobs(content=[_logprob(token, ticket) for token in tokens]) if self.logprobs else None,
            finish_reason=_known(tokens[-1].finish_reason if tokens else None),
        )

    def _prompt_field(self, prompt: Prompt) -> dict[str, str]:
        return {"prompt_text": prompt.text} if self.return_prompt else {}


def submit_all(engine: Engine, requests: Sequence[Request]) -> list[Ticket]:
    """Queue every request or none: a queue that fills half-way gives back the places already taken."""
    tickets: list[Ticket] = []
    try:
        for request in requests:
            tickets.append(engine.submit(request))
    except Refusal:
        for ticket in tickets:
            ticket.cancel()
        raise
    return tickets


def _known(finish: FinishReason | None) -> FinishReason:
    if finish is None:
        raise RuntimeError("the model's stream ended without a finish reason")
    return finish


def _logprob(token: Token, ticket: Ticket) -> TokenLogprob:
    return TokenLogprob(
        id=token.id,
        token=ticket.request.lm.tokenizer.token_text(token.id),
        logprob=max(token.logprob, IMPOSSIBLE),
        bytes=list(token.text.encode()),
        top_logprobs=[_top(candidate) for candidate in token.candidates],
    )


def _top(candidate: Candidate) -> TopLogprob:
    return TopLogprob(
        id=candidate.id,
        token=candidate.text,
        logprob=max(candidate.logprob, IMPOSSIBLE),
        bytes=_bytes(candidate.text),
    )


def _bytes(text: str) -> list[int]:
    """The bytes of one token's visible form, where those that make no character are written `<0xE2>`."""
    parts = BYTE.split(text)  # text, hex, text, hex, …, text
    return [b for i, part in enumerate(parts) for b in (bytes.fromhex(part) if i % 2 else part.encode())]


def _usage(prompt: Prompt, n_tokens: int) -> Usage:
    return Usage(prompt_tokens=len(prompt.ids), completion_tokens=n_tokens, total_tokens=len(prompt.ids) + n_tokens)
