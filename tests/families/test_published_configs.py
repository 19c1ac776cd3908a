"""Files as they lie on the hub, of old and of new generations: every key known, the meaning that of their own classes.

published_configs.json holds config.json files of well-known checkpoints, name → config and parameters. The counts come
from the classes of transformers on the meta device where these keep what the file says, and for the rest by hand: the
Qwen files (which bring their own code), T5 v1.1 with its head, Marian without its table of sinusoids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from tests.families.tiny import tiny_config
from vitral.errors import CheckpointError
from vitral.families import names_of, of_config, preset_config
from vitral.nn import Causal, GELUTanh, SiLU, Window
from vitral.weights.fp8 import dequantised
from vitral.weights.names import depths, export, match, tensors_of

PUBLISHED: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("published_configs.json").read_text("utf-8"))
WITHOUT_CLASS = ("Qwen/Qwen-7B", "Qwen/Qwen-1_8B-Chat")
# Beside a text_config_dict their class sets eos_token_id to its default: the highest id, which is what 2 means here.
OVERWRITTEN = ("openai/clip-vit-large-patch14-336", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K")


class NoTensors:
    """A folder of which only the config counts."""

    metadata: Mapping[str, Any] = {}

    def names(self) -> list[str]:
        return []


def config_of(name: str) -> dict[str, Any]:
    """A published config as the loader hands it on: without a quantisation that is undone as tensors are read."""
    return dict(dequantised(PUBLISHED[name]["config"], NoTensors())[0])  # type: ignore[arg-type]


def read(config: Mapping[str, Any]) -> str:
    """What a config means, with a head of its own in the file where newer T5 files leave that to the tensors."""
    module = of_config(config)
    if config["model_type"] == "t5":
        config = module.complete(config, ["lm_head.weight"])
    return repr(module.spec(config))


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_published_file_is_read_and_counted(name: str) -> None:
    config = config_of(name)
    assert of_config(config).spec(config).count().total == PUBLISHED[name]["count"]


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in OVERWRITTEN + WITHOUT_CLASS])
def test_it_means_what_its_class_makes_of_it(name: str) -> None:
    """What a file leaves out has the default of its class; and the class writes the same meaning in today's form."""
    config = config_of(name)
    theirs = hf.AutoConfig.for_model(**json.loads(json.dumps({**config, "auto_map": None})))
    for dump in (theirs.to_dict(), theirs.to_diff_dict()):
        again = json.loads(json.dumps({**dump, "architectures": config["architectures"]}))
        assert read(again) == read(config)


# What the documents of these models say, whatever reader says it: argument of a part → all its values in the model.
MEANT: dict[str, dict[str, set[Any]]] = {
    "mistralai/Mistral-7B-v0.1": {"kind": {Window(4096)}, "theta": {1e4}},
    "mistralai/Mistral-7B-Instruct-v0.2": {"kind": {Causal()}, "theta": {1e6}},
    "mistralai/Mixtral-8x7B-Instruct-v0.1": {"kind": {Causal()}, "theta": {1e6}, "top_k": {2}},
    "Qwen/QwQ-32B": {"kind": {Causal()}, "eps": {1e-5}},
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": {"kind": {Causal()}, "theta": {1e4}},
    "google/gemma-2-27b-it": {
        "kind": {Window(4096), Causal()},
        "softcap": {50.0, 30.0},
        "scale": {144**-0.5, 4608**0.5},
    },
    "google/gemma-3-1b-it": {"kind": {Window(512), Causal()}, "theta": {1e4, 1e6}},
}


@pytest.mark.parametrize("name", list(MEANT))
def test_it_means_what_its_authors_say(name: str) -> None:
    config = config_of(name)
    parts = list(of_config(config).spec(config).walk())
    for key, values in MEANT[name].items():
        assert {part.args[key] for part in parts if part.args.get(key) is not None} == values


@pytest.mark.parametrize(
    ("name", "act"), [("google/gemma-2b", GELUTanh), ("google/gemma-7b (first)", GELUTanh), ("01-ai/Yi-6B", SiLU)]
)
def test_activations(name: str, act: type) -> None:
    config = config_of(name)
    assert {part.args["act"].part for part in of_config(config).spec(config).walk() if "act" in part.args} == {act}


def test_classes_of_pictures_are_counted_by_their_names() -> None:
    """google/vit-base-patch16-224 says how many there are in no other way."""
    config = {**config_of("google/vit-base-patch16-224-in21k"), "architectures": ["ViTForImageClassification"]}
    config["id2label"] = {str(n): f"label {n}" for n in range(1000)}
    assert of_config(config).spec(config).count().total == 86_567_656


