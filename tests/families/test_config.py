"""A config.json that lies, asks for the impossible, or says what nobody understands: one clear line, never a crash."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vitral.errors import CheckpointError, VitralError
from vitral.families import family, of_config, preset_config
from vitral.families.config import is_body
from vitral.nn import Causal, Window
from vitral.weights.load import load_model, open_checkpoint

LLAMA = {**preset_config("llama3/3.2-1b"), "num_hidden_layers": 2, "attention_bias": False, "mlp_bias": False}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
YARN |= {
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "attention_factor": 1.0,
    "truncate": True,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "num_hidden_layers": 2}
CONFIGS = {
    "llama3": {**LLAMA, "rope_parameters": None, "num_key_value_heads": 8, "rope_interleaved": False},
    "qwen2": {**preset_config("qwen2/0.5b"), **WINDOW, "layer_types": None, "head_dim": None},
    "qwen3": {**preset_config("qwen3/0.6b"), **WINDOW, "layer_types": ["full_attention", "sliding_attention"]},
    "gpt2": {**preset_config("gpt2/small"), "n_layer": 2, "n_inner": None, "scale_attn_weights": True},
    "bert": {**preset_config("bert/base"), "num_hidden_layers": 2, "tie_word_embeddings": True, "is_decoder": False},
}
NASTY = [True, False, 0, -1, 1, 3, 1.5, 2**31 - 1, 10**30, 10**400, float("inf"), float("nan"), -0.0, 1e-300, "x", ""]
NASTY += ["a\nb", [], [1], ["x"], [[]], {}, {"a": 1}, {"rope_type": []}, {"type": "linear", "factor": "2"}]


def refuse(name: str, config: dict[str, Any]) -> str:
    """The message with which a family refuses a config."""
    with pytest.raises(CheckpointError) as error:
        family(name).spec(config)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, config in CONFIGS.items() for key in config])
def test_no_value_of_any_key_crashes(name: str, key: str) -> None:
    for value in NASTY:
        try:
            family(name).spec({**CONFIGS[name], key: value})
        except VitralError as error:
            assert "\n" not in str(error), value


@pytest.mark.parametrize("kind", ["default", "linear", "dynamic", "llama3", "yarn", ""])
@pytest.mark.parametrize("key", [*YARN, "type", "low_freq_factor", "high_freq_factor", "partial_rotary_factor", "x"])
def test_no_value_of_any_rotary_key_crashes(kind: str, key: str) -> None:
    keys = set(YARN) if kind == "yarn" else {"factor", "rope_theta", "original_max_position_embeddings"}
    rope: dict[str, Any] = {k: v for k, v in YARN.items() if k in keys} | {"rope_type": kind}
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    for value in NASTY:
        try:
            family("llama3").spec({**LLAMA, "rope_scaling": None, "rope_parameters": {**rope, key: value}}).build(
                device="meta"
            )
        except VitralError as error:
            assert "\n" not in str(error), value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_atention_heads": 3}, "'num_atention_heads'.*Did you mean 'num_attention_heads'"),
        ({"quantization_config": {"bits": 4}}, "'quantization_config'"),
        ({"num_hidden_layers": 2**31}, "'num_hidden_layers' is 2147483648"),
        ({"hidden_size": 0}, "'hidden_size' is 0"),
        ({"num_attention_heads": 32, "num_key_value_heads": 5}, "32 is not a multiple of num_key_value_heads 5"),
        ({"hidden_size": 2047, "head_dim": None}, "hidden_size 2047 is not a multiple"),
        ({"head_dim": 7}, "rotary over 7 of 7 numbers"),
        ({"hidden_act": "gelo"}, "Did you mean 'gelu'"),
        ({"rms_norm_eps": -1e-5}, "'rms_norm_eps' is -1e-05"),
        ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings' is 'yes'"),
        ({"rope_scaling": {"rope_type": "yarm", "factor": 2.0}}, "rope_type is 'yarm'.*Did you mean 'yarn'"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type is 'longrope'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "facter": 3.0}}, "'facter'.*Did you mean 'factor'"),
        ({"rope_scaling": {"type": "linear"}}, "lacks 'factor'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "both 'rope_scaling' and 'rope_parameters'"),
        ({"rope_interleaved": True}, "'rope_interleaved' is True, which llama here does not compute"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_message_names_the_key_and_the_remedy(change: dict[str, Any], said: str) -> None:
    message = refuse("llama3", {**LLAMA, **change})
    assert re.search(said, message), message


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpt2", {"n_head": 7}),
        ("gpt2", {"add_cross_attention": True}),
        ("bert", {"num_attention_heads": 7}),
        ("bert", {"is_decoder": True}),
        ("bert", {"position_embedding_type": "relative_key"}),
        ("qwen2", {"layer_types": ["full_attention"]}),
        ("qwen2", {"layer_types": ["full_attention", "linear_attention"]}),
        ("qwen3", {"sliding_window": None}),
        ("qwen2", {"sliding_window": 0}),
    ],
)
def test_what_is_not_computed_here_is_refused(name: str, change: dict[str, Any]) -> None:
    assert next(iter(change)) in refuse(name, {**CONFIGS[name], **change})


def test_a_window_that_is_switched_off_is_read_and_not_used() -> None:
    """Published Qwen2 files carry `sliding_window` beside `use_sliding_window: false`."""
    config = {**CONFIGS["qwen2"], "use_sliding_window": False, "sliding_window": 131072}
    kinds = [part.args["kind"] for part in family("qwen2").spec(config).walk() if "kind" in part.args]
    assert kinds == [Causal(), Causal()]


QWEN25 = """{
  "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
  "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
  "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
  "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.40.1",
  "use_cache": true, "use_mrope": false, "use_sliding_window": false, "vocab_size": 151936
}"""
BERT = """{
  "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": false,
  "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
  "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert",
  "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute",
  "transformers_version": "4.6.0.dev0", "type_vocab_size": 2, "use_cache": true, "vocab_size": 30522
}"""
GPT2 = """{
  "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
  "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
  "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
  "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1, "summary_proj_to_labels": true,
  "summary_type": "cls_index", "summary_use_proj": true,
  "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}}, "vocab_size": 50257
}"""


@pytest.mark.parametrize(
    ("text", "count"),
    [(QWEN25, 494_032_768), (BERT, 109_514_298), (GPT2, 124_439_808)],
    ids=["qwen2.5-0.5b", "bert-base-uncased", "gpt2"],
)
def test_files_as_they_lie_on_the_hub_are_read(text: str, count: int) -> None:
    """With all the keys that say nothing, and those that say that something is off."""
    config = json.loads(text)
    assert of_config(config).spec(config).count().total == count


@pytest.mark.parametrize(("first", "windows"), [(0, 2), (1, 1), (2, 0), (9, 0), (None, 0)])
def test_windows_start_at_a_layer(first: int | None, windows: int) -> None:
    spec = family("qwen2").spec({**CONFIGS["qwen2"], "max_window_layers": first})
    kinds = [part.args["kind"] for part in spec.walk() if "kind" in part.args]
    assert kinds == [Causal()] * (2 - windows) + [Window(4)] * windows


@pytest.mark.parametrize(
    ("names", "body"),
    [(["LlamaModel"], True), (["GPT2LMHeadModel"], False), (["LlamaForCausalLM"], False), ([], False), (None, False)],
)
def test_a_body_is_told_from_a_model_with_a_head(names: Any, body: bool) -> None:
    assert is_body({"architectures": names}) is body


@pytest.mark.parametrize("model_type", ["lama", "mistrall", None, 5, ["llama"], "a\nb", "x" * 9999])
def test_an_unknown_model_type_says_which_are_known(model_type: Any) -> None:
    with pytest.raises(CheckpointError, match="model_type is") as error:
        of_config({"model_type": model_type})
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    if model_type == "lama":
        assert "Did you mean 'llama'?" in str(error.value)


CANARY = "import pathlib\npathlib.Path(__file__).with_name('FIRED').touch()\n"


@pytest.mark.parametrize(
    "trap",
    [
        {"auto_map": {"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.X"}},
        {"_attn_implementation_internal": "modeling_x"},
        {"_attn_implementation": "./modeling_x"},
        {"custom_pipelines": {"x": {"impl": "modeling_x.X", "pt": ["X"]}}},
        {"__class__": "modeling_x.X"},
        {"model_type": "modeling_x"},
        {"trust_remote_code": True},
    ],
    ids=lambda trap: next(iter(trap)),
)
def test_a_folder_never_brings_code(tmp_path: Path, trap: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modeling_x.py").write_text(CANARY)
    (tmp_path / "__init__.py").write_text(CANARY)
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, **trap}))
    save_file({"model.norm.weight": torch.ones(2048)}, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    with pytest.raises(CheckpointError) as error:
        load_model(open_checkpoint(tmp_path))
    assert "\n" not in str(error.value)
    assert next(iter(trap)) in str(error.value)
    assert not (tmp_path / "FIRED").exists()
    assert not [name for name in set(sys.modules) - before if "modeling_x" in name]
