"""The server as a process sees it: the printed URL, the socket, and connections that misbehave."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import vitral.serve.run as run
from tests.serve.server import exchange, running
from tests.serve.toy import ToyLM
from vitral.errors import VitralError
from vitral.serve import serve

ROOT = Path(__file__).parents[2]


def test_serve_prints_its_url_answers_and_ends_on_interrupt() -> None:
    code = "from tests.serve.toy import ToyLM; from vitral.serve import serve; serve(ToyLM(), port=0)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/health", timeout=20).json() == {"status": "ok"}
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_network_without_key_and_port_in_use_are_refused() -> None:
    with pytest.raises(VitralError, match="API key"):
        serve(ToyLM(), host="0.0.0.0", port=0)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(VitralError, match="cannot listen"):
        serve(ToyLM(), port=taken.getsockname()[1])
    for port in (-1, 70_000):
        with pytest.raises(VitralError, match="port"):
            run.listen("127.0.0.1", port)


def test_connections_that_misbehave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HEADER_SECONDS", 0.4)
    with running(ToyLM()) as url:
        assert b'"invalid_http"' in exchange(url, b"nonsense\r\n\r\n")
        assert b"400" in exchange(url, b"GET /health HTTP/1.1\r\n\r\n").split(b"\r\n")[0], "no Host"
        huge = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n"
        with contextlib.suppress(ConnectionError):  # it may close while we are still sending
            assert b" 400 " in exchange(url, huge)
        for silent in (b"", b"GET /health HT"):
            with contextlib.suppress(ConnectionResetError):  # but no TimeoutError: the server gives up first
                assert exchange(url, silent) == b""
        assert httpx.get(f"{url}/health").status_code == 200


def test_open_connections_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MAX_CONNECTIONS", 3)
    with running(ToyLM()) as url:
        host, port = url.removeprefix("http://").split(":")
        held = [socket.create_connection((host, int(port)), timeout=5) for _ in range(3)]
        time.sleep(0.1)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{url}/health")
        held.pop().close()
        time.sleep(0.1)
        assert httpx.get(f"{url}/health").status_code == 200
        for connection in held:
            connection.close()
