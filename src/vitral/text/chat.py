"""Chats to ids by the model's own template, so that no one can speak in another's name.

The template renders in `render.py`'s worker. What it writes counts, what users typed stays text: see `marks.py` for how
the two are told apart. For chats that spell no special token the ids are those of `transformers`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from vitral.errors import VitralError, did_you_mean
from vitral.text.marks import Marker, escaped, unused_mark
from vitral.text.render import TemplateStoppedError, render
from vitral.text.tokenizer import Tokenizer

Message = Mapping[str, Any]
OPTIONS = frozenset(
    {
        *("builtin_tools", "custom_tools", "python_tools", "xml_tools", "tools_in_user_message"),
        *("enable_thinking", "keep_past_thinking", "reasoning_effort", "thinking", "thinking_budget"),
        *("date_string", "documents", "model_identity"),
    }
)
"""What may be handed to a template besides the messages. All else is refused, `tokenize` and `chat_template` first."""
_REASONING = ("reasoning_content", "thinking", "reasoning")
_READS_PARTS = re.compile(
    r"(?<![_a-z])content['\"]?\]?\s+is\s+(?:not\s+)?(?:string|iterable|sequence|mapping)|\bin\s+\w+(?:\.|\[['\"])content"
)


class ChatTemplate:
    """A model's chat template.

    Args:
        source: Jinja, or several by name; with tools "tool_use" is taken where there is one, else "default".
        bos, eos: what the template prints as `bos_token` and `eos_token`.
        tokens: other tokens by name (`pad_token`, `image_token` …).
    """

    def __init__(
        self,
        source: str | Mapping[str, str],
        *,
        bos: str | None = None,
        eos: str | None = None,
        tokens: Mapping[str, str] | None = None,
    ) -> None:
        self.sources: dict[str, str] = {"default": source} if isinstance(source, str) else dict(source)
        named = {"bos_token": bos, "eos_token": eos}
        self.tokens: dict[str, str] = dict(tokens or {}) | {name: text for name, text in named.items() if text}

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The template that came with a tokenizer; None for a base model."""
        if not tokenizer.chat_templates:
            return None
        return cls(tokenizer.chat_templates, tokens=tokenizer.named_tokens)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **options: Any,
    ) -> str:
        """The text the model reads. To encode it, call `encode_chat`: here nobody's words are told apart.

        Args:
            messages: `{"role", "content"}` objects; content is text, or a list of parts, or absent with tool calls.
            tools: JSON schemas of functions.
            add_generation_prompt: end with the beginning of the assistant's turn.
            options: names of `OPTIONS`.

        Raises:
            VitralError: the messages are malformed, an option is unknown, or the template refuses, fails or runs wild.
        """
        return self._render(_plain(messages, tools, options), add_generation_prompt)

    def render_marked(
        self, marker: Marker, messages: Sequence[Message], *, add_generation_prompt: bool, **rest: Any
    ) -> tuple[str, str]:
        """`render` with marks in what users typed: the text and the mark."""
        tools = rest.pop("tools", None)
        plain = _plain(messages, tools, rest)
        mark = unused_mark(json.dumps(plain, ensure_ascii=False), *self.sources.values())
        text = self._render({name: marker.mark(value, mark) for name, value in plain.items()}, add_generation_prompt)
        return text.replace(escaped(mark), mark), mark

    def _render(self, plain: dict[str, Any], add_generation_prompt: bool) -> str:
        source = self._source(tools=plain["tools"] is not None)
        if not _READS_PARTS.search(source):
            plain = plain | {"messages": [joined(message) for message in plain["messages"]]}
        context = {"documents": None, **self.tokens, **plain, "add_generation_prompt": add_generation_prompt}
        bare = [{key: value for key, value in message.items() if value is not None} for message in plain["messages"]]
        try:
            return render(source, context | {"messages": bare})
        except TemplateStoppedError:
            raise
        except VitralError:
            # Some templates ask whether a field is missing, some whether it is none: both forms are in use.
            if bare == plain["messages"]:
                raise
            return render(source, context)

    def _source(self, *, tools: bool) -> str:
        name = "tool_use" if tools and "tool_use" in self.sources else "default"
        if name not in self.sources:
            raise VitralError(
                "chat_template has no default", "It names " + ", ".join(sorted(self.sources)), param="messages"
            )
        return self.sources[name]


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    expand: Mapping[str, str] | None = None,
    **options: Any,
) -> list[int]:
    """The ids of a chat. Special tokens are those the template wrote; spelt by a user they are ordinary text.

    `expand` says what is read in place of a special token that the template wrote: a picture's mark becomes a run of
    places for it. Arguments and errors are those of `ChatTemplate.render`. No BOS is added: templates write their own.
    """
    marker = _marker(tokenizer.control_tokens)
    text, mark = template.render_marked(
        marker, messages, tools=tools, add_generation_prompt=add_generation_prompt, **options
    )
    for token, run in (expand or {}).items():
        text = text.replace(token, run)  # where a user spelt it there is a mark inside
    return tokenizer.encode_marked(text, mark)


@lru_cache(maxsize=16)
def _marker(specials: frozenset[str]) -> Marker:
    return Marker(specials)


def _plain(messages: Any, tools: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a template may see, checked. Marks go into all of it."""
    for name in options:
        if name not in OPTIONS:
            raise VitralError(f"{name} is no option of a chat template", did_you_mean(name, OPTIONS), param=name)
    checked = [_message(message, place) for place, message in enumerate(_rows(messages, "messages"))]
    if not checked:
        raise VitralError("messages is empty", "Give at least one message", param="messages")
    for field, value in (("tools", tools), ("documents", options.get("documents"))):
        for place, row in enumerate(_rows(value or [], field)):
            if not isinstance(row, Mapping):
                raise VitralError(f"{field}[{place}] is a {type(row).__name__}", "Give an object", param=field)
    return {"messages": checked, "tools": None if tools is None else list(tools), **options}


def joined(message: Message) -> dict[str, Any]:
    """Text parts as one text, for templates that know only text and would print the list as Python writes it."""
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return dict(message)
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise VitralError(f"content holds a part of type {kind!r:.40}", "This model reads text", param="messages")
    return {**message, "content": "\n".join(part["text"] for part in content)}


def _rows(value: Any, field: str) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise VitralError(f"{field} is a {type(value).__name__}", "Give a list of objects", param=field)
    return list(value)


def _message(message: Any, place: int) -> dict[str, Any]:
    field = f"messages[{place}]"
    if not isinstance(message, Mapping):
        raise VitralError(f"{field} is a {type(message).__name__}", "Give an object with role and content", param=field)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise VitralError(f"{field}.role is {role!r:.40}", "Give system, user, assistant or tool", param=field)
    if content is not None and not isinstance(content, str | list | tuple):
        raise VitralError(
            f"{field}.content is a {type(content).__name__}", "Give text, or a list of parts", param=field
        )
    reasoning = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    if reasoning is None:
        return dict(message)
    # The field has three names; a template reads one of them.
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}
