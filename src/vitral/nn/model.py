"""The whole forward, for training, serving and looking: ids → embed → stack → head → logits.

B batch · T length · V vocabulary · d width
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitral.nn.cache import Cache
from vitral.nn.embed import Embed
from vitral.nn.head import Head, Pooler
from vitral.nn.stack import Stack
from vitral.nn.step import Step, full_step


class Model(nn.Module):
    """A model of one stack: a decoder, or an encoder.

    Args:
        context: most tokens it was made for.
        head: to logits; None for a model that ends in hidden states.
        pooler: to one vector a text; `classifier` reads it.
    """

    def __init__(
        self,
        *,
        embed: Embed,
        stack: Stack,
        context: int,
        head: Head | None = None,
        pooler: Pooler | None = None,
        classifier: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.context = context
        self.embed = embed
        self.stack = stack
        self.head = head
        self.pooler = pooler
        self.classifier = classifier

    def forward(self, input_ids: Tensor, step: Step | None = None, *, segments: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] for ids [B, T]; hidden states [B, T, d] where there is no head.

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

    def step(self, input_ids: Tensor, valid: Tensor | None = None, **options: Tensor) -> Step:
        """The step of a whole pass over ids [B, T]; `valid` [B, T] is False on padding. See `full_step`."""
        return full_step(
            self.stack.kinds, input_ids.shape[1], valid=valid, dtype=self.dtype, device=input_ids.device, **options
        )

    def new_cache(self, rows: int, length: int, *, chunk: int = 512, dtype: torch.dtype | None = None) -> Cache:
        """An empty cache for `rows` sequences of at most `length` tokens, fed at most `chunk` at a time."""
        return Cache(
            self.stack.new_cache,
            self.stack.kinds,
            rows=rows,
            length=length,
            chunk=chunk,
            dtype=dtype or self.dtype,
            device=next(self.parameters()).device,
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the residual stream."""
        return self.embed.tokens.weight.dtype

    @property
    def generates(self) -> bool:
        """Whether it can continue a text: it has a head and no token sees a later one."""
        return self.head is not None and all(kind.causal for kind in self.stack.kinds)
