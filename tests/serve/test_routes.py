"""Each route's answer, and what is refused: the shapes of single answers, without a socket."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.serve.toy import ToyLM
from vitral.errors import VitralError
from vitral.serve import build_app

USER = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"


def chat(http: TestClient, **fields: Any) -> Any:
    return http.post(CHAT, json={"model": "toy", "messages": USER, **fields})


def error(reply: Any, status: int) -> dict[str, Any]:
    """The error of an answer, whose shape is checked."""
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


def test_health(http: TestClient) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.head("/health").status_code == 200


def test_health_of_a_dead_engine(http: TestClient) -> None:
    http.app.state.engine.close()  # type: ignore[attr-defined]
    assert error(http.get("/health"), 503)["code"] == "engine_down"
    assert error(chat(http), 503)["code"] == "shutting_down"


def test_models(http: TestClient) -> None:
    body = http.get("/v1/models").json()
    assert body["object"] == "list"
    (card,) = body["data"]
    assert card == http.get("/v1/models/toy").json()
    assert card["id"] == "toy"
    assert card["object"] == "model"
    assert isinstance(card["created"], int)
    assert (card["context"], card["parameters"], card["kind"], card["chat"]) == (4096, 1234, "decoder", True)


def test_model_names_may_hold_slashes() -> None:
    http = TestClient(build_app([ToyLM("org/one"), ToyLM("two")]), base_url="http://localhost")
    assert http.get("/v1/models/org/one").json()["id"] == "org/one"
    assert [card["id"] for card in http.get("/v1/models").json()["data"]] == ["org/one", "two"]
    assert chat(http, model="two").json()["model"] == "two"


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(VitralError):
        build_app([ToyLM("same"), ToyLM("same")])
    with pytest.raises(VitralError):
        build_app([])


@pytest.mark.parametrize("name", ["tox", "../toy", "/etc/passwd", "x" * 200, "a\0b", "C:\\x"])
def test_unknown_model(http: TestClient, name: str) -> None:
    found = error(chat(http, model=name), 404)
    assert (found["code"], found["param"]) == ("model_not_found", "model")
    assert "'toy'" in found["message"] or "toy" in found["message"]


def test_unknown_model_did_you_mean(http: TestClient) -> None:
    assert "Did you mean 'toy'?" in error(http.get("/v1/models/toyy"), 404)["message"]


def test_encoder_does_not_chat() -> None:
    http = TestClient(build_app(ToyLM(kind="encoder")), base_url="http://localhost")
    assert error(chat(http), 400)["param"] == "model"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/chat/completion", 404),
        ("GET", "/nothing", 404),
        ("GET", "/assets/nothing.js", 404),
        ("GET", "/assets/../../app.py", 404),
        ("GET", "/assets/%2e%2e/%2e%2e/app.py", 404),
        ("GET", "/docs", 404),
        ("GET", CHAT, 405),
        ("DELETE", CHAT, 405),
        ("PUT", "/v1/models", 405),
        ("PATCH", "/health", 405),
        ("DELETE", "/", 405),
    ],
)
def test_errors_of_every_route_have_the_shape(http: TestClient, method: str, path: str, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    found = error(http.request(method, path, headers=headers), status)
    assert found["type"] == "invalid_request_error"


def test_misspelt_route_is_corrected(http: TestClient) -> None:
    reply = http.post("/v1/chat/completion", json={})
    assert "Did you mean '/v1/chat/completions'" in error(reply, 404)["message"]


def test_405_says_what_is_allowed(http: TestClient) -> None:
    assert http.get(CHAT).headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("temperature", v) for v in (-0.1, 2.1, True, "1", [1])],
        *[("top_p", v) for v in (0, -1, 1.01, True, "0.5")],
        *[("max_tokens", v) for v in (0, -1, 10**18, True, "5", 1.5)],
        *[("max_completion_tokens", v) for v in (0, True, 1.0)],
        *[("seed", v) for v in (2**64, -(2**64), True, 1.5, "1")],
        *[("presence_penalty", v) for v in (2.5, -2.5, 1e308)],
        *[("frequency_penalty", v) for v in (2.5, True)],
        *[("repetition_penalty", v) for v in (0, -1, 11)],
        *[("top_k", v) for v in (-1, 1.5, True)],
        *[("min_p", v) for v in (-0.1, 1.1)],
        *[("n", v) for v in (0, 9, 10**6, True)],
        *[("logprobs", v) for v in (1, 5, "yes")],
        *[("stop", v) for v in ("", [""], ["a"] * 17, ["a" * 257], 5, [5], ["a"] * 100_000)],
        *[("stream", v) for v in (1, "true")],
        *[("messages", v) for v in ([], None, "hi", [5], [{}], [{"role": "user"}], [{"content": "a"}])],
        ("messages", [{"role": "king", "content": "a"}]),
        ("messages", [{"role": "user", "content": 5}]),
        ("messages", [{"role": "user", "content": None}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ("messages", [{"role": "user", "content": [{"type": "text", "text": 5}]}]),
        ("messages", [{"role": "user", "content": "a"}] * 3000),
        ("model", ""),
        ("model", 5),
        ("model", None),
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "function", "function": {"name": "f"}}] * 200),
        ("stream_options", 5),
    ],
)
def test_bad_values_are_named(http: TestClient, toy: ToyLM, field: str, value: Any) -> None:
    found = error(chat(http, **{field: value}), 400)
    assert (found["param"] or "").startswith(field)
    assert toy.asked == [], "a bad value reached the model"


def test_top_logprobs_is_capped_and_needs_logprobs(http: TestClient) -> None:
    assert error(chat(http, logprobs=True, top_logprobs=21), 400)["param"] == "top_logprobs"
    assert "logprobs: true" in error(chat(http, top_logprobs=2), 400)["message"]
    assert chat(http, logprobs=True, top_logprobs=20).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}),
        ("audio", {"voice": "alloy"}),
        ("modalities", ["text", "audio"]),
        ("logit_bias", {"5": 100}),
        ("logit_bias", {str(i): 1 for i in range(50_000)}),
        ("prompt_embeds", "AAAA"),
        ("chat_template", "{{ x }}"),
        ("chat_template_kwargs", {"tokenize": True}),
        ("best_of", 10**6),
        ("guided_regex", "foo**"),
        ("reasoning_effort", "high"),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_options_not_offered_are_refused_by_name(http: TestClient, field: str, value: Any) -> None:
    found = error(chat(http, **{field: value}), 400)
    assert (found["code"], found["param"]) == ("unsupported_option", field)


def test_options_that_ask_for_nothing_are_accepted(http: TestClient) -> None:
    nothing = {
        "response_format": {"type": "text"},
        "logit_bias": {},
        "n": 1,
        "modalities": ["text"],
        "audio": None,
        "tool_choice": "auto",
        "temperature": None,
        "stop": None,
        "user": "me",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
    }
    reply = chat(http, **nothing)
    assert reply.status_code == 200
    assert "x-vitral-warning" not in reply.headers


def test_unknown_options_warn(http: TestClient) -> None:
    for stream in (False, True):
        reply = chat(http, stream=stream, flavour="sweet", **{"é\r\nx": 1})
        assert reply.status_code == 200
        warning = reply.headers["x-vitral-warning"]
        assert "'flavour'" in warning
        assert "\\xe9\\r\\nx" in warning


def test_contradictions_are_refused(http: TestClient) -> None:
    assert error(chat(http, max_tokens=5, max_completion_tokens=6), 400)["param"] == "max_completion_tokens"
    assert error(chat(http, stream_options={"include_usage": True}), 400)["param"] == "stream_options"
    assert chat(http, max_tokens=5, max_completion_tokens=5).status_code == 200


def test_sampling_reaches_the_model(http: TestClient, toy: ToyLM) -> None:
    given = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "seed": 7,
        "stop": ["x"],
        "max_tokens": 9,
    }
    assert chat(http, **given, logprobs=True, top_logprobs=3).status_code == 200
    sampling = toy.asked[0].sampling
    assert {name: getattr(sampling, name) for name in given} == {**given, "stop": ("x",)}
    assert sampling.candidates == 3
    chat(http)
    assert toy.asked[1].sampling == toy.defaults


def test_messages_reach_the_template(http: TestClient, toy: ToyLM) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "name": "ana"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    reply = chat(http, messages=messages, tools=tools)
    assert reply.status_code == 200
    assert "tools" in reply.headers["x-vitral-warning"]
    assert toy.asked[0].messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one\ntwo", "name": "ana"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    assert toy.asked[0].tools == tools
    chat(http, tools=tools, tool_choice="none")
    assert toy.asked[1].tools is None


def test_faults_of_the_model_library_are_400(http: TestClient) -> None:
    found = error(chat(http, messages=[{"role": "user", "content": ""}]), 400)
    assert found["param"] == "messages"
    assert "prompt is empty" in found["message"]


def test_openapi_describes_the_chat_route(http: TestClient) -> None:
    schema = http.get("/openapi.json").json()
    body = schema["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"].endswith("/ChatRequest")
