"""Mutants of any decoder, for a family whose rows have none of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.families.mutants import Mutant


def scores_doubled(ours: Any) -> None:
    for module in ours.modules():
        if isinstance(getattr(module, "scale", None), float):
            module.scale *= 2


def last_norm_left_out(ours: Any) -> None:
    ours.stack.norm = nn.Identity()


def keys_for_queries(ours: Any) -> None:
    """The first heads ask with the keys' matrix."""
    attention = ours.stack.blocks[0].attn.mixer
    with torch.no_grad():
        attention.q.weight[: len(attention.k.weight)] = attention.k.weight


def half_left_out(ours: Any) -> None:
    """Every second block passes on what it was given."""
    for block in ours.stack.blocks[1::2]:
        block.forward = lambda x, step: x


def general(row: str) -> tuple[Mutant, ...]:
    """What any comparison of a decoder must see."""
    return (
        Mutant(9, "scores-doubled", row, graft=scores_doubled),
        Mutant(22, "last-norm-left-out", row, graft=last_norm_left_out),
        Mutant(22, "keys-for-queries", row, graft=keys_for_queries),
        Mutant(21, "half-the-blocks-left-out", row, graft=half_left_out),
    )
