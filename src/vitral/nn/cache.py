"""Keys and values that were computed before: preallocated, written in place, addressed by the step.

    B rows · K key-value heads · T new tokens · S slots · D head size

`KeyValue` is what one mixer holds: tensors and their mask kind. `Cache` is the host's side: how long each row is, where
the next tokens go, and the step that says so. A row's slots form a ring: the token at position p lives in slot p mod
capacity, so a sliding window keeps `size + chunk - 1` slots and a full cache simply never wraps. Padding is written
to a spare slot of its row that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitral.nn.mask import Given, Kind, additive, visible
from vitral.nn.step import Memory, Soft, Step, View


@dataclass(frozen=True, eq=False)
class KeyValue:
    """The keys and values of one attention layer, [B, K, S + 1, D] each; the last slot is the spare one."""

    kind: Kind
    k: Tensor
    v: Tensor

    def update(self, k: Tensor, v: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """Store the new k, v [B, K, T, D] where the view says; give back all that the queries may look at."""
        S = view.key_positions.shape[-1]
        for store, new in ((self.k, k), (self.v, v)):
            store[view.block, :, view.slots] = new.transpose(1, 2).to(store.dtype)  # [B, T, K, D]
        return self.k[:, :, :S].to(k.dtype), self.v[:, :, :S].to(v.dtype)

    def fill(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store all of k, v [B, K, S, D] at once (a memory, which comes whole), and give them back."""
        self.k[:, :, : k.shape[2]], self.v[:, :, : v.shape[2]] = k, v
        return self.held(k.dtype)

    def held(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """All that a filled cache holds."""
        return self.k[:, :, :-1].to(dtype), self.v[:, :, :-1].to(dtype)

    def rows(self, rows: Tensor) -> KeyValue:
        """A copy that holds the given rows, in that order."""
        return KeyValue(self.kind, self.k.index_select(0, rows), self.v.index_select(0, rows))

    def grown(self, slots: int) -> KeyValue:
        """The same with room for `slots`; itself where it has that."""
        held = self.k.shape[2] - 1
        if slots <= held:
            return self
        k, v = (t.new_zeros(*t.shape[:2], slots + 1, t.shape[3]) for t in (self.k, self.v))
        k[:, :, :held], v[:, :, :held] = self.k[:, :, :held], self.v[:, :, :held]
        return KeyValue(self.kind, k, v)


START = 256
"""Slots a cache begins with."""
Allocate = Callable[[Kind, int, int, int], KeyValue]
"""(kind, heads, key size, value size) → an empty cache: what a mixer is handed to make its own."""


class Cache:
    """The caches of B sequences that grow together, row by row at their own length.

    Args:
        new_cache: the model's `new_cache`, which lets every mixer choose its kind.
        kinds: the mask kinds the model uses.
        rows: B.
        length: most tokens a row will ever hold; memory is taken as it is needed, by doubling.
        chunk: most tokens that arrive in one step; a window's ring has room for them.
        memory: what the cross-attention layers read; the first step carries its states, later ones do without.
    """

    def __init__(
        self,
        new_cache: Callable[[Allocate], Any],
        kinds: Iterable[Kind],
        *,
        rows: int,
        length: int,
        chunk: int = 512,
        memory: Memory | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.memory = memory
        self.kinds = tuple(kinds)
        self.length = length
        self.chunk = min(chunk, length)
        self.dtype = dtype
        self.device = torch.device(device)
        self.lengths = [0] * rows
        self.peaks = [0] * rows  # the most each row has held: how much of a ring has been overwritten
        self.slots = {kind: min(self.capacity(kind), START) for kind in self.kinds}

        self.slots[Given()] = 0 if memory is None else memory.length

        def allocate(kind: Kind, heads: int, key_size: int, value_size: int) -> KeyValue:
            shape = (rows, heads, self.slots[kind] + 1)
            k, v = (torch.zeros(*shape, size, dtype=dtype, device=device) for size in (key_size, value_size))
            return KeyValue(kind, k, v)

        self.tree = new_cache(allocate)

    def extend(self, valid: Tensor | int, *, soft: Soft | None = None) -> Step:
        """The step for the next tokens, which count as held from now on.

        Args:
            valid: bool [B, T], False on padding (either side); or T when every token is real.
            soft: what stands where tokens would; a run of it must come whole (see `Soft.pieces`).
        """
        B = len(self.lengths)
        if isinstance(valid, int):
            valid = torch.ones(B, valid, dtype=torch.bool)
        T = valid.shape[1]
        held = torch.tensor(self.lengths)[:, None]
        counts = valid.sum(-1).tolist()
        if self.chunk < T or max(h + c for h, c in zip(self.lengths, counts, strict=True)) > self.length:
            raise ValueError(f"{T} tokens do not fit a cache of {self.length} taken in pieces of {self.chunk}")
        positions = (held + valid.cumsum(-1) - 1).clamp_min(0)  # [B, T]
        self.lengths = [h + c for h, c in zip(self.lengths, counts, strict=True)]
        self.peaks = [max(pair) for pair in zip(self.peaks, self.lengths, strict=True)]
        self._make_room()
        until = None if soft is None else soft.until(positions.to(soft.at.device))
        views = {kind.name: self._view(kind, positions, valid, until) for kind in self.kinds}
        positions, memory = positions.to(self.device), self.memory
        if memory is not None:
            self.memory = memory.stored()  # from the next step on the caches hold its keys and values
            memory = memory.at(positions, self.dtype)
        padded = None if bool(valid.all()) else valid.to(self.device)
        return Step(positions=positions, views=views, cache=self.tree, memory=memory, valid=padded, soft=soft)

    def capacity(self, kind: Kind) -> int:
        """Slots at which the ring of a kind wraps."""
        return kind.capacity(self.length, self.chunk)

    def _make_room(self) -> None:
        needed = {kind: min(self.capacity(kind), max(self.lengths)) for kind in self.kinds}
        if all(needed[kind] <= self.slots[kind] for kind in self.kinds):
            return
        for kind in self.kinds:
            if needed[kind] > self.slots[kind]:
                self.slots[kind] = min(self.capacity(kind), max(needed[kind], 2 * self.slots[kind]))
        self.tree = _map(self.tree, lambda cache: cache.grown(self.slots[cache.kind]))

    def _view(self, kind: Kind, positions: Tensor, valid: Tensor, until: Tensor | None = None) -> View:
        capacity = self.capacity(kind)
        newest = torch.tensor(self.lengths)[:, None] - 1  # [B, 1]
        slots = torch.arange(min(capacity, max(self.lengths)))[None]  # [1, S]
        keys = newest - (newest - slots) % capacity  # the newest position that lives in each slot; < 0: none yet
        until = None if until is None else until.to(positions.device)
        seen = visible(kind, positions[:, :, None], keys[:, None, :], until) & (keys >= 0)[:, None, :]
        mask = additive(seen, self.dtype)
        to = self.device
        return View(
            mask=None if mask is None else mask.to(to),
            key_positions=keys.to(to),
            block=torch.arange(len(positions), device=to)[:, None],
            slots=torch.where(valid, positions % capacity, self.slots[kind]).to(to),  # padding: the spare slot
        )

    def truncate(self, row: int, length: int) -> None:
        """Forget what row holds beyond `length` tokens. A window that has wrapped can go back `chunk` tokens from the
        most it has held, or to nothing."""
        if not 0 <= length <= self.lengths[row]:
            raise ValueError(f"row {row} holds {self.lengths[row]} tokens and cannot be cut to {length}")
        peak = self.peaks[row]
        for kind in self.kinds:
            if length and peak > self.capacity(kind) and peak - length > self.chunk:
                raise ValueError(
                    f"{kind.name} has overwritten what lay {peak - length} tokens back; at most {self.chunk} can go"
                )
        self.lengths[row] = length
        if not length:
            self.peaks[row] = 0

    def fork(self, rows: Sequence[int]) -> Cache:
        """A copy that holds the given rows, in that order (a row may be taken more than once)."""
        other = object.__new__(Cache)
        other.__dict__.update(self.__dict__)
        other.lengths = [self.lengths[row] for row in rows]
        other.peaks = [self.peaks[row] for row in rows]
        other.slots = dict(self.slots)
        index = torch.tensor(list(rows), device=self.device)
        other.memory = None if self.memory is None else self.memory.rows(index)
        other.tree = _map(self.tree, lambda cache: cache.rows(index))
        return other

    @property
    def bytes(self) -> int:
        """Memory the tensors take."""
        total = 0

        def add(cache: KeyValue) -> KeyValue:
            nonlocal total
            total += cache.k.nbytes + cache.v.nbytes
            return cache

        _map(self.tree, add)
        return total


def _map(tree: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(tree, dict):
        return {name: _map(branch, change) for name, branch in tree.items()}
    if isinstance(tree, list):
        return [_map(branch, change) for branch in tree]
    return None if tree is None else change(tree)
