"""What travels beside x through every forward: positions, views by mask kind, caches. Frozen; the caller owns it.

    B batch · T query length · S key length

No layer advances a position and nothing travels by globals or **kwargs: what a forward depends on is its two arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitral.nn.mask import Kind, additive, visible

Ready = tuple[Tensor, ...]
"""What a position part prepared once for the whole forward."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What one mask kind shows to the queries, and where their keys and values are stored.

    Args:
        mask: additive [B|1, 1, T, S], or None when every query sees every key.
        key_positions: [B|1, S]; negative where a slot holds nothing.
        block: cache row to write [B, T]; None without a cache.
        slots: slot to write within that row [B, T]; None without a cache.
        table: block table of a paged cache [B, n_blocks]; None when contiguous.
    """

    mask: Tensor | None
    key_positions: Tensor
    block: Tensor | None = None
    slots: Tensor | None = None
    table: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What cross-attention reads: the states of an encoder, and who may see which of them.

    Args:
        states: [B, S, d]; None once the caches hold its keys and values.
        length: S.
        valid: bool [B, S], False on padding; None when there is none.
        sees: bool [B, P, S]: may the query at that position see that state? The last row holds for all later
            positions. None when every query sees all that is valid.
        mask: additive [B, 1, T|1, S], made by `at` for the queries of one step; None when all is seen.
        seen: bool [B, T, 1], False for a query that sees nothing at all; None when there is no such query.
    """

    states: Tensor | None
    length: int
    valid: Tensor | None = None
    sees: Tensor | None = None
    mask: Tensor | None = None
    seen: Tensor | None = None

    @classmethod
    def of(cls, states: Tensor, valid: Tensor | None = None, sees: Tensor | None = None) -> Memory:
        """The memory of states [B, S, d]."""
        return cls(states=states, length=states.shape[1], valid=valid, sees=sees)

    def at(self, positions: Tensor, dtype: torch.dtype) -> Memory:
        """This memory as the queries at positions [B|1, T] see it."""
        if self.sees is None and self.valid is None:
            return self
        if self.sees is None:
            assert self.valid is not None
            return replace(self, mask=additive(self.valid[:, None, :], dtype))
        rows = torch.arange(len(self.sees), device=self.sees.device)[:, None]
        seen = self.sees[rows, positions.clamp_max(self.sees.shape[1] - 1).to(self.sees.device)]  # [B, T, S]
        if self.valid is not None:
            seen = seen & self.valid[:, None, :]
        any_seen = seen.any(-1, keepdim=True)
        # A query that sees nothing attends to all, as it was trained to; its layer drops what comes of that.
        return replace(self, mask=additive(seen | ~any_seen, dtype), seen=None if bool(any_seen.all()) else any_seen)

    def stored(self) -> Memory:
        """The same without its states, for a step whose caches hold them."""
        return replace(self, states=None)

    def rows(self, index: Tensor) -> Memory:
        """The memory of the given rows, in that order."""
        states, valid, sees = (
            None if each is None else each.index_select(0, index) for each in (self.states, self.valid, self.sees)
        )
        return replace(self, states=states, valid=valid, sees=sees)


