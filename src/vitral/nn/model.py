"""The whole forward, for training, serving and looking: ids → embed → stack → head → logits.

B batch · T length · V vocabulary · d width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitral.nn.cache import Cache
from vitral.nn.head import Head
from vitral.nn.stack import Stack
from vitral.nn.step import Memory, Soft, Step, full_step


class Model(nn.Module):
    """A decoder, an encoder, or a decoder that reads an encoder.

        input_ids ─▶ embed ─▶ stack ─▶ head ─▶ logits
                                ▲ memory
        encoder inputs ─▶ encoder ┘

    Args:
        embed: inputs → [B, T, d]: ids by `Embed`, or pixels by a part with the same three faces (call, `dtype`,
            `length`).
        context: most tokens it was made for.
        head: to logits; None for a model that ends in hidden states.
        pooler: to one vector a text; `classifier` reads it.
        score: to one number a token [B, T, 1]: a value head, or, read at the last token, a reward head.
        encoder: the model whose hidden states are the memory that cross-attention here reads.
        vision: what makes vectors of pictures: soft tokens (see `show`), or a memory (see `vitral.nn.tiles`).
        drafts: parts that guess tokens further ahead (see `vitral.nn.draft`).
    """

    def __init__(
        self,
        *,
        embed: Any,
        stack: Stack,
        context: int,
        head: Head | None = None,
        pooler: nn.Module | None = None,
        classifier: nn.Module | None = None,
        score: nn.Module | None = None,
        encoder: Model | None = None,
        vision: Any = None,
        drafts: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.context = context
        self.embed = embed
        self.stack = stack
        self.head = head
        self.pooler = pooler
        self.classifier = classifier
        self.score = score
        self.encoder = encoder
        self.vision = vision
        self.drafts = nn.ModuleList(drafts)

    def forward(self, input_ids: Tensor, step: Step | None = None, *, segments: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] for ids [B, T]; hidden states [B, T, d] where there is no head.

        Where there is an encoder these are the decoder's ids, and the step brings the memory (see `remember`).

        Args:
            step: positions, views and caches; None is a whole pass without padding.
            segments: [B, T] segment ids, for models that have them.
        """
        hidden = self.hidden(input_ids, step, segments=segments)
        return hidden if self.head is None else self.head(hidden)

    def hidden(self, input_ids: Tensor, step: Step | None = None, *, segments: Tensor | None = None) -> Tensor:
        """Hidden states [B, T, d] after the last norm."""
        if step is None:
            step = self.step(input_ids)
        return self.stack(self.embed(input_ids, step, segments), step)

    def step(self, input_ids: Tensor, valid: Tensor | None = None, **options: Any) -> Step:
        """The step of a whole pass over ids [B, T]; `valid` [B, T] is False on padding. See `full_step`."""
        length, device = self.embed.length(input_ids), input_ids.device
        return full_step(self.stack.kinds, length, valid=valid, dtype=self.dtype, device=device, **options)

    def remember(self, inputs: Tensor, valid: Tensor | None = None) -> Memory:
        """What the encoder makes of its inputs (ids [B, S], or pixels): the memory that the decoder's steps carry."""
        if self.encoder is None:
            raise ValueError("this model has no encoder")
        return Memory.of(self.encoder(inputs, self.encoder.step(inputs, valid)), valid)

    def show(self, input_ids: Tensor, pixels: Tensor) -> Soft:
        """Pictures [I, C, H, W] in the places that ids [B, T] keep for them, in their order: `step(…, soft=…)`."""
        if self.vision is None:
            raise ValueError("this model sees no pictures")
        return self.vision.soft(input_ids, pixels)

    def new_cache(
        self,
        rows: int,
        length: int,
        *,
        chunk: int = 512,
        memory: Memory | None = None,
        dtype: torch.dtype | None = None,
    ) -> Cache:
        """An empty cache for `rows` sequences of at most `length` tokens, fed at most `chunk` at a time."""
        return Cache(
            self.stack.new_cache,
            self.stack.kinds,
            rows=rows,
            length=length,
            chunk=chunk,
            memory=memory,
            dtype=dtype or self.dtype,
            device=next(self.parameters()).device,
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the residual stream."""
        return self.embed.dtype

    @property
    def generates(self) -> bool:
        """Whether it can continue a text: it has a head and no token sees a later one."""
        return self.head is not None and all(kind.causal for kind in self.stack.kinds)
