"""Run the application on a socket."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitral.errors import VitralError
from vitral.serve.app import build_app
from vitral.serve.engine import Engine, LanguageModel
from vitral.serve.errors import Refusal
from vitral.serve.guard import LOOPBACK, Limits, check_bind, clean_keys, is_loopback

HEADER_SECONDS = 20.0
HEADER_BYTES = 32 * 1024
MAX_CONNECTIONS = 512
SHUTDOWN_SECONDS = 5.0
"""How long clients get to read their last answer when the server ends."""


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1, plus a deadline for a request's headers and a cap on open connections (uvicorn #157)."""

    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._headers_due = self.loop.call_later(HEADER_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy and self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None
        elif not busy and self._headers_due is None:
            self._headers_due = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self.cycle is None or self.cycle.response_complete:  # never into the middle of another answer
            answer = Refusal(400, msg, code="invalid_http").response()
            head = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n" + head + b"\r\n" + answer.body)
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn, with an end that clients can understand.

    uvicorn waits for open requests, cancels them where they stand, and only then tells the application. Here the
    engine stops first: every open request gets a 503, or an error event in its stream, and nothing is left to cancel.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self.engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.engine.stop()
        due = asyncio.get_running_loop().call_later(SHUTDOWN_SECONDS, self._hang_up)
        await super().shutdown(sockets)
        due.cancel()

    def _hang_up(self) -> None:
        """Drop the clients that do not read: their requests end as if they had left, without a traceback."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:  # a second Ctrl-C: at once, whatever the worker is doing
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        super().handle_exit(sig, frame)


def serve(
    lm: LanguageModel | Sequence[LanguageModel],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | Iterable[str] | None = None,
    hosts: Iterable[str] = (),
    limits: Limits | None = None,
    ready: Callable[[str], Any] = print,
) -> None:
    """Serve until interrupted (SIGINT, SIGTERM); open requests are ended with an error, a second SIGINT ends all.

    Args:
        lm: one model or several.
        host: address to bind. Any but a loopback address needs an API key.
        port: 0 takes a free one.
        hosts: further Host names to answer to on loopback, for a proxy on this machine.
        ready: called with the URL once the socket accepts connections.

    Raises:
        VitralError: an address without a key, a port in use, and what `build_app` raises.
    """
    keys = clean_keys(api_key)
    check_bind(host, keys)
    known = {*LOOPBACK, host.strip("[]"), *hosts} if is_loopback(host) else None
    app = build_app(lm, api_key=keys, hosts=known, limits=limits)
    with listen(host, port) as listener, contextlib.suppress(KeyboardInterrupt):
        ready(_url(*listener.getsockname()[:2]))
        new_server(app).run(sockets=[listener])


def new_server(app: FastAPI) -> Server:
    """uvicorn as this project runs it: no access log, no version header, no WebSockets."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        h11_max_incomplete_event_size=HEADER_BYTES,
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    return Server(config, app.state.engine)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises VitralError when the address cannot be had."""
    if not 0 <= port <= 65535:
        raise VitralError(f"port is {port}", "Give a whole number from 0 to 65535", param="port")
    name = host.strip("[]")
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = found[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except OSError as fault:
        why = fault.strerror or str(fault)
        raise VitralError(f"cannot listen on {host}:{port}: {why}", "Choose another --port", param="port") from None
    return listener


def _url(host: str, port: int) -> str:
    """An address to open in a browser: the wildcard is shown as localhost."""
    if ipaddress.ip_address(host).is_unspecified:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
