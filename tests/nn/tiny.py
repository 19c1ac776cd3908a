"""Models of every family, small enough to be built a thousand times, with random numbers in every parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitral.families import family
from vitral.nn import Model, Spec

_LLAMA = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "vocab_size": 50, "hidden_act": "silu"}
_LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
_BERT = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
_BERT |= {"hidden_act": "gelu", "max_position_embeddings": 64}
_WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
_GPT2 = {
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "vocab_size": 50,
    "activation_function": "gelu_new",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama3": {"model_type": "llama", **_LLAMA},
    "qwen2": {"model_type": "qwen2", **_LLAMA, **_WINDOW},
    "qwen3": {"model_type": "qwen3", **_LLAMA, "head_dim": 10},
    "gpt2": {"model_type": "gpt2", **_GPT2},
    "bert": {"model_type": "bert", **_BERT, "architectures": ["BertForMaskedLM"]},
}
DECODERS = ("llama3", "qwen2", "qwen3", "gpt2")


def tiny_spec(name: str, **changes: Any) -> Spec:
    spec: Spec = family(name).spec({**CONFIGS[name], **changes})
    return spec


def tiny(name: str, seed: int = 0, **changes: Any) -> Model:
    """A filled model in eval mode; a change of None leaves the key to its default."""
    model: Model = tiny_spec(name, **changes).build()
    randomise(model, seed)
    return model.eval()


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Order-1 activations everywhere, so that a mistake anywhere shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(noise * 0.2)


def some_ids(rows: int = 2, length: int = 11, vocab: int = 50, seed: int = 1) -> Tensor:
    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))
