"""The application: routes, page, engine and guard put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

import vitral
from vitral.errors import VitralError, did_you_mean
from vitral.serve.engine import Engine, LanguageModel
from vitral.serve.errors import Refusal, refusal
from vitral.serve.guard import ASSETS, LOOPBACK, Guard, Limits, clean_keys
from vitral.serve.routes import build_router

PAGE = Path(__file__).parent / "page"


def build_app(
    lm: LanguageModel | Sequence[LanguageModel],
    *,
    api_key: str | Iterable[str] | None = None,
    hosts: Iterable[str] | None = LOOPBACK,
    limits: Limits | None = None,
) -> FastAPI:
    """An ASGI application that serves these models: the OpenAI-compatible API, and the page at `/`.

    Args:
        lm: one model or several; clients choose by `lm.name`.
        api_key: one key or several; None asks for none, which is for loopback only.
        hosts: Host names that are answered; None answers any, for a server on a network (which needs a key).
        limits: sizes and times; see `Limits`.

    Raises:
        VitralError: no model, two of one name, one that `check_kind` refuses, a key no client can send, or any host
            without a key.
    """
    models = list(lm) if isinstance(lm, Sequence) else [lm]
    lms = {model.name: model for model in models}
    if not lms or len(lms) != len(models):
        raise VitralError("models to serve must be at least one, each with a name of its own", param="lm")
    for model in models:
        check_kind(model)
    keys = clean_keys(api_key)
    if hosts is None and not keys:
        raise VitralError("a server that answers to any host name needs an API key", param="api_key")
    if limits is None:
        sees = any(getattr(model, "pictures", None) is not None for model in models)
        limits = Limits(body_bytes=16 * Limits.body_bytes) if sees else Limits()
    engine = Engine(waiting_limit=limits.waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)  # the loop goes on, to hand out the last answers

    app = FastAPI(
        title="vitral",
        version=vitral.__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's documentation pages fetch their scripts from elsewhere
        redoc_url=None,
    )
    app.state.engine = engine
    app.include_router(build_router(lms, engine))
    _add_page(app)
    _add_errors(app)
    app.add_middleware(
        Guard, keys=keys, hosts=None if hosts is None else frozenset(h.lower() for h in hosts), limits=limits
    )
    return app


def check_kind(lm: LanguageModel) -> None:
    """Refuse a model that no route could ask anything. Raises VitralError."""
    if lm.kind in ("image", "two towers"):
        raise VitralError(
            f"model {lm.name!r} takes pictures and writes no text, so there is nothing to serve",
            "In Python, vitral.load(…) names pictures with classify(), or compares them with texts by match()",
            param="model",
        )


def _add_page(app: FastAPI) -> None:
    """The page, built by web/ into `page/`. Its assets carry a hash in their name and never change."""

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount(ASSETS.rstrip("/"), StaticFiles(directory=PAGE / "assets"), name="assets")


def _add_errors(app: FastAPI) -> None:
    async def answer(request: Request, fault: Exception) -> Response:
        reply = refusal(fault)
        if type(fault) is HTTPException and fault.status_code in (404, 405):
            reply = _no_route(app, request, fault)
        return reply.response()

    for kind in (HTTPException, RequestValidationError, VitralError):
        app.add_exception_handler(kind, answer)


def _no_route(app: FastAPI, request: Request, fault: HTTPException) -> Refusal:
    """A 404 or 405 that says which route was meant."""
    what = f"{request.method[:10]} {request.url.path[:100]!a}"
    if fault.status_code == 405:
        message = f"{what} is not a route: it takes {(fault.headers or {}).get('Allow', 'another method')}"
        return Refusal(405, message, code="method_not_allowed", headers=fault.headers)
    paths: list[Any] = [path for path in app.openapi()["paths"] if "{" not in path]
    return Refusal(404, f"{what} is not a route. {did_you_mean(request.url.path, paths)}", code="not_found")
