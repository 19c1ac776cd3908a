"""Every published architecture, one a file, as data: `PRESETS`, `spec(config) -> Spec`, `DEFAULTS`, `NAMES`, `CARD`.

`vitral.families()` gives the names.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from vitral.errors import CheckpointError, NotFoundError, did_you_mean

# In the order of publication. The first with a config's model_type (MODEL_TYPE, or one of several) reads that config.
_ORDER = (
    "transformer",
    "gpt1",
    "bert",
    "gpt2",
    "t5",
    "bart",
    "marian",
    "gpt3",
    "vit",
    "switch",
    "clip",
    "minilm",
    "gopher",
    "glam",
    "lamda",
    "instructgpt",
    "chinchilla",
    "palm",
    "ul2",
    "gpt35",
    "llama1",
    "siglip",
    "gpt4",
    "palm2",
    "llama2",
    "qwen1",
    "mistral",
    "yi",
    "gemini",
    "mixtral",
    "qwen15",
    "gemma",
    "grok1",
    "llama3",
    "gemma2",
    "qwen2",
    "o1",
    "olmo2",
    "deepseek_v3",
    "r1_distill",
    "gemma3",
    "qwen3",
)
# Architectures within a family that have a file of their own.
_READERS: tuple[str, ...] = ("qwen2_moe", "qwen3_moe", "gemma3_vision", "llama3_vision")


def families() -> list[str]:
    """Names of the families, oldest first."""
    return list(_ORDER)


def family(name: str) -> Any:
    """The module of a family."""
    if name not in _ORDER:
        raise NotFoundError(f"no family is called {name!r:.60}", did_you_mean(name, _ORDER))
    return importlib.import_module(f"vitral.families.{name}")


def presets(name: str) -> list[str]:
    """Names of a family's published presets."""
    return list(family(name).PRESETS)


def preset_config(path: str) -> dict[str, Any]:
    """The config.json of a published preset: `preset_config("llama3/3.2-1b")`."""
    name, _, preset = path.partition("/")
    known = family(name).PRESETS
    if not known:
        remedy = f"Open, and of the same capability: {family(name).CARD.stand_in}"
        raise NotFoundError(f"{name} has no presets: its architecture was not published", remedy)
    if preset not in known:
        raise NotFoundError(f"{name} has no preset {preset!r:.60}", did_you_mean(preset, known))
    return dict(known[preset])


def spec(path: str) -> Any:
    """The spec of a published preset: `spec("llama3/3.2-1b").count()`."""
    config = preset_config(path)
    return of_config(config).spec(config)


def of_config(data: Mapping[str, Any]) -> Any:
    """The module that reads a config.json: a family's, or that of an architecture within one."""
    model_type = data.get("model_type")
    known: set[str] = set()
    for name in (*_ORDER, *_READERS):
        module = importlib.import_module(f"vitral.families.{name}")
        types = model_types(module)
        if model_type in types:
            return module
        known.update(types)
    raise CheckpointError(f"config.json: model_type is {model_type!r:.60}", did_you_mean(str(model_type), known))


def names_of(module: Any, config: Mapping[str, Any]) -> Any:
    """How the file of a config names its tensors: `NAMES`, or `names(config)` where that depends on the config."""
    return module.names(config) if hasattr(module, "names") else module.NAMES


def model_types(module: Any) -> tuple[str, ...]:
    """The `model_type` values a family reads; none for a family whose architecture was not published."""
    types = getattr(module, "MODEL_TYPE", ())
    return (types,) if isinstance(types, str) else tuple(types)


class _Callable(ModuleType):
    """So that `vitral.families()` lists the names although `vitral.families` is this package."""

    def __call__(self) -> list[str]:
        return families()


sys.modules[__name__].__class__ = _Callable
