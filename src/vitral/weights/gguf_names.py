"""GGUF tensor names ↔ Hugging Face tensor names, as data, with what happens to the values on the way.

llama.cpp's converter (convert_hf_to_gguf.py) fixes the right-hand side of these tables; the left-hand side is what
`save_pretrained` writes. `{}` stands for the layer number. Every operation has an inverse, so each table serves reading
and writing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Op = Literal["same", "transpose", "rope_q", "rope_k"]


@dataclass(frozen=True)
class Name:
    """One tensor's two names and the operation between them.

    `transpose`: GPT-2's Conv1D keeps [in, out] in Hugging Face files, GGUF keeps [out, in].
    `rope_q`, `rope_k`: GGUF's `llama` rotates neighbouring pairs, Hugging Face rotates halves, so the rows of each
    head are interleaved on the way out.
    """

    gguf: str
    hf: str
    op: Op = "same"


_LLAMA_LIKE = (
    Name("token_embd.weight", "model.embed_tokens.weight"),
    Name("output_norm.weight", "model.norm.weight"),
    Name("output.weight", "lm_head.weight"),
    Name("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"),
    Name("blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    Name("blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight"),
    Name("blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias"),
    Name("blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight"),
    Name("blk.{}.attn_output.bias", "model.layers.{}.self_attn.o_proj.bias"),
    Name("blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight"),
    Name("blk.{}.ffn_gate.bias", "model.layers.{}.mlp.gate_proj.bias"),
    Name("blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight"),
    Name("blk.{}.ffn_up.bias", "model.layers.{}.mlp.up_proj.bias"),
    Name("blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight"),
    Name("blk.{}.ffn_down.bias", "model.layers.{}.mlp.down_proj.bias"),
)


def _queries_and_keys(q: Op, k: Op) -> tuple[Name, ...]:
    return (
        Name("blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight", q),
        Name("blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias", q),
        Name("blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight", k),
        Name("blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias", k),
    )


def _weight_and_bias(gguf: str, hf: str, op: Op = "same") -> tuple[Name, ...]:
    return Name(f"{gguf}.weight", f"{hf}.weight", op), Name(f"{gguf}.bias", f"{hf}.bias")


TABLES: dict[str, tuple[Name, ...]] = {
    "llama": (*_LLAMA_LIKE, *_queries_and_keys("rope_q", "rope_k")),
    "qwen2": (*_LLAMA_LIKE, *_queries_and_keys("same", "same")),
    "qwen3": (
        *_LLAMA_LIKE,
        *_queries_and_keys("same", "same"),
        Name("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
        Name("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
    ),
    "gpt2": (
        Name("token_embd.weight", "transformer.wte.weight"),
        Name("position_embd.weight", "transformer.wpe.weight"),
        Name("output.weight", "lm_head.weight"),
        *_weight_and_bias("output_norm", "transformer.ln_f"),
        *_weight_and_bias("blk.{}.attn_norm", "transformer.h.{}.ln_1"),
        *_weight_and_bias("blk.{}.attn_qkv", "transformer.h.{}.attn.c_attn", "transpose"),
        *_weight_and_bias("blk.{}.attn_output", "transformer.h.{}.attn.c_proj", "transpose"),
        *_weight_and_bias("blk.{}.ffn_norm", "transformer.h.{}.ln_2"),
        *_weight_and_bias("blk.{}.ffn_up", "transformer.h.{}.mlp.c_fc", "transpose"),
        *_weight_and_bias("blk.{}.ffn_down", "transformer.h.{}.mlp.c_proj", "transpose"),
    ),
    "bert": (
        Name("token_embd.weight", "embeddings.word_embeddings.weight"),
        Name("position_embd.weight", "embeddings.position_embeddings.weight"),
        Name("token_types.weight", "embeddings.token_type_embeddings.weight"),
        *_weight_and_bias("token_embd_norm", "embeddings.LayerNorm"),
        *_weight_and_bias("blk.{}.attn_q", "encoder.layer.{}.attention.self.query"),
        *_weight_and_bias("blk.{}.attn_k", "encoder.layer.{}.attention.self.key"),
        *_weight_and_bias("blk.{}.attn_v", "encoder.layer.{}.attention.self.value"),
        *_weight_and_bias("blk.{}.attn_output", "encoder.layer.{}.attention.output.dense"),
        *_weight_and_bias("blk.{}.attn_output_norm", "encoder.layer.{}.attention.output.LayerNorm"),
        *_weight_and_bias("blk.{}.ffn_up", "encoder.layer.{}.intermediate.dense"),
        *_weight_and_bias("blk.{}.ffn_down", "encoder.layer.{}.output.dense"),
        *_weight_and_bias("blk.{}.layer_output_norm", "encoder.layer.{}.output.LayerNorm"),
    ),
}
"""By GGUF architecture."""

_LAYER = re.compile(r"(?<=\.)(\d+)(?=\.)")


def find(name: str, table: tuple[Name, ...], side: Literal["gguf", "hf"]) -> tuple[Name, str] | None:
    """The row a concrete name belongs to and the name on the other side, or None.

    >>> find("blk.3.ffn_up.weight", TABLES["llama"], "gguf")[1]
    'model.layers.3.mlp.up_proj.weight'
    """
    found = _LAYER.search(name)
    pattern, layer = (name[: found.start()] + "{}" + name[found.end() :], found[1]) if found else (name, "")
    for row in table:
        if getattr(row, side) == pattern:
            return row, (row.hf if side == "gguf" else row.gguf).format(layer)
    return None


def shape_to_hf(op: Op, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The Hugging Face shape of a tensor whose GGUF shape (torch order) is `shape`."""
    return shape[::-1] if op == "transpose" else shape


def to_hf(op: Op, tensor: torch.Tensor, *, n_heads: int, n_kv_heads: int) -> torch.Tensor:
    """A GGUF tensor's values as Hugging Face arranges them."""
    return _apply(op, tensor, n_heads, n_kv_heads, _halves)


def to_gguf(op: Op, tensor: torch.Tensor, *, n_heads: int, n_kv_heads: int) -> torch.Tensor:
    """A Hugging Face tensor's values as GGUF arranges them: the inverse of `to_hf`."""
    return _apply(op, tensor, n_heads, n_kv_heads, _pairs)


def _apply(
    op: Op, tensor: torch.Tensor, n_heads: int, n_kv_heads: int, rotary: Callable[[torch.Tensor, int], torch.Tensor]
) -> torch.Tensor:
    if op == "same":
        return tensor
    if op == "transpose":
        return tensor.t().contiguous()
    return rotary(tensor, n_heads if op == "rope_q" else n_kv_heads)


def _halves(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from (x0, y0, x1, y1, …) to (x0, x1, …, y0, y1, …)."""
    rows = tensor.reshape(heads, -1, 2, *tensor.shape[1:])  # [H, D/2, 2, …]
    return rows.transpose(1, 2).reshape(tensor.shape)


def _pairs(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from (x0, x1, …, y0, y1, …) to (x0, y0, x1, y1, …)."""
    rows = tensor.reshape(heads, 2, -1, *tensor.shape[1:])  # [H, 2, D/2, …]
    return rows.transpose(1, 2).reshape(tensor.shape)
