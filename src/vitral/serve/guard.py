"""The one door: every HTTP request passes here before a route sees it, and every answer leaves through it.

Deny by default, in this order, and before a byte of the body is parsed:
1. Host and Origin: a page of another site must not drive a server on loopback (DNS rebinding, Ollama CVE-2024-28224).
2. The API key, on every path but `OPEN` and the page's assets (vLLM's key once covered `/v1` only).
3. The body: application/json, at most so many bytes, within so many seconds.
Answers get security headers and a request id; a fault nobody foresaw becomes a 500 without the request's text.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitral.errors import VitralError
from vitral.serve.errors import Refusal, log_fault, refusal

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN = frozenset({"/", "/health"})
"""Paths that need no key: the page itself holds nothing, the health check says nothing."""
ASSETS = "/assets/"
HOST = re.compile(r"(?:\[(?P<address>[^\]]+)\]|(?P<name>[^:\[\]@]+))(?::[0-9]*)?")

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client may ask of the server."""

    body_bytes: int = 1024 * 1024
    """By default sixteen times as much where a model that sees is served."""
    body_seconds: float = 30.0
    waiting: int = 32
    """Requests that may wait for the engine; one more is a 429."""


def is_loopback(host: str) -> bool:
    """Whether a bind address is reachable from this machine alone. A name other than localhost is taken not to be."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(host: str, keys: Sequence[str]) -> None:
    """Refuse to open a server to the network without a key. Raises VitralError."""
    if not is_loopback(host) and not keys:
        raise VitralError(
            f"host {host!r} is reachable from other machines and no API key is set",
            "Set an API key, or bind 127.0.0.1",
            param="host",
        )


def clean_keys(api_key: str | Iterable[str] | None) -> tuple[str, ...]:
    """The keys as a tuple. Raises VitralError for one that no client could send."""
    keys = () if api_key is None else (api_key,) if isinstance(api_key, str) else tuple(api_key)
    for key in keys:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise VitralError(
                "the API key is empty or holds characters a header cannot carry",
                "Use printable ASCII without spaces",
                param="api_key",
            )
    return keys


class Guard:
    """ASGI middleware; see the module's first lines.

    Args:
        keys: accepted API keys; none means that no key is asked for.
        hosts: names the server may be called by; None allows any (a server on the network, which needs a key).
    """

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], hosts: frozenset[str] | None, limits: Limits) -> None:
        self.app = app
        self.hosts = hosts
        self.limits = limits
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        request_id = f"req_{uuid.uuid4().hex}"
        reply = _Reply(send, request_id)
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_origin(headers, scope["path"])
            self._check_key(headers, scope["path"])
            self._check_body(headers, scope["method"])
            await self.app(scope, _Body(receive, self.limits), reply)
        except Exception as fault:
            answer = refusal(fault)
            if answer.status_code >= 500:
                log_fault(fault, request_id)
            if not reply.started:  # else the client sees a cut answer: nothing true can be added to it
                await answer.response()(scope, receive, reply)

    def _check_host(self, headers: Headers) -> None:
        if self.hosts is not None and _host_name(headers.get("host", "")) not in self.hosts:
            raise Refusal(403, "This server is not known by that Host name", code="host_not_allowed")

    def _check_origin(self, headers: Headers, path: str) -> None:
        """Refuse other sites on every method, reads included. Clients that are no browser send neither header."""
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        foreign = origin is not None and (_netloc(origin) or None) != headers.get("host", "").lower()
        # a link from another site may open the page; nothing else may be reached from one
        if foreign or (site not in ("same-origin", "none") and path != "/"):
            raise Refusal(403, "Requests from other sites' pages are refused", code="origin_not_allowed")

    def _check_key(self, headers: Headers, path: str) -> None:
        if not self._digests or path in OPEN or path.startswith(ASSETS):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = _digest(given.strip().encode("latin-1")) if scheme.lower() == "bearer" else b""
        # bytes, for compare_digest raises on non-ASCII str; every key, so that time tells nothing
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise Refusal(
                401,
                "The API key is missing or wrong: send it as 'Authorization: Bearer <key>'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_body(self, headers: Headers, method: str) -> None:
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Refusal(400, "Content-Length is no number", code="invalid_http")
        if len(length) > 18 or int(length) > self.limits.body_bytes:
            raise _too_large(self.limits.body_bytes)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and kind != "application/json":
            raise Refusal(415, "The body must be JSON: send 'Content-Type: application/json'", code="not_json")


class _Body:
    """`receive`, with the body's size and time limited. After the body it only tells of a disconnect."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive = receive
        self._limits = limits
        self._left = limits.body_bytes
        self._deadline = asyncio.get_running_loop().time() + limits.body_seconds
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            why = f"The body did not arrive within {self._limits.body_seconds:g} s"
            raise Refusal(408, why, code="body_too_slow", headers={"Connection": "close"}) from None
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise _too_large(self._limits.body_bytes)
            self._complete = not message.get("more_body", False)
        return message


class _Reply:
    """`send`, with the headers every answer has."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            headers.update(SECURITY_HEADERS)
            headers["X-Request-Id"] = self._request_id
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)


def _digest(key: bytes) -> bytes:
    """Equal lengths for the comparison, whatever was sent."""
    return hashlib.sha256(key).digest()


def _netloc(origin: str) -> str:
    """'http://localhost:8000' -> 'localhost:8000'; '' for 'null' and for what is no URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_name(host: str) -> str | None:
    """'127.0.0.1:8000' -> '127.0.0.1'; '[::1]:8000' -> '::1'; None for what is no name and port."""
    found = HOST.fullmatch(host.lower())
    return found and (found["address"] or found["name"])


def _too_large(limit: int) -> Refusal:
    message = f"The body is larger than {limit} bytes"
    return Refusal(413, message, code="body_too_large", headers={"Connection": "close"})
