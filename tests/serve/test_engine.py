"""The engine without HTTP: order, cancelling, faults, limits."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from tests.serve.toy import ToyLM
from vitral.errors import PromptTooLongError
from vitral.generate.request import Sampling
from vitral.serve.engine import Engine, Request
from vitral.serve.errors import Refusal


def request(lm: ToyLM, text: str = "hi") -> Request:
    return Request(lm=lm, messages=[{"role": "user", "content": text}], sampling=Sampling())


async def text_of(ticket: Any) -> str:
    return "".join([token.text async for token in ticket])


def test_requests_are_answered_in_order_and_whole() -> None:
    async def main() -> list[str]:
        engine = Engine()
        toy = ToyLM()
        tickets = [engine.submit(request(toy, f"number {i}")) for i in range(5)]
        texts = await asyncio.gather(*(text_of(ticket) for ticket in reversed(tickets)))
        assert [asked.messages[0]["content"] for asked in toy.asked] == [f"number {i}" for i in range(5)]
        engine.close()
        return texts[::-1]

    assert asyncio.run(main()) == [f"You said: number {i}" for i in range(5)]


def test_a_running_request_stops_before_its_next_token() -> None:
    async def main() -> None:
        engine = Engine()
        toy = ToyLM(reply=lambda _: "word " * 1000, seconds=0.002)
        ticket = engine.submit(request(toy))
        async for _ in ticket:
            ticket.cancel()
            break
        assert await text_of(engine.submit(request(ToyLM()))) == "You said: hi"
        assert toy.live == 0
        assert toy.produced < 20
        engine.close()

    asyncio.run(main())


def test_a_cancelled_prefill_gives_the_worker_free() -> None:
    async def main() -> float:
        engine = Engine()
        toy = ToyLM(prefill=5.0)
        ticket = engine.submit(request(toy))
        while toy.live == 0:
            await asyncio.sleep(0.01)
        started = time.monotonic()
        ticket.cancel()
        assert await text_of(engine.submit(request(ToyLM()))) == "You said: hi"
        seconds = time.monotonic() - started
        engine.close()
        return seconds

    assert asyncio.run(main()) < 1.0


def test_a_request_cancelled_while_encoding_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        engine = Engine()
        toy = ToyLM()
        begun, gate = threading.Event(), threading.Event()
        run: list[str] = []

        def encode(*_: Any, **__: Any) -> list[int]:
            begun.set()
            gate.wait(5)
            return [1]

        monkeypatch.setattr(toy, "encode_prompt", encode)
        monkeypatch.setattr(toy.tokenizer, "decode", lambda *_, **__: run.append("decode"))
        monkeypatch.setattr(toy, "stream", lambda *_, **__: run.append("stream"))
        ticket = engine.submit(request(toy))
        assert await asyncio.to_thread(begun.wait, 5)
        ticket.cancel()
        gate.set()
        assert await text_of(engine.submit(request(ToyLM()))) == "You said: hi"
        assert run == []
        engine.close()

    asyncio.run(main())


def test_messages_no_context_can_hold_are_not_encoded() -> None:
    async def main() -> None:
        engine = Engine()
        toy = ToyLM(context=20, longest_text=100)
        with pytest.raises(PromptTooLongError, match=r"101 characters.* 20 tokens .*100"):
            engine.submit(request(toy, "a" * 101))
        assert toy.asked == []
        assert await text_of(engine.submit(request(toy, "a" * 100))) == f"You said: {'a' * 100}"
        engine.close()

    asyncio.run(main())


def test_a_waiting_request_leaves_its_place() -> None:
    async def main() -> None:
        gate = threading.Event()
        slow = ToyLM(reply=lambda _: str(gate.wait(5)))
        engine = Engine(waiting_limit=1)
        first = engine.submit(request(slow))
        while not slow.asked:
            await asyncio.sleep(0.01)
        waiting = engine.submit(request(ToyLM(), "never"))
        with pytest.raises(Refusal) as caught:
            engine.submit(request(ToyLM()))
        assert caught.value.status_code == 429
        waiting.cancel()
        third = engine.submit(request(ToyLM(), "third"))
        gate.set()
        assert await text_of(first) == "True"
        assert await text_of(third) == "You said: third"
        assert waiting.request.lm.asked == []  # type: ignore[attr-defined]
        engine.close()

    asyncio.run(main())


def test_faults_end_their_request_alone() -> None:
    async def main() -> None:
        engine = Engine()
        for fault in (RuntimeError("x"), SystemExit(1), MemoryError()):
            with pytest.raises((RuntimeError, MemoryError)):
                await text_of(engine.submit(request(ToyLM(fault=fault, fault_at=2))))
            assert engine.alive
        assert await text_of(engine.submit(request(ToyLM()))) == "You said: hi"
        engine.close()

    asyncio.run(main())


def test_close_ends_running_and_waiting() -> None:
    async def main() -> None:
        engine = Engine()
        toy = ToyLM(reply=lambda _: "word " * 5000, seconds=0.002)
        tickets = [engine.submit(request(toy)) for _ in range(3)]
        await tickets[0].opened()
        await asyncio.to_thread(engine.close)
        for ticket in tickets:
            with pytest.raises(Refusal) as caught:
                await text_of(ticket)
            assert caught.value.status_code == 503
        assert toy.live == 0
        assert not engine.alive
        with pytest.raises(Refusal):
            engine.submit(request(toy))

    asyncio.run(main())


def test_a_loop_that_is_gone_does_not_stop_the_engine() -> None:
    engine = Engine()

    async def leave() -> None:
        engine.submit(request(ToyLM(seconds=0.005)))

    asyncio.run(leave())

    async def again() -> str:
        return await text_of(engine.submit(request(ToyLM())))

    assert asyncio.run(again()) == "You said: hi"
    engine.close()
