"""GGUF ↔ Hugging Face: names, shapes, values and configs, there and back, and against transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.artefacts import artefact
from tests.nn import tiny
from vitral.errors import CheckpointError, VitralError
from vitral.families import of_config
from vitral.weights import gguf_names
from vitral.weights.gguf import GGUFFile, write_gguf
from vitral.weights.gguf_config import HfView, gguf_metadata, gguf_tensors, hf_config, pooling_of
from vitral.weights.gguf_rope import llama3_factors

SMALL = {"vocab_size": 96, "max_position_embeddings": 128, "tie_word_embeddings": False}
LLAMA_LIKE = {
    **SMALL, "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 80, "num_attention_heads": 6,
    "num_key_value_heads": 2,
}  # fmt: skip
CONFIGS: dict[str, transformers.PreTrainedConfig] = {
    "llama": transformers.LlamaConfig(**LLAMA_LIKE),
    "llama with a bias, tied, wide heads": transformers.LlamaConfig(
        **{**LLAMA_LIKE, "tie_word_embeddings": True}, attention_bias=True, mlp_bias=True, head_dim=16
    ),
    "qwen2": transformers.Qwen2Config(**LLAMA_LIKE),
    "qwen3": transformers.Qwen3Config(**LLAMA_LIKE, head_dim=128),
    "gpt2": transformers.GPT2Config(vocab_size=96, n_positions=1024, n_embd=48, n_layer=2, n_head=3),
    "bert": transformers.BertConfig(
        **SMALL, hidden_size=48, num_hidden_layers=2, intermediate_size=80, num_attention_heads=3, type_vocab_size=3
    ),
}
PUBLISHED = {
    "default": {},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16.0, "beta_slow": 2.0,
    },
    "llama3": {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip


def _model(config: transformers.PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    auto = transformers.AutoModel if config.model_type == "bert" else transformers.AutoModelForCausalLM
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def _saved(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors as `save_pretrained` writes them."""
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    yield from ((name, tensor) for name, tensor in model.state_dict().items() if name not in tied)


def _written(path: Path, config: dict[str, Any], tensors: Iterator[tuple[str, torch.Tensor]]) -> HfView:
    return HfView(GGUFFile(write_gguf(path, gguf_metadata(config, {}), gguf_tensors(config, tensors))))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_there_and_back_changes_nothing(name: str, tmp_path: Path) -> None:
    model = _model(CONFIGS[name])
    config = {**model.config.to_dict()}
    view = _written(tmp_path / "x.gguf", config, _saved(model))
    expected = {n: t for n, t in _saved(model) if not n.startswith("pooler.")}
    assert set(view.names()) == set(expected)
    for tensor, values in expected.items():
        assert view.shape(tensor) == tuple(values.shape)
        assert torch.equal(view.read(tensor), values), tensor
    for key in set(view.config) & set(config) - {"rope_scaling", "rope_theta", "architectures", "n_inner"}:
        assert view.config[key] == config[key], key


@pytest.mark.parametrize("name", [name for name in sorted(CONFIGS) if name != "bert"])
def test_transformers_opens_our_export_with_equal_logits(name: str, tmp_path: Path) -> None:
    """An independent reader: transformers maps the names, undoes the permutation and transposes by code of its own."""
    pytest.importorskip("accelerate", reason="transformers reads GGUF only with accelerate installed")
    model = _model(CONFIGS[name])
    if model.config.model_type == "llama" and model.config.attention_bias:
        pytest.skip("transformers' GGUF reader knows no biases for llama")
    config = model.config.to_dict()
    fields = {"tokenizer.ggml.tokens": [f"t{n}" for n in range(96)]}
    path = tmp_path / "x.gguf"
    write_gguf(path, gguf_metadata(config, fields), gguf_tensors(config, _saved(model)))
    ids = torch.tensor([[1, 5, 9, 42, 7, 3]])
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    with torch.no_grad():
        difference = (read(ids).logits - model(ids).logits).abs().max()
    assert difference <= 1e-5


