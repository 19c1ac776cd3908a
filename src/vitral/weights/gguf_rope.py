"""Rotary position scaling: GGUF metadata ↔ the `rope_theta` and `rope_scaling` of a Hugging Face config.

Linear and YaRN scaling have metadata keys. Llama 3's has none: its converter writes the factor of every frequency as a
tensor, `rope_freqs.weight`, from which the four numbers of the config are recovered here and checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitral.errors import CheckpointError, VitralError

_YARN = {
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
    "attn_factor": "attention_factor",
}


def to_config(arch: str, metadata: Mapping[str, Any], head_dim: int, factors: Iterable[float] | None) -> dict[str, Any]:
    """`rope_theta`, and `rope_scaling` where the positions are scaled.

    Raises:
        CheckpointError: a partial rotation or a scaling we do not know.
    """
    rotated = metadata.get(f"{arch}.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise CheckpointError(f"The GGUF model rotates {rotated} of {head_dim} dimensions", "That is not supported")
    theta = float(metadata.get(f"{arch}.rope.freq_base", 10000.0))
    config: dict[str, Any] = {"rope_theta": theta}
    kind = metadata.get(f"{arch}.rope.scaling.type", "none")
    if factors is not None:
        config["rope_scaling"] = _llama3(theta, head_dim, np.fromiter(factors, dtype=np.float64))
    elif kind in ("linear", "yarn"):
        config["rope_scaling"] = _with_keys(arch, kind, metadata)
    elif kind != "none":
        raise CheckpointError(f"The GGUF model scales positions by {kind!r:.40}", "Supported: none, linear, yarn")
    return config


def _with_keys(arch: str, kind: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"{arch}.rope.scaling."
    factor = metadata.get(prefix + "factor")
    if not isinstance(factor, (int, float)) or not factor > 0:
        raise CheckpointError(f"The GGUF metadata has {prefix}factor = {factor!r:.40}", "It must be a positive number")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": float(factor)}
    if kind == "yarn":
        if (original := metadata.get(prefix + "original_context_length")) is not None:
            scaling["original_max_position_embeddings"] = original
        scaling |= {field: metadata[prefix + key] for key, field in _YARN.items() if prefix + key in metadata}
    return scaling


def llama3_factors(theta: float, head_dim: int, scaling: Mapping[str, Any]) -> NDArray[np.float64]:
    """By what Llama 3 divides each frequency [head_dim / 2]: 1 for the fast ones, `factor` for the slow, and between.

    The rule is `_compute_llama3_parameters` in transformers and the released Llama 3.1 code: with r = original context
    divided by the wavelength, fast means r > high, slow means r < low, and between the inverses are interpolated.
    """
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * _frequencies(theta, head_dim) / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / scaling["factor"] + smooth)


def _frequencies(theta: float, head_dim: int) -> NDArray[np.float64]:
    return theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def _llama3(theta: float, head_dim: int, factors: NDArray[np.float64]) -> dict[str, Any]:
    """The four numbers behind the factors: the published ones where they fit, else solved for; always checked."""
    factor = float(factors.max()) if factors.size else 0.0
    if factors.shape != (head_dim // 2,) or not np.isfinite(factors).all() or factors.min() <= 0:
        raise CheckpointError(f"The GGUF tensor rope_freqs.weight must hold {head_dim // 2} positive factors")
    guesses = [(1.0, 4.0, 8192.0)]
    between = (factors > 1.0 + 1e-6) & (factors < factor * (1 - 1e-6))
    if between.sum() >= 2:
        # smooth = (turns - low) / (high - low) is a straight line in the frequency; low is free, so it is 1.
        smooth = (1 / factors[between] - 1 / factor) / (1 - 1 / factor)
        slope, start = np.polyfit(_frequencies(theta, head_dim)[between] / (2 * math.pi), smooth, 1)
        if start < 0 < slope:
            guesses.append((1.0, round(1 - 1 / start, 3), round(-slope / start)))
    for low, high, original in guesses:
        scaling = {
            "rope_type": "llama3",
            "factor": round(factor, 4),
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": int(original),
        }
        if np.allclose(llama3_factors(theta, head_dim, scaling), factors, rtol=1e-5, atol=0):
            return scaling
    raise CheckpointError(
        "The GGUF tensor rope_freqs.weight does not follow Llama 3's scaling rule", "Give the Hugging Face folder"
    )


def scaling_of(config: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """(theta, scaling) of a Hugging Face config in either spelling: `rope_scaling` or `rope_parameters`."""
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(scaling.pop("rope_theta", None) or config.get("rope_theta") or 10000.0)
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    return theta, {} if kind == "default" else {"rope_type": kind, **scaling}


def factors(config: Mapping[str, Any]) -> list[float] | None:
    """The values of `rope_freqs.weight` for a Hugging Face config; None where it needs no such tensor."""
    theta, scaling = scaling_of(config)
    if scaling.get("rope_type") != "llama3":
        return None
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return llama3_factors(theta, head_dim, scaling).tolist()


def to_metadata(arch: str, config: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    """The `rope.*` keys for a Hugging Face config.

    Raises:
        VitralError: a scaling that GGUF cannot say.
    """
    theta, scaling = scaling_of(config)
    found: dict[str, Any] = {f"{arch}.rope.dimension_count": head_dim, f"{arch}.rope.freq_base": theta}
    kind = scaling.get("rope_type", "default")
    if kind in ("default", "llama3"):
        return found
    if kind not in ("linear", "yarn"):
        raise VitralError(f"Positions scaled by {kind!r} cannot be written as GGUF", "Possible: linear, yarn, llama3")
    prefix = f"{arch}.rope.scaling."
    found |= {prefix + "type": kind, prefix + "factor": float(scaling["factor"])}
    if kind == "yarn":
        original = scaling.get("original_max_position_embeddings")
        found[prefix + "original_context_length"] = original or config["max_position_embeddings"]
        found |= {prefix + key: float(scaling[f]) for key, f in _YARN.items() if scaling.get(f) is not None}
    return found
