"""Scaled positions in GGUF metadata mean what llama.cpp makes of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.nn.tiny import CONFIGS
from tests.weights.test_gguf_keys import metadata
from vitral.errors import CheckpointError, VitralError
from vitral.families import of_config
from vitral.nn import Linear, Yarn
from vitral.weights.gguf_config import gguf_metadata, hf_config
from vitral.weights.gguf_rope import factors

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def scaling(**keys: Any) -> dict[str, Any] | None:
    """The `rope_scaling` of a file with these `llama.rope.*` keys; `__` stands for a dot."""
    said = {f"llama.rope.{key.replace('__', '.')}": value for key, value in keys.items()}
    found: dict[str, Any] | None = hf_config({**metadata("llama"), **said}, []).get("rope_scaling")
    return found


def there_and_back(rope_scaling: dict[str, Any]) -> dict[str, Any]:
    """The config that a file written for `rope_scaling` gives."""
    config = {**CONFIGS["llama3"], "rope_scaling": rope_scaling}
    return hf_config(gguf_metadata(config, {}), [])


def rotary_scaling(config: dict[str, Any]) -> Any:
    return next(part for part in of_config(config).spec(config).walk() if "theta" in part.args).args["scaling"]


def magnitude(config: dict[str, Any]) -> float:
    found = rotary_scaling(config)
    assert isinstance(found, Yarn)
    return found.magnitude


@pytest.mark.parametrize(
    ("keys", "factor"),
    [
        ({"scale_linear": 4.0}, 4.0),  # the old key
        ({"scaling__factor": 4.0}, 4.0),  # without a type llama.cpp scales linearly
        ({"scaling__type": "linear", "scaling__factor": 4.0}, 4.0),
        ({"scaling__type": "linear", "scale_linear": 4.0}, 4.0),
        ({"scaling__type": "linear", "scaling__factor": 2.0, "scale_linear": 4.0}, 2.0),
        ({"scale_linear": 1.0}, None),
        ({"scaling__factor": 0.0}, None),  # says "not set"
        ({"scaling__type": "none", "scaling__factor": 4.0}, None),
        ({}, None),
    ],
)
def test_linear_scaling_in_every_spelling(keys: dict[str, Any], factor: float | None) -> None:
    found = scaling(**keys)
    assert found == (None if factor is None else {"rope_type": "linear", "factor": factor})
    if found:
        assert rotary_scaling({**CONFIGS["llama3"], "rope_scaling": found}) == Linear(factor=factor)


def test_two_scalings_at_once_are_refused() -> None:
    said = {**metadata("llama"), "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    with pytest.raises(CheckpointError, match=r"rope_freqs\.weight and .*linear"):
        hf_config(said, [], [1.0] * 8)


def test_an_attention_factor_multiplies_yarn_s_own() -> None:
    """llama.cpp lays `attn_factor` on top of 0.1 ln(factor) + 1; a config.json gives the product."""
    own = 0.1 * math.log(4.0) + 1.0
    found = scaling(scaling__type="yarn", scaling__factor=4.0, scaling__attn_factor=1.5)
    assert found is not None and found["attention_factor"] == pytest.approx(1.5 * own)
    plain = scaling(scaling__type="yarn", scaling__factor=4.0, scaling__attn_factor=1.0)
    assert plain == {"rope_type": "yarn", "factor": 4.0}
    same = scaling(scaling__type="yarn", scaling__factor=4.0, scaling__yarn_attn_factor=own)
    assert same == plain
    with pytest.raises(CheckpointError, match="yarn_attn_factor"):  # readers differ over what it means
        scaling(scaling__type="yarn", scaling__factor=4.0, scaling__yarn_attn_factor=1.5)


@pytest.mark.parametrize(
    "change",
    [{}, {"attention_factor": 1.0}, {"attention_factor": 0.7}, {"mscale": 0.7, "mscale_all_dim": 1.0},
     {"beta_fast": 16.0, "beta_slow": 2.0}, {"factor": None}],
    ids=str,
)  # fmt: skip
def test_yarn_there_and_back_has_the_same_magnitude(change: dict[str, Any]) -> None:
    before = {**CONFIGS["llama3"], "rope_scaling": {**YARN, **change}}
    after = {**CONFIGS["llama3"], **there_and_back({**YARN, **change})}
    assert magnitude(after) == pytest.approx(magnitude(before), rel=1e-6)


def test_yarn_that_is_not_truncated_cannot_be_said() -> None:
    with pytest.raises(VitralError, match="truncate"):
        there_and_back({**YARN, "truncate": False})


def test_llama3_without_its_original_context_is_written_like_it_is_read() -> None:
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = {**CONFIGS["llama3"], "rope_scaling": rope}
    said = {**config, "rope_scaling": {**rope, "original_max_position_embeddings": 64}}
    assert factors(config) == factors(said)
    assert not torch.tensor(factors(config)).eq(1.0).all()
