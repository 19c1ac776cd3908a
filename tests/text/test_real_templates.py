"""Every chat template of the packages that the tests know, on thirty conversations: what is rendered is what
`transformers` renders, and where the one refuses the other does.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from tests.artefacts import artefact
from tests.text.samples import small
from vitral.errors import VitralError
from vitral.text.chat import ChatTemplate
from vitral.text.tokenizer import Tokenizer

READS_PARTS = ("qwen3", "gemma3")
"""The others know only texts and print, or stumble over, the Python list that parts are: ours hands them the text."""
TEMPLATES = {"smollm2": 29, "qwen3": 27, "deepseek_v3": 29, "llama3": 30, "llama3_1": 30, "gemma3": 24}
"""Name → how many of the conversations it renders; Gemma 3's, for one, refuses turns that do not alternate."""


def say(*texts: str, system: str | None = None) -> list[dict[str, Any]]:
    """User and assistant by turns."""
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def function(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    about = {"name": name, "description": f"Does “{name}” & returns <text>.", "parameters": parameters}
    return {"type": "function", "function": about}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*made: dict[str, Any], content: str | None = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(made)}


def result(name: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "content": content, "name": name, "tool_call_id": f"call_{name}"}


WEATHER = function("weather", city={"type": "string"}, unit={"type": "string", "enum": ["°C", "°F"]})
SUM = function("sum", numbers={"type": "array", "items": {"type": "number"}})
ASK = say("Which is warmer, Lisboa or São Paulo?")
ONE_CALL = [*ASK, calls(call("weather", city="Lisboa", unit="°C")), result("weather", '{"t": 21}')]
TWO_CALLS = [
    *ASK,
    calls(call("weather", city="Lisboa"), call("weather", city="São Paulo")),
    result("weather", "21"),
    result("weather", "27"),
]
THOUGHT = "<think>\nLet me see.\n</think>\n\nThe answer is 4."
PARTS = [{"type": "text", "text": "Describe "}, {"type": "text", "text": "both."}]
CODE = "```python\ndef f(x):\n\treturn {'a': x, \"b\": [1, 2]}  # {{ not jinja }} {% nor this %}\n```"

CONVERSATIONS: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    (say("Hello"), {}),
    (say("Hello"), {"add_generation_prompt": False}),
    (say("Hello", system="You are brief."), {}),
    (say("Hello", system=""), {}),
    (say(""), {}),
    (say("", "", ""), {}),
    (say("  spaces  \n", "\n\nnew lines\n\n", "\ttab"), {}),
    (say("Hi", "Hello! How can I help?", "Add 2 and 2", "4", "Thanks"), {}),
    (say("Hi", "Hello!"), {"add_generation_prompt": False}),
    (say("Hi", "Hello!", system="Sê breve."), {"add_generation_prompt": False}),
    (say(*(f"turn {n}" for n in range(21)), system="long"), {}),
    (say("Olá! Tradução: coração, pão, à toa.", "你好，世界 🙂", "👩‍💻 مرحبا"), {}),
    (say(CODE, "Ok: <b>&amp;</b> \\n \\u00e9", "'\"` ${x} %s"), {}),
    ([{"role": "user", "content": PARTS}], {}),
    ([{"role": "system", "content": PARTS[:1]}, {"role": "user", "content": PARTS}], {}),
    (say("Hello"), {"enable_thinking": False}),
    (say("Hello"), {"enable_thinking": True}),
    (say("2+2?", THOUGHT, "And 3+3?"), {}),
    (say("2+2?", THOUGHT), {"add_generation_prompt": False}),
    (say("2+2?", THOUGHT, "And 3+3?", THOUGHT, "Sure?", system="Think."), {"enable_thinking": False}),
    ([*say("2+2?"), {"role": "assistant", "content": "4", "reasoning_content": "Two and two."}, *say("Why?")], {}),
    (ASK, {"tools": [WEATHER]}),
    ([{"role": "system", "content": "Use tools."}, *ASK], {"tools": [WEATHER, SUM]}),
    (ONE_CALL, {"tools": [WEATHER]}),
    ([*ONE_CALL, *say("x", "21 degrees.")[1:], *say("And tomorrow?")], {"tools": [WEATHER]}),
    (TWO_CALLS, {"tools": [WEATHER, SUM], "add_generation_prompt": False}),
    ([*ASK, calls(call("sum", numbers=[1, 2.5]), content="I add."), result("sum", "3.5")], {"tools": [SUM]}),
    ([*ASK, calls(call("sum", numbers=[]), content=None)], {"tools": [SUM], "add_generation_prompt": False}),
    ([{"role": "assistant", "content": "I begin."}, *say("Why?")], {}),
    ([*say("a"), *say("b"), {"role": "narrator", "content": "A voice."}], {}),
]


@cache
def pair(name: str) -> tuple[ChatTemplate, Any]:
    """Our template and a `transformers` tokenizer with the same source and the same named tokens."""
    transformers = pytest.importorskip("transformers")
    if name == "smollm2":
        from vitral.weights.gguf import GGUFFile

        ours = Tokenizer.from_gguf(GGUFFile(artefact(name)).metadata)
        theirs = transformers.PreTrainedTokenizerFast(
            tokenizer_object=small("bpe")._core, chat_template=ours.chat_template
        )
        theirs.add_special_tokens({role: ours.named_tokens[role] for role in ("bos_token", "eos_token")})
    else:
        ours = Tokenizer.from_folder(artefact(name))
        theirs = transformers.AutoTokenizer.from_pretrained(artefact(name))
    template = ChatTemplate.of(ours)
    assert template is not None
    return template, theirs


def joined(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose parts are one text."""
    parts = message["content"]
    return {**message, "content": "\n".join(part["text"] for part in parts)} if isinstance(parts, list) else message


def test_there_are_thirty() -> None:
    assert len(CONVERSATIONS) == 30


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_rendered_is_what_transformers_renders(name: str) -> None:
    ours, theirs = pair(name)
    rendered = 0
    for messages, options in CONVERSATIONS:
        options = {"add_generation_prompt": True} | options
        known = messages if name in READS_PARTS else [joined(message) for message in messages]
        try:
            expected = theirs.apply_chat_template(known, tokenize=False, **options)
        except Exception:  # the template refuses, or fails on what it did not think of
            with pytest.raises(VitralError):
                ours.render(messages, **options)
            continue
        assert ours.render(messages, **options) == expected, (messages, options)
        rendered += 1
    assert rendered >= TEMPLATES[name], "more were refused than the template refuses"
