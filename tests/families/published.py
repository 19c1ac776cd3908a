"""What was published about the size of each preset, and whether ours closes with it.

published_counts.json holds for every preset: `count` (and `active`), what the architecture has, derived apart from our
code (by the class of transformers on the meta device, or by hand); `published` (and `published_active`), the figure
printed by its authors; and a `note` on what the two do not share.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vitral.families import spec

COUNTS: dict[str, dict[str, dict[str, Any]]] = json.loads(
    Path(__file__).with_name("published_counts.json").read_text("utf-8")
)


@dataclass(frozen=True, kw_only=True)
class Closing:
    """Our count of a preset beside the expected and the published one; `note` names a known discrepancy."""

    total: int
    active: int
    expected: int
    expected_active: int
    published: int | None
    published_active: int | None
    note: str

    @property
    def closes(self) -> bool:
        """Ours is the expected number exactly, and rounds to the published one unless a note says why not."""
        exact = (self.total, self.active) == (self.expected, self.expected_active)
        return exact and (self.rounds or bool(self.note))

    @property
    def rounds(self) -> bool:
        """Ours rounds to what was published; so it does where nothing was."""
        return _rounds(self.total, self.published) and _rounds(self.active, self.published_active)


@cache
def closing(name: str, preset: str) -> Closing:
    """Count a preset (on the meta device) and look up what was published."""
    found, row = spec(f"{name}/{preset}").count(), COUNTS[name][preset]
    return Closing(
        total=found.total,
        active=found.active,
        expected=row["count"],
        expected_active=row.get("active", row["count"]),
        published=row.get("published"),
        published_active=row.get("published_active"),
        note=row.get("note", ""),
    )


def _rounds(count: int, published: int | None) -> bool:
    """Within one unit of the last digit that was printed (trailing zeros are taken for rounding)."""
    if not published:
        return True
    digits = len(str(published)) - len(str(published).rstrip("0"))
    return abs(count - published) <= 10**digits
