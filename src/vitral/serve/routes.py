"""The routes. Each reads its request, asks the engine, and shapes the answer; the work is done elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from vitral.errors import NotFoundError, VitralError, did_you_mean
from vitral.serve.body import JSONRoute
from vitral.serve.chat import Exchange, submit_all
from vitral.serve.engine import Engine, LanguageModel
from vitral.serve.engine import Request as EngineRequest
from vitral.serve.errors import Refusal
from vitral.serve.schema import ChatRequest, Completion, Model, ModelList

WARNING_HEADER = "X-Vitral-Warning"
T = TypeVar("T")


def build_router(lms: Mapping[str, LanguageModel], engine: Engine) -> APIRouter:
    """The API over these models (by name) and this engine."""
    router = APIRouter(route_class=JSONRoute)
    started = int(time.time())

    @router.get("/health")
    @router.head("/health", include_in_schema=False)
    async def health() -> dict[str, str]:
        if not engine.alive:
            raise Refusal(503, "The engine is not running", code="engine_down")
        return {"status": "ok"}

    @router.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(object="list", data=[_card(lm, started) for lm in lms.values()])

    @router.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> Model:
        return _card(_find(lms, model_id), started)

    @router.post("/v1/chat/completions", responses={200: {"model": Completion}})
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        body.refuse_unsupported()
        exchange = _open(body, _find(lms, body.model), engine)
        headers = {WARNING_HEADER: "; ".join(body.warnings)} if body.warnings else {}
        try:
            if not body.stream:
                completion = await _while_there(request, exchange.completion())
                return Response(completion.json_text(), media_type="application/json", headers=headers)
            await _while_there(request, exchange.opened())
            return EventStream(exchange, headers)
        except BaseException:
            exchange.cancel()
            raise

    return router


class EventStream(StreamingResponse):
    """Server-sent events of an exchange, which ends with the response however that ends."""

    media_type = "text/event-stream"

    def __init__(self, exchange: Exchange, headers: Mapping[str, str]) -> None:
        # not no-store: Chromium marks a finished stream with it as aborted (microsoft/playwright#42742)
        unbuffered = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(exchange.events(), headers={**unbuffered, **headers})
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._exchange.cancel()


def _open(body: ChatRequest, lm: LanguageModel, engine: Engine) -> Exchange:
    if "decoder" not in lm.kind:
        raise VitralError(f"model {lm.name!r} is an {lm.kind}: it does not write text", param="model")
    if getattr(lm, "pictures", None) is None and any(message.pictures for message in body.messages):
        raise VitralError(f"model {lm.name!r} sees no pictures", "Send text parts only", param="messages")
    messages = [message.for_template() for message in body.messages]
    requests = [
        EngineRequest(lm=lm, messages=messages, tools=body.template_tools, sampling=sampling)
        for sampling in body.samplings(lm.defaults)
    ]
    return Exchange(
        tickets=submit_all(engine, requests),
        model=lm.name,
        logprobs=bool(body.logprobs),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        return_prompt=bool(body.return_prompt),
    )


def _find(lms: Mapping[str, LanguageModel], name: str) -> LanguageModel:
    if name not in lms:
        raise NotFoundError(f"model {name[:100]!r} is not served here", did_you_mean(name, lms), param="model")
    return lms[name]


def _card(lm: LanguageModel, started: int) -> Model:
    return Model(
        id=lm.name,
        object="model",
        created=started,
        owned_by="vitral",
        kind=lm.kind,
        chat=lm.chat is not None,
        context=lm.context,
        parameters=lm.spec.count().total,
        licence=lm.licence,
    )


async def _while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled when the client goes: Starlette watches only streams for that."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refusal(499, "The client went away", code="client_closed")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
