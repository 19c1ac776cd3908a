"""GGUF metadata ↔ a Hugging Face `config.json`, and a GGUF file seen as a Hugging Face checkpoint.

With `HfView` a family needs one name map, the Hugging Face one, for both formats.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch

from vitral.errors import CheckpointError, VitralError, did_you_mean
from vitral.families import of_config
from vitral.families.common.config import ACTIVATIONS
from vitral.weights import gguf_names, gguf_rope
from vitral.weights.gguf import GGUFFile
from vitral.weights.gguf_keys import ARCHITECTURES, FIXED, KEYS, architecture, decimal, wrong

_ROPE_FACTORS = "rope_freqs.weight"
_POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}
"""Our name → llama.cpp's number (0 is none, 4 a reranker's)."""
_LONGEST_TEXT = "vitral.embedding.max_tokens"
"""Ours: llama.cpp has no key for a longest text that is shorter than the context."""
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
    pooling_of(metadata)
    config: dict[str, Any] = {"architectures": [ARCHITECTURES[arch]], "model_type": arch, **FIXED[arch]}
    for key, field in KEYS[arch].items():
        value = _need(metadata, f"{arch}.{key}")
        config[field] = decimal(value) if isinstance(value, float) else value
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


def _attention(arch: str, metadata: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    heads, width = _need(metadata, f"{arch}.attention.head_count"), _need(metadata, f"{arch}.embedding_length")
    if not heads:
        wrong(f"{arch}.attention.head_count", heads)
    head_dim = metadata.get(f"{arch}.attention.key_length", width // heads)
    if metadata.get(f"{arch}.attention.value_length", head_dim) != head_dim:
        wrong(f"{arch}.attention.value_length", metadata[f"{arch}.attention.value_length"])
    found = {"num_key_value_heads": metadata.get(f"{arch}.attention.head_count_kv", heads), "head_dim": head_dim}
    for key, value in found.items():
        if type(value) is not int or value < 1:
            wrong(key, value)
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
        wrong(key, value)
    return value


def pooling_of(metadata: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """(mode, longest text in tokens) for a model that embeds texts, each None where the file does not say it.

    The mode is `mean`, `cls` or `lasttoken`. Whether vectors are normalised is nowhere in the format; llama.cpp
    normalises them by default.

    Raises:
        CheckpointError: another kind of pooling, or a length that is none.
    """
    key = f"{metadata.get('general.architecture')}.pooling_type"
    kind, longest = metadata.get(key, 0), metadata.get(_LONGEST_TEXT)
    modes: dict[int, str | None] = {0: None, **{number: mode for mode, number in _POOLING.items()}}
    if type(kind) is not int or kind not in modes:
        raise CheckpointError(f"A GGUF model with {key} = {kind!r:.40} is not supported")
    if longest is not None and (type(longest) is not int or longest < 1):
        wrong(_LONGEST_TEXT, longest)
    return modes[kind], longest


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
    arch, config = _exportable(config)
    table = gguf_names.TABLES[arch]
    heads, kv_heads = _heads(config)
    factors = gguf_rope.factors(config)
    if factors is not None:
        yield _ROPE_FACTORS, torch.tensor(factors, dtype=torch.float32)
    for name, tensor in tensors:
        bare = name.removeprefix("bert.")
        if bare.startswith("pooler."):
            continue
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        if arch == "gpt2" and name != "lm_head.weight":
            bare = "transformer." + name.removeprefix("transformer.")
        found = gguf_names.find(bare, table, "hf")
        if found is None:
            raise VitralError(f"The tensor {name!r:.80} has no place in a GGUF file of architecture {arch}")
        row, gguf = found
        yield gguf, gguf_names.to_gguf(row.op, tensor, n_heads=heads, n_kv_heads=kv_heads)


def gguf_metadata(
    config: Mapping[str, Any],
    tokenizer_fields: Mapping[str, Any],
    pooling: tuple[str, int | None] | None = None,
) -> dict[str, Any]:
    """The metadata of a GGUF file for a Hugging Face config; the inverse of `hf_config`.

    Args:
        config: the `config.json`.
        tokenizer_fields: the `tokenizer.*` keys, from `gguf_tokenizer.tokenizer_fields` or another GGUF file.
        pooling: (mode, longest text in tokens or None) of a model that embeds texts; without it an encoder is pooled
            by its mean and a decoder not at all. The inverse of `pooling_of`.

    Raises:
        VitralError: an architecture, or an option of it, that GGUF cannot say.
    """
    arch, config = _exportable(config)
    found: dict[str, Any] = {"general.architecture": arch, "general.type": "model", "general.quantization_version": 2}
    for key, field in (*KEYS[arch].items(), ("vocab_size", "vocab_size")):
        value = config.get(field)
        if value is None and field == "n_inner":
            value = 4 * config["n_embd"]
        if value is None:
            raise VitralError(f"The config lacks {field}", "GGUF needs it", param=field)
        found[f"{arch}.{key}"] = float(value) if key.endswith("epsilon") else value
    if arch == "bert":
        found["bert.attention.causal"] = False
        found["tokenizer.ggml.token_type_count"] = config["type_vocab_size"]
        pooling = pooling or ("mean", None)
    elif arch != "gpt2":
        heads, kv_heads = _heads(config)
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        found[f"{arch}.attention.head_count_kv"] = kv_heads
        found[f"{arch}.attention.key_length"] = found[f"{arch}.attention.value_length"] = head_dim
        found |= gguf_rope.to_metadata(arch, config, head_dim)
    return found | _pooling(arch, pooling) | dict(tokenizer_fields)


def _pooling(arch: str, pooling: tuple[str, int | None] | None) -> dict[str, Any]:
    if pooling is None:
        return {}
    mode, longest = pooling
    if mode not in _POOLING:
        raise VitralError(f"Pooling by {mode!r:.40} cannot be written as GGUF", f"Possible: {', '.join(_POOLING)}")
    return {f"{arch}.pooling_type": _POOLING[mode]} | ({} if longest is None else {_LONGEST_TEXT: longest})


def check_exportable(config: Mapping[str, Any]) -> None:
    """Refuse a model that GGUF cannot hold. Raises VitralError that names what it cannot say."""
    _exportable(config)


def _exportable(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(architecture, config with the defaults that its family reads it with), if GGUF can say all of it."""
    arch = config.get("model_type")
    if arch not in ARCHITECTURES:
        raise VitralError(
            f"A model of type {arch!r:.40} cannot be written as GGUF", f"Supported: {', '.join(sorted(ARCHITECTURES))}"
        )
    config = {**of_config(config).DEFAULTS, **{key: value for key, value in config.items() if value is not None}}
    for field, value in FIXED[arch].items():
        given = config.get(field, value)
        if given != value and not _same_activation(given, value):
            raise VitralError(f"A model with {field} = {given!r:.40} cannot be written as GGUF", param=field)
    return arch, config


def _same_activation(one: Any, other: Any) -> bool:
    """Whether two names stand for one function: silu and swish, gelu_new and gelu_pytorch_tanh."""
    known = isinstance(one, str) and isinstance(other, str) and one in ACTIVATIONS and other in ACTIVATIONS
    return known and ACTIVATIONS[one] is ACTIVATIONS[other]
