"""Bodies that are not quite JSON: each a 400 that says why, none a 500."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from vitral.serve.body import parse

BOMBS = {
    "nested arrays": (b"[" * 100_000, "nested too deeply"),
    "nested objects": (b'{"a":' * 100_000, "nested too deeply"),
    "huge integer": (b'{"seed": ' + b"9" * 5000 + b"}", "out of range"),
    "lone surrogate": (b'{"model": "\\ud800"}', "surrogate"),
    "lone surrogate in a list": (b'{"stop": ["\\uDC00"]}', "surrogate"),
    "not UTF-8": (b"\xff\xfe", "UTF-8"),
    "UTF-16": ('{"model": "toy"}'.encode("utf-16"), "UTF-8"),
    "NaN": (b'{"temperature": NaN}', "NaN"),
    "Infinity": (b'{"temperature": -Infinity}', "Infinity"),
    "beyond float64": (b'{"temperature": 1e999}', "out of range"),
    "doubled key": (b'{"model": "a", "model": "b"}', "twice"),
    "truncated": (b'{"model": "toy", ', "character 17"),
    "two values": (b"{}{}", "character 2"),
    "byte order mark": (b"\xef\xbb\xbf{}", "not valid JSON"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_400(http: TestClient, name: str) -> None:
    body, why = BOMBS[name]
    reply = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["code"] == "invalid_json"
    assert why in error["message"]


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"5", b'"text"', b"{}"])
def test_json_that_is_no_request_is_400(http: TestClient, body: bytes) -> None:
    reply = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_json_is_read_as_json() -> None:
    assert parse('{"a": [1, 2.5, null, true, "ü🦜\\ud83e\\udd9c"]}'.encode()) == {"a": [1, 2.5, None, True, "ü🦜🦜"]}


def test_offending_text_is_not_echoed(http: TestClient) -> None:
    reply = http.post("/v1/chat/completions", json={"model": "toy", "messages": "canary-text", "n": "canary-text"})
    assert reply.status_code == 400
    assert "canary" not in reply.text