REFUSED = {
    "jina-embeddings-v2": (
        "bert/base",
        {"auto_map": {"AutoModel": "jinaai/x--modeling_bert.JinaBertModel"}},
        "never run",
    ),
    "gte-Qwen2": ("qwen2/0.5b", {"auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"}}, "auto_map.*never run.*Remove"),
    "a fork of DeepSeek-V3": ("deepseek_v3/v3", {"auto_map": {"AutoModel": "modeling_other.X"}}, "never run"),
    "Qwen-VL": ("qwen1/7b", {"visual": {"heads": 16}}, "'visual'"),
    "Qwen2.5-7B-1M": ("qwen2/0.5b", {"dual_chunk_attention_config": {"chunk_size": 1}}, "dual_chunk_attention_config"),
    "Qwen2.5-VL": ("qwen2/0.5b", {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, "mrope"),
    "AWQ": ("llama2/7b", {"quantization_config": {"bits": 4, "quant_method": "awq"}}, "quantised.*GGUF"),
    "MLX": ("llama2/7b", {"quantization": {"bits": 4, "group_size": 64}}, "quantised.*GGUF"),
    "embeddinggemma": ("gemma3/1b", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "bart-large-mnli": ("bart/large", {"architectures": ["BartForSequenceClassification"]}, "BartForSequenceClass"),
    "DeepSeek-V2": ("deepseek_v3/v3", {"topk_method": "group_limited_greedy"}, "topk_method"),
    "a mixture with a shared expert": ("qwen3/30b-a3b", {"shared_expert_intermediate_size": 8}, "shared_expert"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_computed_otherwise_is_refused_in_a_line(name: str) -> None:
    path, change, said = REFUSED[name]
    config = {**preset_config(path), **change}
    with pytest.raises(CheckpointError, match=said) as error:
        of_config(config).spec(config)
    assert "\n" not in str(error.value)


def test_a_copy_may_name_the_repository_of_published_code() -> None:
    config = config_of("deepseek-ai/DeepSeek-V3")
    copied = {key: f"deepseek-ai/DeepSeek-V3--{value}" for key, value in config["auto_map"].items()}
    assert read({**config, "auto_map": copied}) == read(config)


# preset → what published files of that kind hold besides (each `name=original` repeats a tensor and must equal it).
BESIDE = {
    "llama1/7b": "model.layers.0.self_attn.rotary_emb.inv_freq",
    "llama3/3.2-1b": "lm_head.weight=model.embed_tokens.weight",
    "gemma/2b": "lm_head.weight=model.embed_tokens.weight",
    "gemma2/2b": "lm_head.weight=model.embed_tokens.weight",
    "gemma3/1b": "lm_head.weight=model.embed_tokens.weight",
    "gemma3/4b": "language_model.lm_head.weight=language_model.model.embed_tokens.weight",
    "gpt1/117m": "transformer.h.0.attn.bias lm_head.weight=transformer.tokens_embed.weight",
    "gpt2/small": "transformer.h.0.attn.bias transformer.h.1.attn.masked_bias lm_head.weight=transformer.wte.weight",
    "bert/base": "bert.embeddings.position_ids",
    "clip/b32": "text_model.embeddings.position_ids vision_model.embeddings.position_ids",
    "siglip/b16-224": "text_model.embeddings.position_ids vision_model.embeddings.position_ids",
    "t5/small": "encoder.embed_tokens.weight=shared.weight decoder.embed_tokens.weight=shared.weight "
    "lm_head.weight=shared.weight decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
    "t5/v1_1-small": "encoder.embed_tokens.weight=shared.weight decoder.embed_tokens.weight=shared.weight",
    "switch/base-8": "encoder.embed_tokens.weight=shared.weight decoder.embed_tokens.weight=shared.weight",
    "bart/base": "model.encoder.embed_tokens.weight=model.shared.weight lm_head.weight=model.shared.weight "
    "model.decoder.embed_tokens.weight=model.shared.weight model.encoder.version model.decoder.version",
    "marian/opus-mt-en-de": "model.encoder.embed_tokens.weight=model.shared.weight "
    "model.encoder.embed_positions.weight model.decoder.embed_positions.weight lm_head.weight=model.shared.weight",
}


@pytest.mark.parametrize("bare", [False, True], ids=["", "bare"])
@pytest.mark.parametrize("path", list(BESIDE))
def test_what_published_files_hold_besides_is_known(path: str, bare: bool) -> None:
    """Buffers, masks and repeats; with the prefix of the whole model, and as in files of the body without it."""
    config = tiny_config(path)
    names = names_of(of_config(config), config)
    parameters = tensors_of(of_config(config).spec(config).build(device="meta"))
    held = [entry.file for entry in export(names, parameters, depths=depths(parameters))]
    beside = [each.partition("=")[::2] for each in BESIDE[path].split()]

    def written(name: str) -> str:
        return name.removeprefix(names.prefix) if bare else name

    files = [written(name) for name in (*held, *(name for name, _ in beside))]
    found = match(names, files, parameters, depths=depths(parameters))
    assert set(found.repeats) == {(written(name), written(of)) for name, of in beside if of}
    with pytest.raises(CheckpointError, match=r"holds 'surprise\.weight'"):
        match(names, [*files, "surprise.weight"], parameters, depths=depths(parameters))


IN_MEMORY = {
    "llama3/3.2-11b-vision": hf.MllamaForConditionalGeneration,
    "gemma3/4b": hf.Gemma3ForConditionalGeneration,
    "clip/b32": hf.CLIPModel,
    "siglip/b16-224": hf.SiglipModel,
}


@pytest.mark.parametrize("path", list(IN_MEMORY))
def test_a_state_saved_by_hand_has_the_names_of_memory(path: str) -> None:
    """Which are not those that transformers writes: it turns them back into the published ones."""
    config = tiny_config(path)
    text = {**config["text_config"], "pad_token_id": 0}
    with torch.device("meta"):
        theirs = IN_MEMORY[path](hf.AutoConfig.for_model(**{**config, "text_config": text}))
    parameters = tensors_of(of_config(config).spec(config).build(device="meta"))
    match(names_of(of_config(config), config), theirs.state_dict(), parameters, depths=depths(parameters))


def test_first_files_of_bert_call_their_norms_otherwise() -> None:
    """And hold all three heads, whatever class they name."""
    config = {**tiny_config("bert/base"), "architectures": ["BertForMaskedLM"]}
    module = of_config(config)
    whole = {**config, "architectures": ["BertForPreTraining"]}
    parameters = tensors_of(module.spec(whole).build(device="meta"))
    held = [entry.file for entry in export(module.NAMES, parameters)] + ["cls.predictions.decoder.weight"]
    files = [n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta") for n in held]
    assert repr(module.spec(module.complete(config, files))) == repr(module.spec(whole))
    match(module.NAMES, files, parameters)
