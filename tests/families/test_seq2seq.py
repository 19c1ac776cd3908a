"""Configs and files of encoder–decoders: what is refused, and names that depend on the config."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.families.tiny import tiny_config
from tests.nn.test_cross import SMALL
from vitral.errors import CheckpointError
from vitral.families import of_config, preset_config, switch, t5
from vitral.families.transformer import spec
from vitral.nn import Model, initialise
from vitral.weights.load import load_model, open_checkpoint
from vitral.weights.save import published_tensors, save_folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"position_width": 12, "tie_word_embeddings": False}, "position_width"),
        ({"position_width": 4}, "position_width"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder"),
        ({"normalize_before": True}, "normalize_before"),
        ({"sinusoid": "thirds"}, "sinusoid"),
        ({"decoder_attention_heads": 5}, "decoder_attention_heads"),
        ({"num_hidden_layers": 9}, "num_hidden_layers"),
        ({"rope_theta": 1.0}, "rope_theta"),
    ],
)
def test_what_is_not_computed_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        spec({**SMALL, **change})


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("bart/base", {"architectures": ["BartForSequenceClassification"]}, "BartForSequenceClassification"),
        ("bart/base", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("bart/base", {"normalize_embedding": False}, "normalize_embedding"),
        ("marian/opus-mt-en-de", {"architectures": ["MarianForCausalLM"]}, "MarianForCausalLM"),
        ("marian/opus-mt-en-de", {"decoder_vocab_size": 9}, "decoder_vocab_size"),
        ("t5/small", {"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
        ("t5/small", {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj"),
        ("t5/small", {"feed_forward_proj": "gated-gelu", "is_gated_act": False}, "is_gated_act"),
        ("t5/small", {"tie_encoder_decoder": True}, "tie_encoder_decoder"),
        ("switch/base-8", {"router_dtype": "float16"}, "router_dtype"),
        ("switch/base-8", {"router_type": "experts_masked"}, "router_type"),
    ],
)
def test_published_configs_that_mean_another_model_are_refused(path: str, change: dict[str, Any], said: str) -> None:
    config = {**preset_config(path), **change}
    with pytest.raises(CheckpointError, match=said):
        of_config(config).spec(config)


GATED_FFN = {"DenseReluDense.wi_0", "DenseReluDense.wi_1", "DenseReluDense.wo"}
GATED_SPARSE = {"mlp.wi_0", "mlp.wi_1", "mlp.wo"} | {f"mlp.experts.expert_3.{part}" for part in ("wi_0", "wi_1", "wo")}


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("t5/small", {"DenseReluDense.wi", "DenseReluDense.wo"}),
        ("t5/v1_1-small", GATED_FFN),
        ("ul2/20b", GATED_FFN),
        ("switch/base-8", {"mlp.wi", "mlp.wo", "mlp.experts.expert_3.wi", "mlp.experts.expert_3.wo"}),
        ("switch/xxl", GATED_SPARSE),
    ],
)
def test_a_file_names_its_feed_forward_as_its_config_says(path: str, named: set[str], tmp_path: Any) -> None:
    config = tiny_config(path)
    family = of_config(config)
    model: Model = family.spec(config).build()
    initialise(model, std=0.2)
    names = family.names(config)
    held = {name.removesuffix(".weight").split(".", 5)[-1] for name, _ in published_tensors(model, names)}
    ffn = {name for name in held if name.startswith(("DenseReluDense", "mlp")) and "router" not in name}
    assert {name for name in ffn if "expert_" not in name or "expert_3" in name} == named
    save_folder(tmp_path / "m", model=model, names=names, config=config, dtype="float32")
    again = load_model(open_checkpoint(tmp_path / "m"))[0]
    for (name, a), b in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_names_that_depend_on_the_config_differ_only_in_the_feed_forward() -> None:
    for family in (t5, switch):
        plain, gated = (set(names.rules) for names in (family.NAMES, family.GATED_NAMES))
        assert all("wi" in name for name in plain ^ gated)


def test_unscaled_logits_have_a_head_of_their_own_where_the_file_holds_one() -> None:
    config = {**preset_config("t5/v1_1-small"), "tie_word_embeddings": True, "scale_decoder_outputs": False}
    apart = t5.spec(t5.complete(config, ["shared.weight", "lm_head.weight"])).count().total
    tied = t5.spec(t5.complete(config, ["shared.weight"])).count().total
    assert apart - tied == 32128 * 512
    scaled = {**config, "scale_decoder_outputs": True}  # v1.0: there a head in the file repeats the table
    assert t5.spec(t5.complete(scaled, ["shared.weight", "lm_head.weight"])).count().total == tied
