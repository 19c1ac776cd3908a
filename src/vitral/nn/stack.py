"""The stack of blocks and the position parts they share.

B batch · T length · d width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vitral.nn.attention import Mixer, ready_key
from vitral.nn.cache import Allocate
from vitral.nn.mask import Given, Kind
from vitral.nn.position import Position
from vitral.nn.step import Ready, Step


class Stack(Mixer):
    """x [B, T, d] through the blocks, then the last norm.

    The list is explicit: one block a layer, and a block that stands in it twice is run twice (with its own cache each
    time). Position parts that layers share get one name here, `shared.0`, and are prepared once per forward.
    """

    def __init__(self, blocks: Sequence[Mixer], *, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm or nn.Identity()
        self.uses: list[tuple[Position, Kind]] = []
        shared: list[Position] = []
        for module in self.blocks.modules():
            position, kind = getattr(module, "position", None), getattr(module, "kind", None)
            if isinstance(kind, Given):
                continue
            if isinstance(position, Position) and isinstance(kind, Kind) and not position.per_layer:
                if all(position is not p for p in shared):
                    shared.append(position)
                if all(position is not p or kind != k for p, k in self.uses):
                    self.uses.append((position, kind))
        self.shared = nn.ModuleList(shared)
        found = (getattr(module, "kind", None) for module in self.blocks.modules())
        kinds = dict.fromkeys(kind for kind in found if isinstance(kind, Kind) and not isinstance(kind, Given))
        self.kinds = tuple(kinds)
        """The mask kinds in use, each once, in the order of the layers; a memory's view comes with the memory."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        step = replace(step, ready=self.prepare(step))
        for depth, block in enumerate(self.blocks):
            x = block(x, step.at(depth))
        return self.norm(x)

    def prepare(self, step: Step) -> dict[str, Ready]:
        """Every shared position part, made ready for each mask kind it is used under."""
        return {
            ready_key(position, kind): position.prepare(step.positions, step.view(kind).key_positions)
            for position, kind in self.uses
        }

    def new_cache(self, allocate: Allocate) -> Any:
        return [block.new_cache(allocate) for block in self.blocks]  # type: ignore[operator]
