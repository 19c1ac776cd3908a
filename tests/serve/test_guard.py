"""The door: Host, Origin, key, size, speed, headers, and what the log may say."""

from __future__ import annotations

import hmac
import itertools
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.serve.server import exchange, running
from tests.serve.toy import ToyLM
from vitral.errors import VitralError
from vitral.serve import Limits, build_app
from vitral.serve.guard import ASSETS, OPEN, check_bind, clean_keys, is_loopback

CHAT = "/v1/chat/completions"
BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
KEY = "sk-right"


@pytest.fixture
def locked() -> Iterator[TestClient]:
    with TestClient(build_app(ToyLM(), api_key=[KEY, "sk-second"]), base_url="http://localhost") as client:
        yield client


HOSTS = {
    "localhost": True,
    "localhost:8000": True,
    "LOCALHOST": True,
    "127.0.0.1": True,
    "127.0.0.1:8000": True,
    "[::1]:8000": True,
    "evil.test": False,
    "127.0.0.1.evil.test": False,
    "localhost.evil.test": False,
    "192.168.0.7": False,
    "": False,
    "evil.test:127.0.0.1": False,
    "[::1].evil.test": False,
    "localhost:": True,
    "localhost:8731@evil.test": False,
    "localhost@evil.test": False,
    "localhost:8000:8000": False,
}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/health"), ("GET", "/v1/models"), ("POST", CHAT), ("DELETE", CHAT)]
)
@pytest.mark.parametrize("host", HOSTS)
def test_host_matrix(http: TestClient, method: str, path: str, host: str) -> None:
    reply = http.request(method, path, headers={"Host": host}, json=BODY if method == "POST" else None)
    if HOSTS[host]:
        assert reply.status_code in (200, 405)
    else:
        assert reply.status_code == 403
        assert reply.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"])
@pytest.mark.parametrize(
    "origin", ["null", "http://evil.test", "http://localhost.evil.test", "http://[", "", "file://"]
)
def test_other_origins_are_refused_on_every_method(http: TestClient, toy: ToyLM, method: str, origin: str) -> None:
    for path in (CHAT, "/v1/models", "/health", "/"):
        reply = http.request(method, path, headers={"Origin": origin, "Content-Type": "application/json"})
        assert reply.status_code == 403
        assert not [name for name in reply.headers if name.startswith("access-control")]
    assert toy.asked == []


def test_own_origin_is_answered(http: TestClient) -> None:
    assert http.post(CHAT, json=BODY, headers={"Origin": "http://localhost"}).status_code == 200
    headers = {"Origin": "http://127.0.0.1:8000", "Host": "127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert http.post(CHAT, json=BODY, headers=headers).status_code == 200
    other_port = {"Origin": "http://localhost:3000", "Host": "localhost:8000"}
    assert http.post(CHAT, json=BODY, headers=other_port).status_code == 403


@pytest.mark.parametrize(
    ("site", "page", "api"), [("none", 200, 200), ("same-origin", 200, 200), ("cross-site", 200, 403)]
)
def test_another_site_may_only_link_to_the_page(http: TestClient, site: str, page: int, api: int) -> None:
    assert http.get("/", headers={"Sec-Fetch-Site": site}).status_code == page
    assert http.get("/v1/models", headers={"Sec-Fetch-Site": site}).status_code == api


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json"])
def test_only_json_is_read(http: TestClient, kind: str) -> None:
    reply = http.post(CHAT, content=b'{"model": "toy"}', headers={"Content-Type": kind})
    assert reply.status_code == 415
    assert reply.json()["error"]["code"] == "not_json"


def route_table(app: FastAPI) -> set[tuple[str, str]]:
    """Every (method, path) the application answers."""
    table = {
        (method, getattr(route, "path", ""))
        for route in _flat(app.routes)
        for method in (getattr(route, "methods", None) or {"GET"})
    }
    return {(method, path.replace("{model_id:path}", "toy")) for method, path in table}


def _flat(routes: Any) -> Iterator[Any]:
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        if inner is not None and hasattr(inner, "routes") and not hasattr(route, "methods"):
            yield from _flat(inner.routes)
        else:
            yield route


def test_every_route_needs_the_key(locked: TestClient) -> None:
    table = route_table(locked.app)  # type: ignore[arg-type]
    assert {("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/models/toy"), ("GET", "/openapi.json")} <= table
    for method, path in table:
        reply = locked.request(method, path, headers={"Content-Type": "application/json"})
        if path in OPEN or path == ASSETS.rstrip("/"):
            assert path in ("/", "/health", "/assets"), "a new open path: is it meant to be?"
        else:
            assert reply.status_code == 401, (method, path)
    assert locked.get("/v1/nothing").status_code == 401


GIVEN = {
    f"Bearer {KEY}": 200,
    f"bearer {KEY}": 200,
    f"Bearer  {KEY} ": 200,
    f"Bearer\t{KEY}": 401,
    "Bearer sk-second": 200,
    KEY: 401,
    "Bearer": 401,
    "Bearer ": 401,
    f"Bearer {KEY}x": 401,
    f"Bearer {KEY[:-1]}": 401,
    f"Basic {KEY}": 401,
    "Bearer é": 401,
    "Bearer " + "k" * 1_000_000: 401,
}


@pytest.mark.parametrize("given", GIVEN, ids=lambda given: given[:20])
def test_keys(locked: TestClient, given: str) -> None:
    reply = locked.post(CHAT, json=BODY, headers={"Authorization": given.encode("latin-1")})  # type: ignore[dict-item]
    assert reply.status_code == GIVEN[given]
    if reply.status_code == 401:
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.json()["error"]["code"] == "invalid_api_key"


def test_key_is_asked_before_the_body_is_read(locked: TestClient) -> None:
    assert locked.post(CHAT, content=b"\xff" * 100, headers={"Content-Type": "text/plain"}).status_code == 401


def test_keys_are_compared_in_constant_time(locked: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, Any]] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: seen.append((a, b)) or real(a, b))
    assert locked.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert len(seen) == 2, "every key is compared, also after one has matched"
    assert all(isinstance(a, bytes) and len(a) == len(b) == 32 for a, b in seen)


