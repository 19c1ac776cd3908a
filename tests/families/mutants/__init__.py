"""Known bugs to put back in, one by one, gathered from the modules here: the parity checks must see every one of them.

A check that cannot fail proves nothing. Each mutant names the pitfall it stands for (a mistake that a published system
has made), the row and the check that must find it. Found means: ten times beyond the tolerance, or refused on loading.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from tests.families.parity import TOLERANCE, Check, Reference, whole_pass
from tests.families.rows import BY_NAME, ROWS
from vitral.errors import CheckpointError

Patch = pytest.MonkeyPatch
FOUND = 10 * TOLERANCE
"""A deviation beyond this finds a mutant."""


@dataclass(frozen=True)
class Mutant:
    """A bug (`sow` puts it into our code before loading, `graft` into the loaded model) and where it must show.

    `pitfall` numbers the kind of mistake: 1, 2 positions · 3-6 scalings of rotary · 7, 8 windows · 9-12 scales, caps,
    norms · 13 activations · 14 eps · 15, 16 routing · 17 ties · 18 special tokens · 19 padding · 20 caches ·
    21 slices · 22 names, biases and order · 23 overflow · 24 head sizes · 25 packing.
    """

    pitfall: int
    name: str
    row: str
    check: Check = whole_pass
    sow: Callable[[Patch], None] | None = None
    graft: Callable[[Any], None] | None = None

    def __str__(self) -> str:
        return f"{self.pitfall:02}-{self.name}-{self.row}"

    def deviation(self, ref: Reference) -> float:
        """How far the mutant is from the reference; infinite where it is refused on loading."""
        with Patch().context() as patch:
            if self.sow:
                self.sow(patch)
            try:
                ours = ref.load()
                if self.graft:
                    self.graft(ours)
                return self.check(ref, ours)
            except CheckpointError:
                return float("inf")

    def caught(self, ref: Reference) -> bool:
        return self.deviation(ref) > FOUND


@cache
def gather() -> tuple[Mutant, ...]:
    """All mutants; the modules that hold them import this one. A family that has none of its own gets the general ones
    on its first row.
    """
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    own = tuple(mutant for module in modules for mutant in getattr(module, "MUTANTS", ()))
    general = importlib.import_module(f"{__name__}.general").general
    tried = {family for mutant in own for family in BY_NAME[mutant.row].families}
    first = {family: row.name for row in reversed(ROWS) for family in row.families if family not in tried}
    return own + tuple(mutant for row in dict.fromkeys(first.values()) for mutant in general(row))
