"""A config.json that lies, asks for the impossible, or says what nobody understands: one clear line, never a crash."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import save_file

from vitral.errors import CheckpointError, VitralError
from vitral.families import family, of_config, preset_config
from vitral.families.common.config import is_body
from vitral.nn import Causal, Linear, Window
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
    "mistral": {**preset_config("mistral/7b-v0.1"), "num_hidden_layers": 2, "head_dim": 128},
    "deepseek_v3": {**preset_config("deepseek_v3/v3"), "num_hidden_layers": 2, "first_k_dense_replace": 1},
    "r1_distill": {**preset_config("r1_distill/qwen-1.5b"), "num_hidden_layers": 2},
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
        ({"quantization_config": {"bits": 4}}, "'quantization_config'.*quantised safetensors.*GGUF"),
        ({"auto_map": {"AutoModel": "x.X"}}, "'auto_map'.*never run.*[Rr]emove"),
        ({"sliding_window": 4096}, "'sliding_window' is 4096, which llama here does not compute"),
        ({"per_layer_config": {"0": {"hidden_size": 4}}}, "'per_layer_config' is "),
        ({"pruned_heads": {"0": [1]}}, "'pruned_heads' is "),
        ({"is_decoder": True}, "'is_decoder' is True"),
        ({"attn_logit_softcapping": 30.0}, "'attn_logit_softcapping'"),
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is 0.5, which llama here does not compute"),
        ({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "'partial_rotary_factor' is 0.5"),
        ({"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}}, "'linear' and.*'dynamic'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "temperature": 1.0}}, "'temperature'"),
        ({"num_hidden_layers": 2**31}, "'num_hidden_layers' is 2147483648"),
        ({"hidden_size": 0}, "'hidden_size' is 0"),
        ({"num_attention_heads": 32, "num_key_value_heads": 5}, "32 is not a multiple of num_key_value_heads 5"),
        ({"hidden_size": 2047, "head_dim": None}, "hidden_size 2047 is not a multiple"),
        ({"head_dim": 7}, "rotary over 7 numbers"),
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


CLASSES = [
    hf.LlamaConfig,
    hf.MistralConfig,
    hf.MixtralConfig,
    hf.Qwen2Config,
    hf.Qwen2MoeConfig,
    hf.Qwen3Config,
    hf.Qwen3MoeConfig,
    hf.DeepseekV3Config,
    hf.GemmaConfig,
    hf.Gemma2Config,
    hf.OpenAIGPTConfig,
    hf.GPT2Config,
    hf.BertConfig,
    hf.T5Config,
    hf.SwitchTransformersConfig,
    hf.BartConfig,
    hf.MarianConfig,
]
# What transformers 4 wrote besides when asked for everything (`to_json_string(use_diff=False)`).
OLD_DUMP: dict[str, Any] = {
    "return_dict": True, "output_hidden_states": False, "output_attentions": False, "torchscript": False,
    "torch_dtype": None, "use_bfloat16": False, "tf_legacy_loss": False, "pruned_heads": {},
    "chunk_size_feed_forward": 0, "is_encoder_decoder": False, "is_decoder": False, "add_cross_attention": False,
    "cross_attention_hidden_size": None, "tie_encoder_decoder": False, "max_length": 20, "min_length": 0,
    "do_sample": False, "early_stopping": False, "num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0,
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0, "length_penalty": 1.0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "bad_words_ids": None, "num_return_sequences": 1,
    "output_scores": False, "return_dict_in_generate": False, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "remove_invalid_values": False, "exponential_decay_length_penalty": None,
    "suppress_tokens": None, "begin_suppress_tokens": None, "finetuning_task": None, "tokenizer_class": None,
    "prefix": None, "sep_token_id": None, "decoder_start_token_id": None, "task_specific_params": None,
    "problem_type": None, "_attn_implementation_autoset": True, "output_past": True, "max_sequence_length": 2048,
    "_num_labels": 2, "_commit_hash": None, "_flash_attn_2_enabled": False, "_attn_implementation": "sdpa",
    "cache_implementation": None, "logits_to_keep": 0, "per_layer_config": None, "auto_map": None,
    "quantization_config": None,
}  # fmt: skip


@pytest.mark.parametrize("published", CLASSES, ids=lambda each: each.model_type)
def test_every_key_transformers_writes_is_known(published: Any) -> None:
    dump = json.loads(published().to_json_string(use_diff=False))
    plain = repr(of_config(dump).spec(dump))
    assert repr(of_config(dump).spec({**OLD_DUMP, "sliding_window": None, **dump})) == plain


@pytest.mark.parametrize(
    "change",
    [{"is_encoder_decoder": True}, {"tie_encoder_decoder": True}, {"cross_attention_hidden_size": 768},
     {"_attn_implementation": "someone/kernels"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
@pytest.mark.parametrize("name", list(CONFIGS))
def test_neutral_keys_are_accepted_at_their_neutral_value_alone(name: str, change: dict[str, Any]) -> None:
    assert next(iter(change)) in refuse(name, {**CONFIGS[name], **change})


@pytest.mark.parametrize("name", ["llama3", "qwen2", "qwen3"])
def test_a_partial_rotation_is_refused_as_long_as_transformers_ignores_it(name: str) -> None:
    plain = repr(family(name).spec(CONFIGS[name]))
    assert repr(family(name).spec({**CONFIGS[name], "partial_rotary_factor": 1.0})) == plain
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    config = {**CONFIGS[name], "rope_scaling": None}
    for change in ({"partial_rotary_factor": 0.5}, {"rope_parameters": rope}):
        assert "partial_rotary_factor" in refuse(name, {**config, **change})


def scaling_of(config: dict[str, Any]) -> Any:
    return next(part for part in of_config(config).spec(config).walk() if "theta" in part.args).args["scaling"]


def test_a_scaling_may_say_its_type_twice() -> None:
    rope = {"type": "linear", "rope_type": "linear", "factor": 2.0}
    assert scaling_of({**LLAMA, "rope_scaling": rope}) == Linear(factor=2.0)


def test_llama3_scaling_without_its_original_context_is_transformers_own() -> None:
    """Both fall back to max_position_embeddings."""
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    small = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 512, "rope_theta": 10000.0}
    theirs = hf.LlamaConfig(**small, rope_parameters={**rope, "rope_theta": 10000.0})
    frequencies = hf.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](theirs, "cpu")[0]
    ours = scaling_of({**LLAMA, **small, "num_key_value_heads": 4, "head_dim": 16, "rope_scaling": rope})
    assert ours.original == 512
    assert torch.equal(ours.frequencies(10000.0, 16), frequencies)
    assert not torch.equal(frequencies, 1.0 / 10000.0 ** (torch.arange(0, 16, 2) / 16))


@pytest.mark.parametrize("name", ["llama3", "qwen2", "qwen3"])
def test_dynamic_scaling_opens_the_context_it_is_there_for(name: str) -> None:
    """Within the positions it was trained on, dynamic scaling does nothing at all."""
    config = {**CONFIGS[name], "max_position_embeddings": 1000}
    for factor, context in ((4.0, 4000), (1.5, 1500), (0.5, 1000), (1e30, 2**31 - 1)):
        rope = {"rope_type": "dynamic", "factor": factor}
        spec = family(name).spec({**config, "rope_scaling": rope, "rope_parameters": None})
        assert spec.args["context"] == context
    linear = {"rope_type": "linear", "factor": 4.0}
    assert family(name).spec({**config, "rope_scaling": linear}).args["context"] == 1000


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
        assert "Did you mean 'llama'" in str(error.value)


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