@pytest.mark.parametrize("key", ["", " ", "é", "a b", "a\n", ["good", ""]])
def test_keys_no_client_could_send_are_refused(key: Any) -> None:
    with pytest.raises(VitralError):
        clean_keys(key)


def test_large_bodies_are_refused(toy: ToyLM) -> None:
    with TestClient(build_app(toy, limits=Limits(body_bytes=1000)), base_url="http://localhost") as http:
        assert http.post(CHAT, json=BODY).status_code == 200
        big = {**BODY, "user": "x" * 2000}
        reply = http.post(CHAT, json=big)
        assert reply.status_code == 413
        assert reply.json()["error"]["code"] == "body_too_large"
        pieces = (b'{"user": "' if i == 0 else b"x" * 100 for i in range(30))
        chunked = http.post(CHAT, content=pieces, headers={"Content-Type": "application/json"})
        assert chunked.status_code == 413, "without a Content-Length"


def test_a_body_may_be_a_mebibyte(toy: ToyLM) -> None:
    with TestClient(build_app(toy), base_url="http://localhost") as http:
        headers = {"Content-Type": "application/json"}
        assert http.post(CHAT, content=b" " * 2**20, headers=headers).status_code == 400
        assert http.post(CHAT, content=b" " * (2**20 + 1), headers=headers).status_code == 413


def test_full_queue_is_429_with_retry_after() -> None:
    toy = ToyLM(seconds=0.02)
    with TestClient(build_app(toy, limits=Limits(waiting=3)), base_url="http://localhost") as http:
        reply = http.post(CHAT, json={**BODY, "n": 8})
        assert reply.status_code == 429
        assert reply.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        assert http.post(CHAT, json=BODY).status_code == 200
    assert len(toy.asked) <= 2, "the places taken half-way were not given back: at most one of them had begun"


def test_every_answer_carries_the_security_headers(http: TestClient) -> None:
    answers = [
        http.get("/"),
        http.get("/health"),
        http.get("/v1/nothing"),
        http.get("/health", headers={"Host": "evil.test"}),
        http.post(CHAT, json={**BODY, "stream": True}),
        http.post(CHAT, json={}),
    ]
    for reply in answers:
        policy = reply.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-request-id"].startswith("req_")
    assert answers[1].headers["cache-control"] == "no-store"
    assert len({reply.headers["x-request-id"] for reply in answers}) == len(answers)


def test_an_unforeseen_fault_is_a_500_with_the_shape(
    http: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("prompt-canary")

    monkeypatch.setattr("vitral.serve.routes._open", broken)
    reply = http.post(CHAT, json=BODY)
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "server_error"
    assert "canary" not in reply.text
    assert "KeyError" in caplog.text
    assert reply.headers["x-request-id"] in caplog.text
    assert "canary" not in caplog.text


def test_no_prompt_in_any_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    toy = ToyLM(fault=RuntimeError("canary"), fault_at=1)
    with TestClient(build_app(toy, api_key="canary-key"), base_url="http://localhost") as http:
        headers = {"Authorization": "Bearer canary-key"}
        body = {"model": "toy", "messages": [{"role": "user", "content": "canary"}]}
        for stream, fault, top_p in itertools.product((False, True), (toy.fault, None), (1.0, 5.0)):
            toy.fault = fault
            http.post(CHAT, json={**body, "stream": stream, "top_p": top_p}, headers=headers)
        http.post(CHAT, json=body, headers={"Authorization": "Bearer canary"})
    logged = "\n".join(record.getMessage() + (record.exc_text or "") for record in caplog.records)
    assert "RuntimeError" in logged, "faults are logged"
    assert "canary" not in logged


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("example.test", False),
        ("", False),
    ],
)
def test_no_key_no_network(host: str, local: bool) -> None:
    assert is_loopback(host) is local
    check_bind(host, ("key",))
    if local:
        check_bind(host, ())
    else:
        with pytest.raises(VitralError, match="API key"):
            check_bind(host, ())


def test_any_host_needs_a_key() -> None:
    with pytest.raises(VitralError):
        build_app(ToyLM(), hosts=None)
    http = TestClient(build_app(ToyLM(), hosts=None, api_key=KEY), base_url="http://elsewhere.test")
    assert http.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_a_slow_body_is_cut_off() -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"
    with running(ToyLM(), limits=Limits(body_seconds=0.3)) as url:
        started = time.monotonic()
        answer = exchange(url, head.encode() + b'{"model"')
        assert b" 408 " in answer.split(b"\r\n")[0]
        assert b"body_too_slow" in answer
        assert time.monotonic() - started < 3