@dataclass(frozen=True, kw_only=True)
class Soft:
    """Vectors that stand where tokens would: what a picture was made into.

    Args:
        at: bool [B, T], True where one stands.
        vectors: [B, T, d]; anything where none does.
        together: those in a row see each other, whatever the mask kind.
    """

    at: Tensor
    vectors: Tensor
    together: bool = False

    @classmethod
    def of(cls, at: Tensor, vectors: Tensor, *, together: bool = False) -> Soft:
        """The vectors [n, d] at the n places [B, T] that are True, row by row."""
        if int(at.sum()) != len(vectors):
            raise ValueError(f"{len(vectors)} vectors are to stand in {int(at.sum())} places")
        dense = vectors.new_zeros(*at.shape, vectors.shape[-1])
        dense[at] = vectors
        return cls(at=at, vectors=dense, together=together)

    def into(self, x: Tensor) -> Tensor:
        """Embedded tokens [B, T, d] with the vectors in their places."""
        return torch.where(self.at[..., None], self.vectors.to(x.dtype), x)

    def until(self, positions: Tensor) -> Tensor | None:
        """The furthest position [B, T, 1] that each token sees: the end of its run, its own outside of one."""
        if not self.together:
            return None
        goes_on = self.at & F.pad(self.at, (0, 1))[:, 1:]
        T = self.at.shape[1]
        ends = torch.arange(T, device=self.at.device).masked_fill(goes_on, T)
        ends = ends.flip(-1).cummin(-1).values.flip(-1)
        return positions.expand(self.at.shape).gather(1, ends.to(positions.device))[..., None]

    def piece(self, start: int, stop: int) -> Soft:
        """Those among the tokens start to stop - 1."""
        return replace(self, at=self.at[:, start:stop], vectors=self.vectors[:, start:stop])

    def pieces(self, most: int) -> list[tuple[int, int]]:
        """Where [B, T] may be cut for a cache that takes `most` tokens at a time: never within a run (ValueError where
        one is longer)."""
        goes_on = (self.at & F.pad(self.at, (0, 1))[:, 1:]).any(0).tolist()  # may not be cut after this token
        cuts, start = [], 0
        while start < len(goes_on):
            stop = min(start + most, len(goes_on))
            while stop > start and goes_on[stop - 1]:
                stop -= 1
            if stop == start:
                raise ValueError(f"the run of vectors at token {start} does not fit a cache taken in pieces of {most}")
            cuts.append((start, stop))
            start = stop
        return cuts


@dataclass(frozen=True, kw_only=True)
class Step:
    """One forward's surroundings.

    Args:
        positions: [B|1, T] of the tokens in x.
        views: mask kind's name → view.
        cache: the tree of caches at this depth (list by layer → dict by sublayer → cache), or None.
        memory: what cross-attention reads, made for these queries; None where there is none.
        ready: prepared position parts, filled in by the stack.
        valid: bool [B, T], False on padding in x; None when there is none.
        soft: what stands where tokens would; None where nothing does.
    """

    positions: Tensor
    views: Mapping[str, View]
    cache: Any = None
    memory: Memory | None = None
    valid: Tensor | None = None
    soft: Soft | None = None
    ready: Mapping[str, Ready] = field(default_factory=dict)

    def at(self, key: int | str) -> Step:
        """The step as seen one level down: the same, with that branch's cache."""
        return self if self.cache is None else replace(self, cache=self.cache[key])

    def view(self, kind: Kind) -> View:
        """The view of a mask kind; a missing one is an error of whoever built the step."""
        try:
            return self.views[kind.name]
        except KeyError:
            raise KeyError(f"the step has no view for mask kind {kind.name!r}, only {sorted(self.views)}") from None


def full_step(
    kinds: Iterable[Kind],
    length: int,
    *,
    valid: Tensor | None = None,
    documents: Tensor | None = None,
    positions: Tensor | None = None,
    memory: Memory | None = None,
    soft: Soft | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Step:
    """The step of a whole pass without a cache (training, scoring, encoding).

    Args:
        length: T.
        valid: bool [B, T], False on padding. Positions count valid tokens only, so a row gives the same whichever side
            its padding is on.
        documents: [B, T] document number of each packed token; tokens see only their own document.
        positions: [B|1, T] to use instead of counting from 0.
        memory: what cross-attention reads.
        soft: what stands where tokens would.
    """
    if valid is not None and bool(valid.all()):
        valid = None
    if positions is None:
        positions = torch.arange(length, device=device)[None]
        if valid is not None:
            positions = (valid.cumsum(-1) - 1).clamp_min(0)
    keys = positions if valid is None else positions.masked_fill(~valid, -1)
    views, until = {}, None if soft is None else soft.until(positions)
    for kind in kinds:
        seen = visible(kind, positions[:, :, None], keys[:, None, :], until) & (keys >= 0)[:, None, :]
        if documents is not None:
            seen = seen & (documents[:, :, None] == documents[:, None, :])
        views[kind.name] = View(mask=additive(seen, dtype), key_positions=keys)
    memory = None if memory is None else memory.at(positions, dtype)
    return Step(positions=positions, views=views, memory=memory, valid=valid, soft=soft)
