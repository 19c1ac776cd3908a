"""The server as a process sees it: the printed URL, the socket, and connections that misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import vitral.serve.run as run
from tests.serve.server import exchange, running, wait_for
from tests.serve.toy import ToyLM
from vitral.errors import VitralError
from vitral.serve import serve

ROOT = Path(__file__).parents[2]
BODY = {"model": "toy", "messages": [{"role": "user", "content": "go"}]}
SERVE = """
from tests.serve.toy import ToyLM
from vitral.serve import serve
class Told(ToyLM):
    def encode_prompt(self, *prompt, **options):
        print("asked")
        return super().encode_prompt(*prompt, **options)
lm = Told({options})
serve(lm, port=0)
print("working:", lm.live)
"""


@contextlib.contextmanager
def serving(options: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves a toy model, and its URL."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", SERVE.format(options=options)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_serve_prints_its_url_answers_and_ends_on_interrupt() -> None:
    with serving() as (process, url):
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/health", timeout=20).json() == {"status": "ok"}
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("working: 0\n", "")
        assert process.returncode == 0


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_open_requests_with_an_error(sig: signal.Signals) -> None:
    with serving("reply=lambda _: 'word ' * 5000, seconds=0.01") as (process, url), ThreadPoolExecutor() as pool:
        chat = f"{url}/v1/chat/completions"
        with httpx.stream("POST", chat, json={**BODY, "stream": True}, timeout=20) as reply:
            lines = reply.iter_lines()
            assert "assistant" in next(lines)
            waiting = [pool.submit(httpx.post, chat, json={**BODY, "stream": s}, timeout=20) for s in (False, True)]
            time.sleep(0.4)  # until both are in the queue
            process.send_signal(sig)
            last = [line for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
        for answer in waiting:
            assert answer.result().status_code == 503
            assert answer.result().json()["error"]["code"] == "shutting_down"
        _, complaints = process.communicate(timeout=20)
        assert complaints == ""
        assert process.returncode in (0, -sig)


def test_a_signal_waits_for_a_prefill_to_stop() -> None:
    with serving("prefill=60") as (process, url), ThreadPoolExecutor() as pool:
        answer = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=BODY, timeout=20)
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        assert answer.result().status_code == 503
        assert process.communicate(timeout=4) == ("working: 0\n", "")
        assert process.returncode == 0


def test_a_second_interrupt_ends_at_once() -> None:
    with serving("reply=lambda _: __import__('time').sleep(60)") as (process, url), ThreadPoolExecutor() as pool:
        answer = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=BODY, timeout=20)
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        assert answer.result().status_code == 503
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=4) == ("", "")
        assert process.returncode == -signal.SIGINT


def test_a_client_that_does_not_read_cannot_hold_the_end_up(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "SHUTDOWN_SECONDS", 0.3)
    toy = ToyLM(reply=lambda _: f"{'a' * 20_000} " * 1000)  # more than the sockets' buffers hold
    with running(toy) as url:
        host, port = url.removeprefix("http://").split(":")
        silent = socket.create_connection((host, int(port)), timeout=5)
        body = json.dumps({**BODY, "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        silent.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert wait_for(lambda: toy.produced > 1000)
    silent.close()
    assert capfd.readouterr().err == ""


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
