"""Every fault as the error body that OpenAI clients read: `{"error": {"message", "type", "param", "code"}}`.

One table, `refusal`, turns any exception into a `Refusal`; routes, streams and the guard all go through it, so no route
can answer FastAPI's `{"detail": …}`, which clients show as "404 status code (no body)".
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from vitral.errors import CheckpointError, NotFoundError, PromptTooLongError, VitralError

logger = logging.getLogger("vitral.serve")

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's error types by status; the other 4xx are `invalid_request_error`, 5xx `server_error`."""
CODES = {404: "not_found", 405: "method_not_allowed", 422: "invalid_value"}


class Refusal(HTTPException):
    """An answer that is an error. It is an HTTPException so that FastAPI hands it on from anywhere unchanged."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code = code
        self.param = param

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status_code) or ("server_error" if self.status_code >= 500 else "invalid_request_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status_code, headers=self.headers)


def refusal(fault: BaseException) -> Refusal:
    """The answer to a fault. Faults that a person cannot mend become a 500 that says nothing of the request."""
    match fault:
        case Refusal():
            return fault
        case PromptTooLongError():
            return Refusal(400, str(fault), code="context_length_exceeded", param="messages")
        case NotFoundError():
            code = "model_not_found" if fault.param == "model" else "not_found"
            return Refusal(404, str(fault), code=code, param=fault.param)
        case CheckpointError():
            return Refusal(500, str(fault), code="model_damaged")
        case VitralError():
            return Refusal(400, str(fault), code="invalid_value", param=fault.param)
        case RequestValidationError():
            return _invalid(fault.errors())
        case HTTPException():
            return Refusal(
                fault.status_code, str(fault.detail), code=CODES.get(fault.status_code), headers=fault.headers
            )
        case _:
            return Refusal(500, "The server failed on this request; its log says where", code="internal_error")


def log_fault(fault: BaseException, request_id: str = "") -> None:
    """Log where an unforeseen fault arose. Its message is left out: it may quote the prompt (vLLM #18980)."""
    frames = traceback.extract_tb(fault.__traceback__)[-4:]
    path = " > ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
    logger.error("%s %s at %s", request_id, type(fault).__name__, path)


def _invalid(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """What pydantic found, without the offending value (it may be a prompt, or a megabyte)."""
    first = errors[0]
    param = _param(first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Refusal(400, f"{param or 'body'}: {message}{more}"[:500], code="invalid_value", param=param)


def _param(loc: Sequence[str | int]) -> str | None:
    """('body', 'messages', 0, 'role') -> 'messages[0].role'."""
    text = ""
    for part in loc[1:]:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")[:100] or None
