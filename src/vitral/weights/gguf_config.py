"""GGUF metadata ↔ a Hugging Face `config.json`, and a GGUF file seen as a Hugging Face checkpoint.

With `HfView` a family needs one name map, the Hugging Face one, for both formats.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
import torch

from vitral.errors import CheckpointError, VitralError, did_you_mean
from vitral.weights import gguf_names, gguf_rope
from vitral.weights.gguf import GGUFFile

_ROPE_FACTORS = "rope_freqs.weight"
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertModel",
}
"""GGUF architecture (which is also the Hugging Face model_type) → Hugging Face class."""

_LLAMA_KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_KEYS: dict[str, dict[str, str]] = {
    "llama": _LLAMA_KEYS,
    "qwen2": _LLAMA_KEYS,
    "qwen3": _LLAMA_KEYS,
    "gpt2": {
        "context_length": "n_positions",
        "embedding_length": "n_embd",
        "block_count": "n_layer",
        "feed_forward_length": "n_inner",
        "attention.head_count": "n_head",
        "attention.layer_norm_epsilon": "layer_norm_epsilon",
    },
    "bert": {
        "context_length": "max_position_embeddings",
        "embedding_length": "hidden_size",
        "block_count": "num_hidden_layers",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.layer_norm_epsilon": "layer_norm_eps",
    },
}
"""By architecture: metadata key (after `<arch>.`) → config key. All are required."""
_FIXED: dict[str, dict[str, Any]] = {
    "llama": {"hidden_act": "silu"},
    "qwen2": {"hidden_act": "silu", "use_sliding_window": False},
    "qwen3": {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False},
    "gpt2": {
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    },
    "bert": {"hidden_act": "gelu", "position_embedding_type": "absolute"},
}
"""By architecture: what the architecture's name stands for, with no metadata key of its own."""
_NEUTRAL: dict[str, tuple[float, ...]] = {
    "expert_count": (0,),
    "logit_scale": (0, 1),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "attention.scale": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "use_parallel_residual": (0,),
}
"""Keys that would change the arithmetic, with the values that do not: any other value is refused, not overlooked."""
_TOKEN_IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}


def hf_config(
    metadata: Mapping[str, Any], names: Collection[str], rope_factors: Iterable[float] | None = None
) -> dict[str, Any]:
    """The `config.json` of a GGUF model.

    Args:
        metadata: the file's metadata.
        names: its tensor names, which say what the metadata does not (tied embeddings, biases).
        rope_factors: the values of `rope_freqs.weight` where the file has it (Llama 3's long-context scaling).

    Raises:
        CheckpointError: an unsupported architecture, or a key that is missing or of the wrong type.
    """
    arch = architecture(metadata)
    config: dict[str, Any] = {"architectures": [ARCHITECTURES[arch]], "model_type": arch, **_FIXED[arch]}
    for key, field in _KEYS[arch].items():
        value = _need(metadata, f"{arch}.{key}")
        config[field] = _decimal(value) if isinstance(value, float) else value
    config["vocab_size"] = len(metadata.get("tokenizer.ggml.tokens", ())) or _need(metadata, f"{arch}.vocab_size")
    if arch == "bert":
        config["type_vocab_size"] = metadata.get("tokenizer.ggml.token_type_count", 2)
    else:
        config["tie_word_embeddings"] = "output.weight" not in names
    if arch not in ("bert", "gpt2"):
        config |= _attention(arch, metadata, names)
        config |= gguf_rope.to_config(arch, metadata, config["head_dim"], rope_factors)
    for word, field in _TOKEN_IDS.items():
        if (token := metadata.get(f"tokenizer.ggml.{word}_token_id")) is not None:
            config[field] = token
    return config


