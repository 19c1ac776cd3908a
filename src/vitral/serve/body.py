"""Reading a JSON body without surprises.

Python's json accepts more than JSON, and some bodies fail with other errors than JSONDecodeError. Here each of them
is a 400: 100,000 nested brackets, integers of thousands of digits, lone surrogates, bytes that are not UTF-8, NaN and
Infinity, numbers beyond float64, and keys that occur twice (where two readers would disagree on the value).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from vitral.serve.errors import Refusal


def parse(body: bytes) -> Any:
    """The value of a JSON body. Raises Refusal 400 that says what is wrong without quoting the body."""
    try:
        text = body.decode("utf-8")
        value = json.loads(text, parse_constant=_constant, parse_float=_finite, object_pairs_hook=_unique)
        if "\\u" in text:  # an escape is the only way a lone surrogate gets in
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError:
        raise _refuse("it is not UTF-8") from None
    except UnicodeEncodeError:
        raise _refuse("it holds half of a surrogate pair") from None
    except RecursionError:
        raise _refuse("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _refuse(f"{error.msg} at character {error.pos}") from None
    except ValueError as error:
        raise _refuse(str(error) if isinstance(error, _BadValue) else "it holds a number out of range") from None
    return value


class JSONRoute(APIRoute):
    """A FastAPI route whose body is read by `parse`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JSONRequest(request.scope, request.receive))

        return handle


class _JSONRequest(Request):
    async def json(self) -> Any:
        return parse(await self.body())


class _BadValue(ValueError):
    """A value that Python's json would let through."""


def _refuse(why: str) -> Refusal:
    return Refusal(400, f"The body is not valid JSON: {why}", code="invalid_json")


def _constant(name: str) -> float:
    raise _BadValue(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _BadValue("it holds a number out of range")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _BadValue("a key occurs twice in one object")
    return value
