"""Ids → one vector a text: pool the hidden states, normalise.

ids [N texts] ─▶ sort by length ─▶ batches ─▶ hidden [B, T, d] ─▶ pool over real tokens ─▶ normalise ─▶ [N, d]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vitral.errors import CheckpointError, VitralError
from vitral.nn import Model
from vitral.weights.files import is_plain_name

BATCH = 32
Mode = Literal["mean", "cls", "max", "lasttoken"]
_MODES: dict[str, Mode] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How a text's vector is made, as a sentence-embedding folder says it.

    Args:
        mode: mean over real tokens, the first token, the maximum, or the last token.
        normalise: to length 1, so that a dot product is a cosine.
        max_tokens: the longest text it was made for, special tokens included.
    """

    mode: Mode = "mean"
    normalise: bool = True
    max_tokens: int | None = None

    @classmethod
    def read(cls, modules: Sequence[Any], pooling: Mapping[str, Any], sentence: Mapping[str, Any]) -> Pooling:
        """From modules.json, the pooling module's config.json and sentence_bert_config.json."""
        kinds = [str(module["type"]).rpartition(".")[2] for module in _checked(modules)]
        if strange := sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"}):
            raise CheckpointError(f"modules.json names {strange[0]!r}", "Known: Transformer, Pooling, Normalize")
        on = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
        if len(on) != 1 or on[0] not in _MODES:
            remedy = f"One of {', '.join(sorted(_MODES))} must be true"
            raise CheckpointError(f"the pooling module's config.json asks for {on}", remedy)
        longest = sentence.get("max_seq_length")
        if longest is not None and (not isinstance(longest, int) or longest < 1):
            raise CheckpointError(
                f"sentence_bert_config.json: max_seq_length is {longest!r:.40}", "Give a whole number"
            )
        return cls(mode=_MODES[on[0]], normalise="Normalize" in kinds, max_tokens=longest)

    @classmethod
    def place(cls, modules: Sequence[Any]) -> str:
        """The folder of the pooling module, by modules.json."""
        for module in _checked(modules):
            path = module.get("path")
            if module["type"].endswith("Pooling") and isinstance(path, str) and is_plain_name(path):
                return path
        raise CheckpointError("modules.json names no pooling module with a folder", "Such as 1_Pooling")

    @classmethod
    def named(cls, mode: str | None, max_tokens: int | None) -> Pooling:
        """A mode by name, normalised, as a GGUF file has it."""
        known: dict[str, Mode] = {name: name for name in _MODES.values()}
        return cls(mode=known[mode or "mean"], max_tokens=max_tokens)


def _checked(modules: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    if not all(isinstance(module, Mapping) and isinstance(module.get("type"), str) for module in modules):
        raise CheckpointError("modules.json is not a list of modules with a type", "Take the published file")
    return modules


def embed(model: Model, texts: Sequence[Sequence[int]], pooling: Pooling) -> NDArray[np.float32]:
    """Vectors [N, d] of texts given as ids, in their order."""
    if empty := [i for i, ids in enumerate(texts) if not len(ids)]:
        raise VitralError(f"text {empty[0]} has no tokens", "Leave empty texts out", param="texts")
    device = next(model.parameters()).device
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = torch.zeros(len(texts), model.embed.tokens.weight.shape[1], dtype=torch.float32)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        longest = max(len(texts[i]) for i in rows)
        ids = torch.tensor([list(texts[i]) + [0] * (longest - len(texts[i])) for i in rows], device=device)
        valid = torch.tensor(
            [[True] * len(texts[i]) + [False] * (longest - len(texts[i])) for i in rows], device=device
        )
        with torch.inference_mode():
            hidden = model.hidden(ids, model.step(ids, valid)).float()
        out[rows] = pool(hidden, valid, pooling.mode).cpu()
    if pooling.normalise:
        out = torch.nn.functional.normalize(out, dim=-1)
    return out.numpy()


def pool(hidden: torch.Tensor, valid: torch.Tensor, mode: Mode) -> torch.Tensor:
    """hidden [B, T, d], valid [B, T] (padding on the right) → [B, d]."""
    if mode == "cls":
        return hidden[:, 0]
    if mode == "lasttoken":
        return hidden[torch.arange(len(hidden)), valid.sum(-1) - 1]
    if mode == "max":
        return hidden.masked_fill(~valid[..., None], -torch.inf).amax(1)
    weight = valid[..., None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)
