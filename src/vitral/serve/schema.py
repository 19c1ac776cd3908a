"""The bodies of the HTTP API, as OpenAI's clients send and read them.

Requests are strict: a bool is no number, "5" is no number, every range is closed and every list is capped before
anything is built from it. Three kinds of options are told apart: those that work, those we know and do not offer
(`UNSUPPORTED`: a 400 that names them), and those we do not know (accepted, named in a warning header).
"""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from vitral.generate.request import MAX_CANDIDATES, MAX_STOP_LENGTH, MAX_STOPS, Sampling
from vitral.serve.errors import Refusal

MAX_CHOICES = 8
MAX_MESSAGES = 2048
MAX_TOOLS = 128
MAX_PARTS = 64
MAX_NAME = 256

IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "prompt_cache_key", "safety_identifier"}
)
"""Options that change no answer here, so ignoring them is no surprise."""

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "functions": ([],),
    "function_call": ("none",),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "best_of": (1,),
    "beams": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "prompt_embeds": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "grammar": (),
}
"""Options known and not offered, with the values that ask for nothing (null never does)."""


class Body(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")


def _content(content: Any) -> Any:
    """A message's content: text; text parts, which are joined by a line break as other servers do; or, where there
    are pictures among them, the parts.
    """
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError("give text, or a list of text and image_url parts")
    if len(content) > MAX_PARTS:
        raise ValueError(f"give at most {MAX_PARTS} parts")
    parts = [_part(part) for part in content]
    return "\n".join(part["text"] for part in parts) if all(part["type"] == "text" for part in parts) else parts


def _part(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise ValueError("a text part needs its text as a string")
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        if not isinstance(url, str) or not url.startswith("data:image/"):
            raise ValueError("image_url must be a data:image/… URL: this server fetches nothing")
        return {"type": "image_url", "image_url": {"url": url}}
    named = f"content parts of type {kind[:40]!r}" if isinstance(kind, str) else "parts without a type"
    raise ValueError(f"{named} are not supported; this server reads text and image_url parts")


def _list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


Content = Annotated[
    str | list[dict[str, Any]] | None,
    BeforeValidator(_content, json_schema_input_type=str | list[dict[str, Any]] | None),
]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stops = Annotated[
    list[Stop] | None,
    Field(max_length=MAX_STOPS),
    BeforeValidator(_list, json_schema_input_type=str | list[str] | None),
]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]


class FunctionCall(Body):
    name: Name
    arguments: str


class ToolCall(Body):
    id: Name
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    name: Name | None = None
    tool_call_id: Name | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError(f"a {self.role} message needs content")
        return self

    @property
    def pictures(self) -> int:
        """How many pictures the message holds."""
        return sum(part["type"] == "image_url" for part in self.content) if isinstance(self.content, list) else 0

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates read it: a developer is the system, tool arguments are objects."""
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": self.content or ""}
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": c.id, "type": c.type, "function": {"name": c.function.name, "arguments": _arguments(c.function)}}
                for c in self.tool_calls
            ]
        return message


def _arguments(call: FunctionCall) -> Any:
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError):  # a client may hand back what a model wrote badly: then it stays text
        return call.arguments


class FunctionTool(Body):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Body):
    type: Literal["function"]
    function: FunctionTool


class StreamOptions(Body):
    include_usage: bool | None = None


class ChatRequest(Body):
    """`POST /v1/chat/completions`. top_k, min_p, repetition_penalty and return_prompt are ours, beside OpenAI's."""

    model: Name
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stop: Stops = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_CANDIDATES)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Any = None
    return_prompt: bool | None = None
    """Also answer with `prompt_text`: what the model read, special tokens included."""

    def refuse_unsupported(self) -> None:
        """Raise a Refusal 400 that names an option we know and do not offer, or two options that contradict."""
        for name, value in (self.model_extra or {}).items():
            if name in UNSUPPORTED and value is not None and value not in UNSUPPORTED[name]:
                raise Refusal(400, f"{name} is not supported by this server", code="unsupported_option", param=name)
        if self.tool_choice not in (None, "auto", "none"):
            message = "tool_choice can be 'auto' or 'none': this server cannot force a tool call"
            raise Refusal(400, message, code="unsupported_option", param="tool_choice")
        if self.top_logprobs and not self.logprobs:
            raise Refusal(400, "top_logprobs needs logprobs: true", code="invalid_value", param="top_logprobs")
        if self.stream_options is not None and not self.stream:
            raise Refusal(400, "stream_options needs stream: true", code="invalid_value", param="stream_options")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            message = "max_tokens and max_completion_tokens differ: give one of them"
            raise Refusal(400, message, code="invalid_value", param="max_completion_tokens")

    @property
    def template_tools(self) -> list[dict[str, Any]] | None:
        if not self.tools or self.tool_choice == "none":
            return None
        return [tool.model_dump(exclude_unset=True) for tool in self.tools]

    @property
    def warnings(self) -> list[str]:
        """What was accepted and does nothing, or less than one might think."""
        unknown = sorted(set(self.model_extra or {}) - IGNORED - set(UNSUPPORTED))
        found = [f"unknown option ignored: {name[:40]!a}" for name in unknown[:8]]
        if self.template_tools:
            found.append("tools are shown to the model; a call arrives as text")
        return found

    def samplings(self, defaults: Sampling) -> list[Sampling]:
        """One Sampling a choice: what was given, over the model's defaults; the i-th choice uses seed + i."""
        same = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
        given: dict[str, Any] = {name: getattr(self, name) for name in same if getattr(self, name) is not None}
        if (most := self.max_completion_tokens or self.max_tokens) is not None:
            given["max_tokens"] = most
        if self.stop is not None:
            given["stop"] = tuple(self.stop)
        given["candidates"] = self.top_logprobs or 0
        seeds = [None if self.seed is None else self.seed + i for i in range(self.n or 1)]
        return [dataclasses.replace(defaults, **given, seed=seed) for seed in seeds]


class Answer(BaseModel):
    """Unset fields are left out when dumped; None that was set is sent as null."""

    def json_text(self) -> str:
        # ASCII only: some clients split event streams at U+2028 (openai-python #1230)
        return self.model_dump_json(exclude_unset=True, ensure_ascii=True)


class TopLogprob(Answer):
    token: str
    logprob: float
    bytes: list[int]
    id: int


class TokenLogprob(TopLogprob):
    """`bytes` are what the token adds to the content; those of an answer, joined, are the content in UTF-8.

    The token that ends an answer (say `<|im_end|>`) is listed too, with no bytes, so there are as many entries as
    completion tokens. `id` is ours: the token's number in the vocabulary.
    """

    top_logprobs: list[TopLogprob]


class Logprobs(Answer):
    content: list[TokenLogprob]
    refusal: None = None


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(Answer):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class Choice(Answer):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Answer):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    prompt_text: str | None = None


class Delta(Answer):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Answer):
    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class Chunk(Answer):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    prompt_text: str | None = None


class Model(Answer):
    """`context` (tokens), `kind`, `parameters` and `licence` are ours, beside OpenAI's fields."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: str
    chat: bool
    context: int
    parameters: int
    licence: str


class ModelList(Answer):
    object: Literal["list"]
    data: list[Model]