def test_smollm2_equals_what_transformers_reads() -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF only with accelerate installed")
    path = artefact("smollm2")
    view = HfView(GGUFFile(path))
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    expected = model.state_dict()
    assert set(view.names()) == set(expected) - {"lm_head.weight"}
    for name in view.names():
        assert view.shape(name) == tuple(expected[name].shape)
        assert torch.equal(view.read(name), expected[name]), name
    reference = model.config.to_dict()
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
                "intermediate_size", "vocab_size", "max_position_embeddings", "tie_word_embeddings",
                "attention_bias", "hidden_act", "bos_token_id", "eos_token_id", "pad_token_id"):  # fmt: skip
        assert view.config[key] == reference[key], key
    assert view.config["rope_theta"] == reference["rope_parameters"]["rope_theta"]
    assert view.config["rms_norm_eps"] == pytest.approx(reference["rms_norm_eps"], rel=1e-6)


@pytest.mark.parametrize("arch", sorted(gguf_names.TABLES))
def test_the_name_tables_are_one_to_one_and_invertible(arch: str) -> None:
    table = gguf_names.TABLES[arch]
    assert len({row.gguf for row in table}) == len({row.hf for row in table}) == len(table)
    for row in table:
        gguf, hf = row.gguf.format(17), row.hf.format(17)
        assert gguf_names.find(gguf, table, "gguf") == (row, hf)
        assert gguf_names.find(hf, table, "hf") == (row, gguf)
        assert gguf_names.find(gguf + "x", table, "gguf") is None


@pytest.mark.parametrize("op", ["same", "transpose", "rope_q", "rope_k"])
def test_every_operation_undoes_itself(op: Any) -> None:
    tensor = torch.randn(24, 10)
    there = gguf_names.to_gguf(op, tensor, n_heads=3, n_kv_heads=2)
    assert op == "same" or not torch.equal(there, tensor)
    assert gguf_names.shape_to_hf(op, tuple(there.shape)) == tuple(tensor.shape)
    assert torch.equal(gguf_names.to_hf(op, there, n_heads=3, n_kv_heads=2), tensor)


def test_the_rotary_permutation_is_llama_cpp_s() -> None:
    rows = torch.arange(8.0)[:, None]
    assert gguf_names.to_gguf("rope_q", rows, n_heads=1, n_kv_heads=1).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert gguf_names.to_gguf("rope_q", rows, n_heads=2, n_kv_heads=1).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize("kind", sorted(PUBLISHED))
def test_rope_scaling_survives(kind: str, tmp_path: Path) -> None:
    scaling = PUBLISHED[kind]
    base = {**LLAMA_LIKE, "model_type": "llama", "rms_norm_eps": 1e-6, "rope_theta": 500000.0, "head_dim": 64}
    view = _written(tmp_path / "x.gguf", {**base, "rope_scaling": scaling or None}, iter([]))
    assert view.config["rope_theta"] == 500000.0
    assert view.config.get("rope_scaling", {}) == scaling
    newer = {**base, "rope_parameters": {"rope_theta": 500000.0, **(scaling or {"rope_type": "default"})}}
    assert _written(tmp_path / "y.gguf", newer, iter([])).config == view.config


def test_llama3_factors_equal_transformers() -> None:
    scaling = PUBLISHED["llama3"]
    config = transformers.LlamaConfig(
        hidden_size=256, num_attention_heads=4, head_dim=64, max_position_embeddings=131072,
        rope_parameters={"rope_theta": 500000.0, **scaling},
    )  # fmt: skip
    reference = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].double()
    plain = 500000.0 ** -(torch.arange(0, 64, 2).double() / 64)
    found = plain / torch.from_numpy(llama3_factors(500000.0, 64, scaling))
    assert torch.allclose(found, reference, rtol=1e-6, atol=0)


@pytest.mark.parametrize("numbers", [(8.0, 1.0, 4.0, 8192), (16.0, 1.0, 8.0, 4096), (3.5, 1.0, 2.5, 10000)])
def test_llama3_numbers_are_recovered_from_the_factors(numbers: tuple[float, float, float, int]) -> None:
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    scaling = dict(zip(keys, numbers, strict=True))
    factors = torch.from_numpy(llama3_factors(10000.0, 128, scaling)).float().tolist()
    found = hf_config({**_metadata(), "llama.attention.key_length": 128}, [], factors)["rope_scaling"]
    assert found.pop("rope_type") == "llama3"
    assert found == pytest.approx(scaling, rel=1e-3)


