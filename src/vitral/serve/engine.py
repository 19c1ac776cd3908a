"""The engine: one worker thread that answers one request at a time, in the order they came.

The rest of the server knows only `Engine.submit(request) -> Ticket`: an async iterator of tokens that can be cancelled.
A batching engine can take this one's place behind the same two names.

    event loop                            worker thread
    submit ──▶ waiting (bounded) ──▶ lm.encode_prompt, lm.stream
    ticket ◀── call_soon_threadsafe ◀── Prompt, Token, Token, …, end | fault

Each ticket owns its own queue, so tokens of one request cannot reach another; a fault ends its ticket, not the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vitral.generate.request import Sampling, Token, check_text_length
from vitral.serve.errors import Refusal


class Tokenizer(Protocol):
    """What the server needs of `vitral.text.Tokenizer`."""

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str: ...
    def token_text(self, id: int) -> str: ...


class LanguageModel(Protocol):
    """What the server needs of `vitral.LanguageModel`."""

    name: str
    kind: str
    context: int
    licence: str
    defaults: Sampling
    spec: Any

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def chat(self) -> object | None: ...
    @property
    def longest_text(self) -> int | None:
        """Most characters the context can hold, whatever they are; None where that is not known."""

    def encode_prompt(self, prompt: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> list[int]: ...
    def stream(
        self, prompt: list[int], *, sampling: Sampling, stopped: Callable[[], bool] = ...
    ) -> Iterator[Token]: ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt for one model; checked already, the engine adds nothing to it."""

    lm: LanguageModel
    messages: list[dict[str, Any]]
    sampling: Sampling
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model read: the ids and their text, special tokens included."""

    ids: tuple[int, ...]
    text: str


def _characters(content: str | list[dict[str, Any]]) -> int:
    """Of the text in a message; pictures count nothing."""
    return len(content) if isinstance(content, str) else sum(len(part.get("text", "")) for part in content)


class _End:
    """The last event of a ticket that ended well."""


Event = Prompt | Token | Exception | _End


class Ticket:
    """A place in the queue, and then the answer: `await opened()`, then iterate its tokens.

    `cancel` may be called at any time, from the event loop; a waiting ticket leaves the queue at once, a running one
    stops before its next token or its next piece of the prompt.
    """

    def __init__(self, request: Request, engine: Engine) -> None:
        self.request = request
        self.cancelled = False
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._prompt: Prompt | None = None
        self._peeked: Token | None = None

    async def opened(self) -> Prompt:
        """Wait until the first token is there; raises what went wrong before it, while a status can still be sent."""
        if self._prompt is None:
            event = await self._next()
            assert isinstance(event, Prompt)
            self._prompt = event
            first = await self._next()
            self._peeked = first if isinstance(first, Token) else None
        return self._prompt

    async def __aiter__(self) -> AsyncIterator[Token]:
        await self.opened()
        token, self._peeked = self._peeked, None
        while token is not None:
            yield token
            event = await self._next()
            token = event if isinstance(event, Token) else None

    def cancel(self) -> None:
        self.cancelled = True
        self._engine.forget(self)

    def push(self, event: Event) -> None:
        """Called by the worker. A loop that is gone wants no more events."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            self.cancelled = True

    async def _next(self) -> Event:
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event


class Engine:
    """Runs requests one after another in one thread, which starts with the first request.

    Args:
        waiting_limit: how many requests may wait; one more is refused with 429 and a Retry-After.
    """

    def __init__(self, *, waiting_limit: int = 32) -> None:
        self.waiting_limit = waiting_limit
        self._waiting: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._seconds = 1.0  # running mean of how long a request takes, for Retry-After

    @property
    def alive(self) -> bool:
        """Whether requests are being worked on, or would be."""
        return not self._closed and (self._thread is None or self._thread.is_alive())

    def submit(self, request: Request) -> Ticket:
        """Queue a request.

        Raises:
            PromptTooLongError: the messages cannot fit the context, however well they are encoded.
            Refusal: 429 when the queue is full, 503 after `stop`.
        """
        lm, length = request.lm, sum(_characters(message["content"]) for message in request.messages)
        check_text_length(length, longest=lm.longest_text, context=lm.context, param="messages")
        ticket = Ticket(request, self)
        with self._changed:
            if self._closed:
                raise Refusal(503, "The server is shutting down", code="shutting_down")
            if len(self._waiting) >= self.waiting_limit:
                seconds = str(min(60, math.ceil(self._seconds * (len(self._waiting) + 1))))
                message = f"{len(self._waiting)} requests are waiting already. Try again in {seconds} s"
                raise Refusal(429, message, code="queue_full", headers={"Retry-After": seconds})
            self._waiting.append(ticket)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="vitral-engine", daemon=True)
                self._thread.start()
            self._changed.notify()
        return ticket

    def forget(self, ticket: Ticket) -> None:
        """Take a cancelled ticket out of the queue, so that its place is free at once."""
        with self._changed, contextlib.suppress(ValueError):
            self._waiting.remove(ticket)

    def stop(self) -> None:
        """Take no more requests and end those there are with a 503; returns at once, while the worker still ends."""
        with self._changed:
            self._closed = True
            ended = [*self._waiting, *([self._running] if self._running else [])]
            self._waiting.clear()
            self._changed.notify()
        for ticket in ended:
            ticket.push(Refusal(503, "The server is shutting down", code="shutting_down"))
            ticket.cancelled = True

    def close(self) -> None:
        """`stop`, and wait for the worker: an interpreter that exits while a thread is inside torch aborts."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                ticket = self._running = self._waiting.popleft()
            started = time.monotonic()
            try:
                if not ticket.cancelled:
                    self._answer(ticket)
                ticket.push(_End())
            except Exception as fault:
                ticket.push(fault)
            except BaseException as fault:  # a SystemExit ends this request, neither this thread nor the event loop
                ticket.push(RuntimeError(type(fault).__name__).with_traceback(fault.__traceback__))
            self._running = None
            self._seconds += 0.2 * (time.monotonic() - started - self._seconds)

    @staticmethod
    def _answer(ticket: Ticket) -> None:
        request, lm = ticket.request, ticket.request.lm
        ids = lm.encode_prompt(request.messages, tools=request.tools)
        if ticket.cancelled:  # encoding a long text takes a while too
            return
        ticket.push(Prompt(ids=tuple(ids), text=lm.tokenizer.decode(ids, skip_special=False)))
        stream = lm.stream(ids, sampling=request.sampling, stopped=lambda: ticket.cancelled)
        with contextlib.closing(stream):  # type: ignore[type-var]
            for token in stream:
                if ticket.cancelled:
                    return
                ticket.push(token)
