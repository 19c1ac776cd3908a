"""What the rows of a batch start from: ids for a decoder, with pictures perhaps; for an encoder–decoder what the
encoder made of the ids.

    decoder            ids ─────────────────────────────▶ prompts
    encoder–decoder    ids ─▶ encoder ─▶ memory    first ─▶ prompts
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitral.errors import PromptTooLongError, VitralError
from vitral.nn import Memory, Model


@dataclass(frozen=True, kw_only=True)
class Start:
    """The first ids of every row, and what goes with them.

    Args:
        memory: what all steps of these rows read, where cross-attention reads something.
        pixels: [I, C, H, W], pictures for the places that the ids keep for them, row by row.
    """

    prompts: Sequence[Sequence[int]]
    memory: Memory | None = None
    pixels: Tensor | None = None


def start(model: Model, texts: Sequence[Sequence[int]], first: Sequence[int]) -> Start:
    """The start of a batch: an encoder reads the texts and the decoder begins with `first`; a decoder begins with the
    texts.

    Raises:
        PromptTooLongError: a text beyond the encoder's context, with both lengths.
    """
    encoder = model.encoder
    if encoder is None:
        return Start(prompts=texts)
    longest = max(len(text) for text in texts)
    if longest > encoder.context:
        raise PromptTooLongError(
            f"the text is {longest} tokens long and the encoder reads {encoder.context}",
            "Shorten it; nothing is cut silently",
            param="prompt",
        )
    if not all(texts):
        raise VitralError("the prompt is empty", "Give at least one token", param="prompt")
    if not first:
        raise VitralError(
            "the model's config names no decoder_start_token_id, so its decoder has nothing to begin with",
            "Add it to config.json",
        )
    device = next(model.parameters()).device
    ids, valid = padded(texts, device)
    with torch.inference_mode():
        memory = model.remember(ids, None if bool(valid.all()) else valid)
    return Start(prompts=[first] * len(texts), memory=memory)


def padded(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids [B, T], padded on the right, and which of them are real."""
    longest = max(len(text) for text in texts)
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=device)
    return ids, torch.tensor([[i < len(text) for i in range(longest)] for text in texts], device=device)
