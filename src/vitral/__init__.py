"""vitral: a large language model you can see through.

`import vitral` costs nothing: every name below is imported when it is first used, and torch with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load": "vitral.lm",
    "LanguageModel": "vitral.lm",
    "presets": "vitral.families",
    "spec": "vitral.families",
    "record": "vitral.inspect.record",
    "Tokenizer": "vitral.text.tokenizer",
    "Sampling": "vitral.generate.request",
    "VitralError": "vitral.errors",
}
__all__ = ["__version__", "families", *sorted(_HOME)]

if TYPE_CHECKING:
    from vitral import families as families
    from vitral.errors import VitralError as VitralError
    from vitral.families import presets as presets
    from vitral.families import spec as spec
    from vitral.generate.request import Sampling as Sampling
    from vitral.inspect.record import record as record
    from vitral.lm import LanguageModel as LanguageModel
    from vitral.lm import load as load
    from vitral.text.tokenizer import Tokenizer as Tokenizer


def __getattr__(name: str) -> Any:
    if name == "families":  # the room itself, which lists its names when called
        return importlib.import_module("vitral.families")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'vitral' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
