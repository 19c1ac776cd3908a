"""Models over HTTP: an OpenAI-compatible API and the page.

    run ─▶ app ─▶ guard ─▶ routes ─▶ chat ─▶ engine ─▶ lm.stream

`serve(lm)` runs until interrupted; `build_app(lm)` is the ASGI application alone.
"""

from vitral.serve.app import build_app
from vitral.serve.guard import Limits
from vitral.serve.run import serve

__all__ = ["Limits", "build_app", "serve"]
