"""The chat-template worker: a process of its own that renders Jinja and can be killed.

Templates come inside model files, so they are untrusted programs. The sandbox stops them from reaching Python's
internals, but not from asking for a terabyte or an endless loop, and a single C call cannot be interrupted from
inside: hence a separate process with hard limits, which `render.py` starts, feeds and kills.

It is run as a file by an isolated interpreter and imports only the standard library and Jinja, nothing of vitral.
Messages in both directions are a 4-byte big-endian length and that many bytes of JSON:
request `{"source", "context"}`, reply `{"text"}` or `{"error"}`; one empty `{}` says that the worker is ready.
"""

from __future__ import annotations

import functools
import json
import os
import struct
import sys
from datetime import datetime
from typing import Any, BinaryIO

MAX_MEMORY = 384 << 20  # bytes of address space
MAX_OUTPUT = 8 << 20  # characters of rendered text
MAX_CPU = 5  # seconds for one template, should the parent die and leave it running
MAX_ERROR = 400  # characters of an error message


def limit_process() -> None:
    """Takes away memory, files and core dumps, once and for all; a no-op where the system has no such limits."""
    try:
        import resource
    except ImportError:  # not a POSIX system: the parent's wall clock still holds
        return
    for name, value in (("RLIMIT_AS", MAX_MEMORY), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", 32)):
        resource.setrlimit(getattr(resource, name), (value, value))


def limit_next_request() -> None:
    """Allows the process `MAX_CPU` more seconds of processor time: the kernel's limit counts from its start."""
    try:
        import resource
    except ImportError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + MAX_CPU, resource.RLIM_INFINITY))


@functools.cache
def environment() -> Any:
    """The Jinja environment: what `transformers` offers to templates, and nothing that it does not."""
    from jinja2 import TemplateError, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}…{% endgeneration %}` marks the assistant's words for training masks: shown as they are."""

        tags = {"generation"}  # noqa: RUF012 (the name and type Jinja asks for)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class Sandbox(ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            # Jinja would hand out an Undefined, which prints as nothing: an escape attempt should be heard.
            raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} is refused")

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        # Jinja's own filter escapes HTML, which no model was trained on.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    for name in ("lipsum", "cycler", "joiner"):
        del env.globals[name]
    env.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    env.filters["tojson"] = tojson
    return env


@functools.lru_cache(maxsize=16)
def compiled(source: str) -> Any:
    return environment().from_string(source)


def render(source: str, context: dict[str, Any]) -> str:
    """The rendered text. Raises whatever the template raises, and ValueError past `MAX_OUTPUT` characters."""
    pieces, length = [], 0
    for piece in compiled(source).generate(context):
        length += len(piece)
        if length > MAX_OUTPUT:
            raise ValueError(f"it writes more than {MAX_OUTPUT} characters")
        pieces.append(piece)
    return "".join(pieces)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request; every fault of the template becomes an `error` of one line."""
    try:
        return {"text": render(request["source"], request["context"])}
    except MemoryError:
        return {"error": "it asks for too much memory"}
    except Exception as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        text = " ".join(str(error).split()) or type(error).__name__
        return {"error": text[:MAX_ERROR] + where}


def read_message(stream: BinaryIO) -> bytes | None:
    header = stream.read(4)
    return stream.read(struct.unpack(">I", header)[0]) if len(header) == 4 else None


def write_message(stream: BinaryIO, message: dict[str, Any]) -> None:
    body = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()


def main() -> None:
    """Answers requests until the parent closes the pipe."""
    sys.path.extend(sys.argv[1:])  # where the parent found Jinja: an isolated interpreter may not look there
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    environment()
    limit_process()
    write_message(sink, {})
    while (body := read_message(source)) is not None:
        limit_next_request()
        write_message(sink, answer(json.loads(body)))


if __name__ == "__main__":
    main()
