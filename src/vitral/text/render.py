"""Rendering a chat template in a worker process, with a deadline that holds.

One worker serves the whole process: started at the first render (about 0.1 s), kept, and replaced after it was
killed. A template that loops for ever, asks for too much memory or tries to leave the sandbox costs its caller a
`VitralError` and nobody else more than `DEADLINE` seconds.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from vitral.errors import VitralError
from vitral.text import worker

DEADLINE = 2.0  # seconds for one template
START_DEADLINE = 30.0  # seconds for the interpreter to come up, however busy the machine is
MAX_REPLY = 4 * worker.MAX_OUTPUT + 1024  # bytes: UTF-8 takes at most four a character
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TZ")
_REMEDY = "The template came with the model; use another model or mend its chat_template"


class TemplateStoppedError(VitralError):
    """A template that was killed at its limits; rendering it again would take as long again."""


class _Killed(Exception):
    """The worker did not answer in time, or died."""


class Renderer:
    """A worker process and the lock around it. Safe to call from any thread; one template renders at a time."""

    def __init__(self, deadline: float = DEADLINE) -> None:
        self.deadline = deadline
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, source: str, context: dict[str, Any]) -> str:
        """The text that template `source` makes of `context` (JSON values only).

        Raises:
            VitralError: the template refused, failed, ran past its limits, or `context` is not valid text or JSON.
        """
        try:
            request = json.dumps({"source": source, "context": context}, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise VitralError(
                "messages hold a lone surrogate, which is no valid text", "Send valid UTF-8", param="messages"
            ) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise VitralError(f"messages are not plain JSON ({error})", "", param="messages") from error
        with self._lock:
            try:
                reply = self._exchange(request)
            except _Killed as error:
                raise TemplateStoppedError(f"chat_template was stopped: {error}", _REMEDY) from None
        if "error" in reply:
            raise VitralError(f"chat_template failed: {reply['error']}", "", param="messages")
        return reply["text"]

    def close(self) -> None:
        """Ends the worker; the next render would start another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def forget(self) -> None:
        """In a forked child: the worker belongs to the parent, whose pipes must not be shared."""
        self._lock, self._process = threading.Lock(), None

    def _exchange(self, request: bytes) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            self._start()
        return self._ask(request, self.deadline)

    def _start(self) -> None:
        self.close()
        jinja = importlib.util.find_spec("jinja2")
        if jinja is None or jinja.origin is None:
            raise VitralError("jinja2 is not installed", "Run: pip install jinja2")
        command = [sys.executable, "-I", str(Path(worker.__file__)), str(Path(jinja.origin).parents[1])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=os.path.abspath(os.sep),
            env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},  # no keys, no tokens
            start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
        )
        try:
            self._ask(b"", START_DEADLINE)
        except _Killed as error:
            raise VitralError(
                f"the chat-template worker did not start ({error})", "Check that Python can run"
            ) from None

    def _ask(self, request: bytes, deadline: float) -> dict[str, Any]:
        """One message out (none when empty) and one back. A timer, not a poll, so that it works on every system."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(deadline, stop)
        timer.daemon = True
        timer.start()
        try:
            if request:
                process.stdin.write(struct.pack(">I", len(request)) + request)
                process.stdin.flush()
            header = process.stdout.read(4)
            size = struct.unpack(">I", header)[0] if len(header) == 4 else MAX_REPLY + 1
            body = process.stdout.read(size) if size <= MAX_REPLY else b""
            if size > MAX_REPLY or len(body) < size:
                raise EOFError
            return json.loads(body)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            cause = f"it ran longer than {deadline:g} s" if late.is_set() else "its process died at its limits"
            raise _Killed(cause) from error
        except BaseException:  # an interrupt in the middle leaves a reply in the pipe that nobody would read
            self.close()
            raise
        finally:
            timer.cancel()


_RENDERER = Renderer()
atexit.register(_RENDERER.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_RENDERER.forget)


def render(source: str, context: dict[str, Any]) -> str:
    """`Renderer.render` of the one worker that this process keeps."""
    return _RENDERER.render(source, context)
