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
from vitral.weights.gguf_keys import number, wrong

_YARN = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}


def to_config(arch: str, metadata: Mapping[str, Any], head_dim: int, factors: Iterable[float] | None) -> dict[str, Any]:
    """`rope_theta`, and `rope_scaling` where the positions are scaled.

    Raises:
        CheckpointError: a partial rotation or a scaling we do not know.
    """
    rotated = metadata.get(f"{arch}.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise CheckpointError(f"The GGUF model rotates {rotated} of {head_dim} dimensions", "That is not supported")
    theta = number(metadata, f"{arch}.rope.freq_base", 10000.0)
    if theta <= 1:
        wrong(f"{arch}.rope.freq_base", theta)
    config: dict[str, Any] = {"rope_theta": theta}
    scaling = _scaling(arch, metadata)
    if factors is not None:
        if scaling is not None:
            raise CheckpointError(
                f"The GGUF model has both rope_freqs.weight and {scaling['rope_type']} scaling", "That is not supported"
            )
        scaling = _llama3(theta, head_dim, np.fromiter(factors, dtype=np.float64))
    return config if scaling is None else {**config, "rope_scaling": scaling}


def _scaling(arch: str, metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `rope.scaling.*` says. As in llama.cpp a factor without a type scales linearly, and 0 means "not set"."""
    prefix = f"{arch}.rope.scaling."
    kind = metadata.get(prefix + "type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise CheckpointError(f"The GGUF model scales positions by {kind!r:.40}", "Supported: none, linear, yarn")
    key = prefix + "factor" if prefix + "factor" in metadata else f"{arch}.rope.scale_linear"  # the older name
    factor = number(metadata, key, 0.0)
    if factor < 0 or (kind == "yarn" and not factor):
        wrong(prefix + "factor" if kind == "yarn" else key, metadata.get(key))
    extension = number(metadata, prefix + "yarn_ext_factor", -1.0)  # negative is "not set"
    if extension >= 0 and extension != float(kind == "yarn"):
        wrong(prefix + "yarn_ext_factor", extension)
    if kind == "yarn":
        return _yarn(prefix, metadata, factor)
    if number(metadata, prefix + "attn_factor", 1.0) != 1.0:
        wrong(prefix + "attn_factor", metadata[prefix + "attn_factor"])
    return None if kind == "none" or factor in (0.0, 1.0) else {"rope_type": "linear", "factor": factor}


def _yarn(prefix: str, metadata: Mapping[str, Any], factor: float) -> dict[str, Any]:
    scaling: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    if (original := metadata.get(prefix + "original_context_length")) is not None:
        scaling["original_max_position_embeddings"] = original
    scaling |= {field: number(metadata, prefix + key, 1.0) for key, field in _YARN.items() if prefix + key in metadata}
    # llama.cpp multiplies YaRN's own temperature by attn_factor, where a config.json gives the product. Whether
    # yarn_attn_factor means the one, the other or nothing has changed between its versions.
    own = _temperature(factor)
    if abs(number(metadata, prefix + "yarn_attn_factor", own) - own) > 1e-6:
        wrong(prefix + "yarn_attn_factor", metadata[prefix + "yarn_attn_factor"])
    if (more := number(metadata, prefix + "attn_factor", 1.0)) != 1.0:
        scaling["attention_factor"] = more * own
    return scaling


def _temperature(factor: float, mscale: float = 1.0) -> float:
    """What YaRN multiplies cos and sin by (Peng et al., arXiv:2309.00071 §3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


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
    """(theta, scaling) of a Hugging Face config in either spelling: `rope_scaling` or `rope_parameters`.

    An original context that is left out is the context, as in transformers.
    """
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling = {key: value for key, value in given.items() if value is not None}
    theta = float(scaling.pop("rope_theta", None) or config.get("rope_theta") or 10000.0)
    older = scaling.pop("type", "default")
    kind = scaling.pop("rope_type", older)
    if kind in ("llama3", "yarn"):
        scaling.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
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
    found[prefix + "type"] = kind
    if kind == "linear":
        return found | {prefix + "factor": float(scaling["factor"])}
    if not scaling.get("truncate", True):
        raise VitralError("YaRN with truncate = false cannot be written as GGUF", "llama.cpp always truncates")
    original = scaling["original_max_position_embeddings"]
    factor = float(scaling.get("factor") or config["max_position_embeddings"] / original)
    found |= {prefix + "factor": factor, prefix + "original_context_length": original}
    found |= {prefix + key: float(scaling[field]) for key, field in _YARN.items() if field in scaling}
    if (more := _magnitude(factor, scaling) / _temperature(factor)) != 1.0:
        found[prefix + "attn_factor"] = more
    return found


def _magnitude(factor: float, scaling: Mapping[str, Any]) -> float:
    """What a config.json with YaRN multiplies cos and sin by."""
    if "attention_factor" in scaling:
        return float(scaling["attention_factor"])
    one, all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return _temperature(factor, one) / _temperature(factor, all_dim) if one and all_dim else _temperature(factor)
