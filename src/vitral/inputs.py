"""What people hand to a model, made into what it takes, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitral.errors import PromptTooLongError, VitralError
from vitral.nn import Model, Table

Ids = Tensor | Sequence[int] | Sequence[Sequence[int]] | NDArray[Any]


def table(name: str, values: Ids, device: torch.device) -> Tensor:
    """Whole numbers as int64 [B, T]; one row may be given alone."""
    try:
        tensor = torch.as_tensor(values, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise VitralError(
            f"{name} is a {type(values).__name__} that makes no table",
            "Give whole numbers [B, T], in rows of one length",
        ) from None
    tensor = tensor[None] if tensor.ndim == 1 else tensor
    if tensor.ndim != 2 or tensor.is_floating_point() or tensor.is_complex():
        raise VitralError(f"{name} has shape {list(tensor.shape)} of {tensor.dtype}", "Give whole numbers [B, T]")
    return tensor.long()


def token_table(name: str, values: Ids, model: Model) -> Tensor:
    """Ids [B, T] that a model knows, no more than its context holds."""
    device = next(model.parameters()).device
    ids, vocab = table(name, values, device), model.embed.tokens.weight.shape[0]
    if ids.numel() == 0 or int(ids.min()) < 0 or int(ids.max()) >= vocab:
        raise VitralError(f"{name} is empty or out of range", f"Ids run from 0 to {vocab - 1}", param=name)
    if ids.shape[1] > model.context:
        raise PromptTooLongError(
            f"{name} holds {ids.shape[1]} tokens and the context {model.context}", "Give fewer", param=name
        )
    return ids


def alike(name: str, values: Tensor, ids: Tensor) -> Tensor:
    """A table that goes with the ids, one number for each."""
    if values.shape != ids.shape:
        raise VitralError(f"{name} has shape {list(values.shape)} and input_ids {list(ids.shape)}", param=name)
    return values


def segment_table(segments: Ids, known: Table | None, device: torch.device) -> Tensor:
    """Segment ids [B, T] of a model that knows segments."""
    if known is None:
        raise VitralError("this model knows no segments", "Leave them out", param="segments")
    ids, most = table("segments", segments, device), known.weight.shape[0]
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < most:
        raise VitralError("segments is out of range", f"It runs from 0 to {most - 1}", param="segments")
    return ids


def as_ids(prompt: Any) -> list[int] | None:
    """A non-empty sequence of whole numbers (list, array, tensor) as a list; None for anything else."""
    if isinstance(prompt, (Tensor, np.ndarray)) and prompt.ndim == 1:
        prompt = prompt.tolist()
    if not isinstance(prompt, (list, tuple)) or not prompt:
        return None
    whole = all(isinstance(id, (int, np.integer)) and not isinstance(id, bool) for id in prompt)
    return [int(id) for id in prompt] if whole else None


def fit_texts(
    encode: Callable[[str], list[int]], texts: Sequence[str], most: int, *, truncate: bool
) -> list[list[int]]:
    """The ids of texts, at most `most` each. Longer ones are refused, or lose their end but for the closing token."""
    ids = [encode(text) for text in texts]
    longest = max((len(each) for each in ids), default=0)
    if longest <= most:
        return ids
    if not truncate:
        raise PromptTooLongError(
            f"text {[len(each) for each in ids].index(longest)} is {longest} tokens long and the model embeds {most}",
            "Split it, or pass truncate=True to lose its end",
            param="texts",
        )
    special = encode("")
    tail = special[-1:] if special and encode("a")[-1] == special[-1] else []
    return [each if len(each) <= most else each[: most - len(tail)] + tail for each in ids]


def usable(device: str) -> str:
    """The device, once it has shown that it can hold a tensor."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        cause = str(error).partition("\n")[0].partition(". ")[0]
        raise VitralError(f"device {device!r:.40} cannot be used: {cause:.120}", "Use 'cpu'", param="device") from None
    return device
