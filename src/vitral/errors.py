"""The errors people meet.

Every fault that a person can cause (a wrong name, a damaged file, a prompt that does not fit) is a
`VitralError`: one line that names the field and the cause, and a remedy. The CLI prints it and exits
non-zero, the server answers it as a 400, Python code catches it as a `ValueError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VitralError(ValueError):
    """A fault with a cause and a remedy.

    Args:
        message: what is wrong, in one line, naming the field or the file.
        remedy: what to do about it, in one line; "" when the message says it already.
        param: the request field or option at fault, for the HTTP error body.
    """

    def __init__(self, message: str, remedy: str = "", *, param: str | None = None) -> None:
        self.message = message
        self.remedy = remedy
        self.param = param
        super().__init__(f"{message}. {remedy}" if remedy else message)


class NotFoundError(VitralError):
    """A name that nothing answers to (a model, a family, a preset); HTTP 404."""


class CheckpointError(VitralError):
    """A model folder or file that is damaged, unsafe, or not what its config says."""


class PromptTooLongError(VitralError):
    """A prompt that does not fit the context; nothing is ever cut silently."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The remedy for a misspelt name: the closest known names, or all of them when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "Known: " + ", ".join(known) if known else ""