def architecture(metadata: Mapping[str, Any]) -> str:
    """The file's architecture, once it is known to be one we read."""
    arch = metadata.get("general.architecture")
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        raise CheckpointError(
            f"GGUF architecture {arch!r:.40} is not supported", f"Supported: {', '.join(sorted(ARCHITECTURES))}"
        )
    for key, neutral in _NEUTRAL.items():
        if metadata.get(f"{arch}.{key}", neutral[0]) not in neutral:
            raise CheckpointError(
                f"A GGUF model with {arch}.{key} = {metadata[f'{arch}.{key}']!r:.40} is not supported"
            )
    return arch


def _attention(arch: str, metadata: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    heads, width = _need(metadata, f"{arch}.attention.head_count"), _need(metadata, f"{arch}.embedding_length")
    if not heads:
        _wrong(f"{arch}.attention.head_count", heads)
    head_dim = metadata.get(f"{arch}.attention.key_length", width // heads)
    if metadata.get(f"{arch}.attention.value_length", head_dim) != head_dim:
        _wrong(f"{arch}.attention.value_length", metadata[f"{arch}.attention.value_length"])
    found = {"num_key_value_heads": metadata.get(f"{arch}.attention.head_count_kv", heads), "head_dim": head_dim}
    for key, value in found.items():
        if type(value) is not int or value < 1:
            _wrong(key, value)
    if arch == "llama":
        found["attention_bias"] = "blk.0.attn_q.bias" in names
        found["mlp_bias"] = "blk.0.ffn_up.bias" in names
    return found


def _need(metadata: Mapping[str, Any], key: str) -> Any:
    value = metadata.get(key)
    if value is None:
        raise CheckpointError(f"The GGUF metadata lacks {key}", "Convert the model again with a recent llama.cpp")
    kind = float if key.endswith("epsilon") else int
    if type(value) is not kind:
        _wrong(key, value)
    return value


def _wrong(key: str, value: Any) -> NoReturn:
    raise CheckpointError(f"The GGUF metadata has {key} = {value!r:.60}", "Convert the model again")


def _decimal(value: float) -> float:
    """The shortest decimal of a float32, so that 9.99999974e-06 reads as the 1e-05 somebody wrote."""
    return float(str(np.float32(value)))


class HfView:
    """A GGUF file as a Hugging Face checkpoint: a `TensorSource` with Hugging Face names, shapes and values.

    Attributes:
        config: what `config.json` would hold.

    Raises:
        CheckpointError: an unsupported architecture or a tensor it does not have.
    """

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.metadata: Mapping[str, Any] = file.metadata
        table = gguf_names.TABLES[architecture(file.metadata)]
        self._rows: dict[str, tuple[str, gguf_names.Op]] = {}
        factors = None
        for name in file.names():
            if name == _ROPE_FACTORS:
                factors = file.read(name).flatten().tolist()
                continue
            found = gguf_names.find(name, table, "gguf")
            if found is None:
                raise CheckpointError(
                    f"{file.path} holds the tensor {name!r:.80}, which the architecture "
                    f"{architecture(file.metadata)} does not have",
                    did_you_mean(name, [row.gguf for row in table]),
                )
            row, hf = found
            self._rows[hf] = (name, row.op)
        self.config = hf_config(file.metadata, file.names(), factors)
        if "token_embd.weight" in file.names():
            self.config["vocab_size"] = file.shape("token_embd.weight")[0]
        if "token_types.weight" in file.names():
            self.config["type_vocab_size"] = file.shape("token_types.weight")[0]

    def names(self) -> list[str]:
        return list(self._rows)

    def shape(self, name: str) -> tuple[int, ...]:
        gguf, op = self._row(name)
        return gguf_names.shape_to_hf(op, self.file.shape(gguf))

    def dtype(self, name: str) -> str:
        return self.file.dtype(self._row(name)[0])

    def read(self, name: str) -> torch.Tensor:
        gguf, op = self._row(name)
        heads, kv_heads = _heads(self.config)
        try:
            return gguf_names.to_hf(op, self.file.read(gguf), n_heads=heads, n_kv_heads=kv_heads)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.file.path}: tensor {gguf!r} of shape {self.file.shape(gguf)} does not hold {heads} heads "
                f"({kv_heads} for keys)"
            ) from error

    def _row(self, name: str) -> tuple[str, gguf_names.Op]:
        try:
            return self._rows[name]
        except KeyError:
            raise CheckpointError(f"{self.file.path} holds no tensor {name!r}") from None


