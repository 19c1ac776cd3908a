"""Pictures cut into tiles, and the layers of a text model that look at them (arXiv:2407.21783 §7).

B batch · I pictures · M tiles, room for the most · N patches of a tile and its class token · d width

    pixels [B, I, M, C, H, W] ─ patches (+ tile) ─ class (+ grid, + tile's grid) ─ norm ─ local blocks ─ norm (+ tile)
                                                             │ states on the way                       │
                                                             └───────────────┐                  global blocks
                                                                             └─▶ side by side ◀────────┘
                                                                                 proj ─▶ memory [B, I·M·N, d_model]

Everything that the pictures add passes a gate tanh(g), and g starts at 0: the text model is what it was before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitral.nn.block import Block
from vitral.nn.embed import Table
from vitral.nn.ffn import Gated
from vitral.nn.mask import Full, additive
from vitral.nn.stack import Stack
from vitral.nn.step import Memory, Step, View
from vitral.nn.vision import ClassToken


class Gate(nn.Module):
    """tanh(weight) · x, with one learned weight (arXiv:2204.14198 §2.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.tanh() * x


class TileVector(nn.Module):
    """x [R, M, N, d] plus a gated vector for each tile of each shape that pictures are cut into.

    Args:
        shapes: how many ways there are to cut a picture; number 0 is no picture.
    """

    def __init__(self, *, shapes: int, tiles: int, d: int) -> None:
        super().__init__()
        self.tiles = tiles
        self.table = Table(shapes + 1, tiles * d)
        self.gate = Gate()

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        """With the number [R] of each picture's shape."""
        return x + self.gate(self.table(shape).unflatten(-1, (self.tiles, 1, -1)))


class TileGrid(nn.Module):
    """x [R, M, N, d] plus a vector a place: (1 - t) of one that all tiles share, t = tanh(g) of each tile's own."""

    def __init__(self, *, shapes: int, tiles: int, n: int, d: int) -> None:
        super().__init__()
        self.places = (tiles, n, d)
        self.table = Table(n, d)
        self.own = Table(shapes + 1, tiles * n * d)
        self.gate = Gate()

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        shared = self.table(torch.arange(self.places[1], device=shape.device))
        own = self.own(shape).unflatten(-1, self.places)
        return x + (1 - self.gate.weight.tanh()) * shared + self.gate(own)


class TiledTower(nn.Module):
    """An image tower over the tiles of pictures, which see each other: pixels → a memory.

    Args:
        patch: pixels along the side of a patch.
        before, after: what tells the tiles apart before the first block and between the two stacks.
        local, whole: the two stacks.
        kept: depths of `local` whose input is kept beside the final states, their numbers interleaved.
        proj: from all that to the width of the text model.
    """

    multiple = 8
    """Vectors of zeros are put behind each tile's until their number is a multiple of this. They are seen."""

    def __init__(
        self,
        *,
        patch: int,
        channels: int,
        d: int,
        before: TileVector,
        positions: TileGrid,
        norm: nn.Module,
        local: Stack,
        after: TileVector,
        whole: Stack,
        kept: Sequence[int],
        proj: nn.Module,
    ) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(channels, d, kernel_size=patch, stride=patch, bias=False)
        self.token = ClassToken(d)
        self.before = before
        self.positions = positions
        self.norm = norm
        self.local = local
        self.after = after
        self.whole = whole
        self.kept = tuple(kept)
        self.proj = proj

    def forward(self, pixels: Tensor, shape: Tensor, tiles: Tensor) -> Tensor:
        """States [B, I·M·N, d_model].

        Args:
            pixels: [B, I, M, C, H, W].
            shape: [B, I], the number of the way each picture was cut, from 1; 0 is no picture.
            tiles: bool [B, I, M], True where there is a tile.
        """
        B, I, M = tiles.shape  # noqa: E741
        shape = shape.flatten()
        x = self.proj_in(pixels.flatten(0, 2).to(self.proj_in.weight.dtype)).flatten(2).transpose(1, 2)
        x = self.before(x.unflatten(0, (B * I, M)), shape)
        x = self.token(x.flatten(0, 1)).unflatten(0, (B * I, M))  # [B·I, M, N, d]
        x = self.norm(self.positions(x, shape))
        N, spare = x.shape[2], -x.shape[2] % self.multiple
        x = F.pad(x, (0, 0, 0, spare)).flatten(1, 2)
        step = self.step(tiles.flatten(0, 1), N, spare, x.dtype)
        kept = []
        for depth, block in enumerate(self.local.blocks):
            if depth in self.kept:
                kept.append(x)
            x = block(x, step)
        x = self.local.norm(x).unflatten(1, (M, N + spare))
        x = self.whole(self.after(x, shape).flatten(1, 2), step)
        x = torch.cat((x, torch.stack(kept, -1).flatten(-2)), -1) if kept else x
        x = x.unflatten(1, (M, N + spare))[:, :, :N]
        return self.proj(x).reshape(B, I * M * N, -1)

    def step(self, tiles: Tensor, n: int, spare: int, dtype: torch.dtype) -> Step:
        """Everything sees everything, but what is empty (tiles [R, M] that are not there, and the spare vectors) does
        not see what is empty: so the published models were trained.
        """
        empty = F.pad(~tiles[:, :, None].expand(-1, -1, n), (0, spare), value=True).flatten(1)
        positions = torch.arange(empty.shape[1], device=tiles.device)[None]
        seen = ~(empty[:, :, None] & empty[:, None, :])
        view = View(mask=additive(seen, dtype), key_positions=positions)
        return Step(positions=positions, views={Full().name: view})

    def memory(self, pixels: Tensor, shape: Tensor, tiles: Tensor, looks: Tensor | None = None) -> Memory:
        """What the text model's layers read. `looks` bool [B, P, I, M]: does the token at that position look at that
        tile? None lets all tokens look at everything.
        """
        states = self(pixels, shape, tiles)
        if looks is None:
            return Memory.of(states)
        each = states.shape[1] // (looks.shape[2] * looks.shape[3])
        return Memory.of(states, sees=looks.flatten(2).repeat_interleave(each, -1))


def looking(ids: Tensor, token: int, tiles: Tensor) -> Tensor:
    """Which tiles each token of a text looks at: those of the last picture before it, bool [B, P, I, M].

    Pictures that follow one another directly are looked at together. Nothing is looked at before the first.

    Args:
        ids: [B, P], with the token `token` where a picture stands.
        tiles: bool [B, I, M], True where there is a tile.
    """
    looks = torch.zeros(*ids.shape, *tiles.shape[1:], dtype=torch.bool, device=tiles.device)
    for row, text in enumerate((ids == token).tolist()):
        places = [place for place, here in enumerate(text) if here]
        end = len(text)
        for picture, place in reversed(list(enumerate(places))):
            later = places[picture + 1] if picture + 1 < len(places) else len(text)
            end = end if later == place + 1 else later
            looks[row, place:end, picture] = tiles[row, picture]
    return looks


class Looking(Block):
    """A block that looks at a memory, and lets everything pass where there is none."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return x if step.memory is None else super().forward(x, step)


class GatedLooking(Gated):
    """A gated FFN that says nothing about tokens that look at nothing."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        y = super().forward(x, step)
        memory = step.memory
        return y if memory is None or memory.seen is None else y * memory.seen.to(y.dtype)