def test_factors_of_another_rule_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"rope_freqs\.weight does not follow"):
        hf_config({**_metadata(), "llama.attention.key_length": 16}, [], [1, 2, 1, 2, 1, 2, 1, 2])
    with pytest.raises(CheckpointError, match="must hold 8 positive factors"):
        hf_config({**_metadata(), "llama.attention.key_length": 16}, [], [1.0] * 7)


def _metadata() -> dict[str, Any]:
    return {
        "general.architecture": "llama", "llama.context_length": 64, "llama.embedding_length": 32,
        "llama.block_count": 1, "llama.feed_forward_length": 48, "llama.attention.head_count": 2,
        "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06, "llama.vocab_size": 10,
    }  # fmt: skip


def test_a_float32_reads_as_the_number_somebody_wrote() -> None:
    assert hf_config(_metadata(), [])["rms_norm_eps"] == 1e-05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "mamba"}, "'mamba' is not supported.*bert, gpt2, llama, qwen2, qwen3"),
        ({"general.architecture": None}, "not supported"),
        ({"general.architecture": ["llama"]}, "not supported"),
        ({"llama.block_count": None}, r"lacks llama\.block_count"),
        ({"llama.block_count": "1"}, r"llama\.block_count = '1'"),
        ({"llama.attention.head_count": 0}, r"head_count = 0"),
        ({"llama.attention.head_count": [2, 2]}, r"head_count = \[2, 2\]"),
        ({"llama.attention.head_count_kv": 0}, "num_key_value_heads = 0"),
        ({"llama.attention.layer_norm_rms_epsilon": 1}, "epsilon = 1"),
        ({"llama.attention.value_length": 8}, "value_length"),
        ({"llama.vocab_size": None}, "vocab_size"),
        ({"llama.rope.dimension_count": 8}, "rotates 8 of 16"),
        ({"llama.rope.scaling.type": "longrope"}, "'longrope'"),
        ({"llama.rope.scaling.type": "yarn"}, "factor = None"),
        ({"llama.expert_count": 8}, "expert_count = 8"),
        ({"llama.logit_scale": 0.5}, "logit_scale = 0.5"),
        ({"llama.attention.sliding_window": 4096}, "sliding_window = 4096"),
    ],
)
def test_metadata_we_cannot_serve_is_refused(change: dict[str, Any], message: str) -> None:
    metadata = {key: value for key, value in (_metadata() | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        hf_config(metadata, [])


def test_a_tensor_the_architecture_does_not_have_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", _metadata(), [("blk.0.ssm_conv1d.weight", torch.ones(2, 2))])
    with pytest.raises(CheckpointError, match=r"blk\.0\.ssm_conv1d\.weight.*llama"):
        HfView(GGUFFile(path))


def test_heads_that_do_not_divide_the_rows_are_an_error(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", _metadata(), [("blk.0.attn_q.weight", torch.ones(7, 32))])
    with pytest.raises(CheckpointError, match=r"blk\.0\.attn_q\.weight.*2 heads"):
        HfView(GGUFFile(path)).read("model.layers.0.self_attn.q_proj.weight")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gemma2"}, "gemma2.*Supported"),
        ({**LLAMA_LIKE, "model_type": "llama", "hidden_act": "gelu"}, "hidden_act"),
        ({**LLAMA_LIKE, "model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window"),
        ({**LLAMA_LIKE, "model_type": "llama", "hidden_size": None}, "hidden_size"),
        ({**LLAMA_LIKE, "model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
    ],
)
def test_configs_gguf_cannot_say_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(VitralError, match=message):
        gguf_metadata(config, {})


def test_a_tensor_without_a_gguf_name_is_refused() -> None:
    config = {**LLAMA_LIKE, "model_type": "llama"}
    with pytest.raises(VitralError, match=r"model\.layers\.0\.adapter"):
        list(gguf_tensors(config, [("model.layers.0.adapter.weight", torch.ones(1))]))


TINY = {name: config for name, config in tiny.CONFIGS.items() if name != "qwen2"}  # that one has a window
LEFT_OUT = {
    "llama3": ("max_position_embeddings", "rms_norm_eps"), "qwen3": ("max_position_embeddings", "rms_norm_eps"),
    "gpt2": ("n_positions", "layer_norm_epsilon", "n_inner"), "bert": ("max_position_embeddings", "layer_norm_eps"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(TINY))
@pytest.mark.parametrize("null", [False, True])
def test_what_a_config_leaves_out_is_written_as_it_is_read(name: str, null: bool) -> None:
    """Both sides have one table of defaults: the model of the file is the model of the config."""
    config = {key: value for key, value in TINY[name].items() if key not in LEFT_OUT[name]}
    config |= dict.fromkeys(LEFT_OUT[name]) if null else {}
    config |= {"hidden_act": "swish"} if name in ("llama3", "qwen3") else {}
    again = hf_config(gguf_metadata(config, {}), ["output.weight"])
    if name in ("gpt2", "bert"):
        again["tie_word_embeddings"] = True  # tensor names say so in a file
    expected, found = (repr(of_config(c).spec({**c, "architectures": []})) for c in (config, again))
    assert found == expected


@pytest.mark.parametrize(
    ("change", "possible"),
    [
        ({"hidden_act": "swish"}, True), ({"hidden_act": "silu"}, True), ({"hidden_act": None}, True),
        ({"hidden_act": "gelu"}, False), ({"hidden_act": ["silu"]}, False), ({"hidden_act": "x"}, False),
    ],
)  # fmt: skip
def test_one_activation_has_many_names(change: dict[str, Any], possible: bool) -> None:
    config = {**LLAMA_LIKE, "model_type": "llama", **change}
    if possible:
        gguf_metadata(config, {})
    else:
        with pytest.raises(VitralError, match="hidden_act"):
            gguf_metadata(config, {})


@pytest.mark.parametrize("act", ["gelu_pytorch_tanh", "gelu_fast", "gelu_new"])
def test_gpt2_s_gelu_by_its_other_names(act: str) -> None:
    gguf_metadata({**tiny.CONFIGS["gpt2"], "activation_function": act}, {})
    with pytest.raises(VitralError, match="activation_function = 'gelu'"):
        gguf_metadata({**tiny.CONFIGS["gpt2"], "activation_function": "gelu"}, {})


def test_a_window_that_is_null_is_none() -> None:
    gguf_metadata({**LLAMA_LIKE, "model_type": "qwen2", "use_sliding_window": None}, {})


@pytest.mark.parametrize(("mode", "number"), [("mean", 1), ("cls", 2), ("lasttoken", 3)])
@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_pooling_survives(mode: str, number: int, name: str) -> None:
    arch = tiny.CONFIGS[name]["model_type"]
    for longest in (256, None):
        metadata = gguf_metadata(tiny.CONFIGS[name], {}, pooling=(mode, longest))
        assert metadata[f"{arch}.pooling_type"] == number
        assert pooling_of(metadata) == (mode, longest)


def test_pooling_that_nobody_names() -> None:
    """An encoder is pooled by its mean then; a decoder not at all."""
    assert pooling_of(gguf_metadata(tiny.CONFIGS["bert"], {})) == ("mean", None)
    assert pooling_of(gguf_metadata(tiny.CONFIGS["llama3"], {})) == (None, None)
    assert pooling_of({**_metadata(), "llama.pooling_type": 0}) == (None, None)


def test_pooling_gguf_cannot_say_is_refused() -> None:
    with pytest.raises(VitralError, match=r"'max'.*mean, cls, lasttoken"):
        gguf_metadata(tiny.CONFIGS["bert"], {}, pooling=("max", None))


@pytest.mark.parametrize("value", [4, 9, -2, "mean", True, 1.0])
def test_pooling_we_do_not_do_is_refused(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"llama\.pooling_type"):
        pooling_of({**_metadata(), "llama.pooling_type": value})


@pytest.mark.parametrize("value", [0, -1, "256", True])
def test_a_longest_text_that_is_no_length_is_refused(value: Any) -> None:
    with pytest.raises(CheckpointError, match="max_tokens"):
        pooling_of({**_metadata(), "vitral.embedding.max_tokens": value})