def _heads(config: Mapping[str, Any]) -> tuple[int, int]:
    heads = config.get("num_attention_heads", config.get("n_head", 1))
    return heads, config.get("num_key_value_heads") or heads


def gguf_tensors(
    config: Mapping[str, Any], tensors: Iterable[tuple[str, torch.Tensor]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Hugging Face tensors as GGUF names and arranges them; the inverse of `HfView`.

    GGUF has no place for BERT's pooler; it is left out, as llama.cpp's converter does.

    Raises:
        VitralError: an architecture or a tensor that GGUF has no name for.
    """
    arch = _exportable(config)
    table = gguf_names.TABLES[arch]
    heads, kv_heads = _heads(config)
    factors = gguf_rope.factors(config)
    if factors is not None:
        yield _ROPE_FACTORS, torch.tensor(factors, dtype=torch.float32)
    for name, tensor in tensors:
        bare = name.removeprefix("bert.")
        if bare.startswith("pooler."):
            continue
        if name == "lm_head.weight" and config.get("tie_word_embeddings", arch == "gpt2"):
            continue
        if arch == "gpt2" and name != "lm_head.weight":
            bare = "transformer." + name.removeprefix("transformer.")
        found = gguf_names.find(bare, table, "hf")
        if found is None:
            raise VitralError(f"The tensor {name!r:.80} has no place in a GGUF file of architecture {arch}")
        row, gguf = found
        yield gguf, gguf_names.to_gguf(row.op, tensor, n_heads=heads, n_kv_heads=kv_heads)


def gguf_metadata(config: Mapping[str, Any], tokenizer_fields: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a GGUF file for a Hugging Face config; the inverse of `hf_config`.

    Args:
        config: the `config.json`.
        tokenizer_fields: the `tokenizer.*` keys, from `gguf_tokenizer.tokenizer_fields` or another GGUF file.

    Raises:
        VitralError: an architecture, or an option of it, that GGUF cannot say.
    """
    arch = _exportable(config)
    found: dict[str, Any] = {"general.architecture": arch, "general.type": "model", "general.quantization_version": 2}
    for key, field in _KEYS[arch].items():
        value = config.get(field)
        if value is None and field == "n_inner":
            value = 4 * config["n_embd"]
        if value is None:
            raise VitralError(f"The config lacks {field}", "GGUF needs it", param=field)
        found[f"{arch}.{key}"] = float(value) if key.endswith("epsilon") else value
    found[f"{arch}.vocab_size"] = config["vocab_size"]
    if arch == "bert":
        found |= {"bert.attention.causal": False, "bert.pooling_type": 1}
        found["tokenizer.ggml.token_type_count"] = config.get("type_vocab_size", 2)
    elif arch != "gpt2":
        heads, kv_heads = _heads(config)
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        found[f"{arch}.attention.head_count_kv"] = kv_heads
        found[f"{arch}.attention.key_length"] = found[f"{arch}.attention.value_length"] = head_dim
        found |= gguf_rope.to_metadata(arch, config, head_dim)
    return found | dict(tokenizer_fields)


def _exportable(config: Mapping[str, Any]) -> str:
    arch = config.get("model_type")
    if arch not in ARCHITECTURES:
        raise VitralError(
            f"A model of type {arch!r:.40} cannot be written as GGUF", f"Supported: {', '.join(sorted(ARCHITECTURES))}"
        )
    for field, value in _FIXED[arch].items():
        given = config.get(field, value)
        if given != value:
            raise VitralError(f"A model with {field} = {given!r} cannot be written as GGUF", param=field)
    return arch
