"""A certificate: what was computed, what was published, how far apart they are, and which sown bugs were found.

Deviations are numbers, or None where there is no finite one: NaN, infinity, a refusal, or a check that broke (its
`fault` says how). None never passes for a check, and counts as found for a mutant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

FORMAT = 1
"""Of the JSON; it changes whenever a field changes its meaning."""
PITFALLS = {
    **dict.fromkeys((1, 2), "rotary positions"),
    **dict.fromkeys((3, 4, 5, 6), "scaled rotary positions"),
    **dict.fromkeys((7, 8), "windows"),
    **dict.fromkeys((9, 10, 11, 12), "scales, caps and norms"),
    13: "activations",
    14: "eps",
    **dict.fromkeys((15, 16), "routing"),
    17: "ties",
    18: "special tokens",
    19: "padding",
    20: "caches",
    21: "counts",
    22: "names, biases and order",
    23: "overflow",
    24: "head sizes",
    25: "packing",
}
"""The kinds of mistake that mutants stand for (tests/families/mutants)."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A preset's parameter count beside the expected and the published one (see tests/families/published.py)."""

    preset: str
    total: int
    active: int
    expected: int
    expected_active: int
    published: int | None
    published_active: int | None
    note: str
    closes: bool

    def faults(self) -> Iterator[str]:
        if not self.closes:
            yield f"preset {self.preset}: {self.total:,} parameters, expected {self.expected:,}"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One check of one row: the largest deviation from the reference, and the most that it may be."""

    check: str
    deviation: float | None
    allowed: float
    fault: str = ""

    @property
    def passed(self) -> bool:
        return not self.fault and self.deviation is not None and self.deviation <= self.allowed


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One mutant: a bug put back in, and how far it threw the answer off."""

    pitfall: int
    name: str
    row: str
    check: str
    deviation: float | None
    caught: bool
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """One row of the parity table: its checks, its mutants, and the largest |Δ| after each block of the stack.

    `blocks` is empty where the reference does not show its hidden states.
    """

    row: str
    families: tuple[str, ...]
    reference: str
    checks: tuple[Checked, ...]
    blocks: tuple[float, ...]
    mutants: tuple[Tried, ...]
    seconds: float

    def faults(self) -> Iterator[str]:
        for each in self.checks:
            if not each.passed:
                found = each.fault or f"|Δ| {shown(each.deviation)}, allowed {each.allowed:g}"
                yield f"{self.row}, {each.check}: {found}"
        for mutant in self.mutants:
            if not mutant.caught:
                found = mutant.fault or f"|Δ| {shown(mutant.deviation)}"
                yield f"{self.row}, mutant {mutant.name} not caught: {found}"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the numbers were computed with."""

    vitral: str
    torch: str
    transformers: str
    python: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """All that was tried on one family.

    Args:
        digest: of the family's code (vitral.families.common.certificates).
        date: of the day, ISO.
        seconds: of one core, all its rows together.
        quick: only a part of what there is was tried.
        meanings: what each check compares, in a line.
    """

    family: str
    digest: str
    date: str
    seconds: float
    quick: bool
    machine: Machine
    meanings: Mapping[str, str]
    sizes: tuple[Size, ...]
    rows: tuple[RowResult, ...]

    @property
    def passed(self) -> bool:
        return not self.faults()

    def faults(self) -> list[str]:
        """What failed, a line each; a family that nothing was tried on fails too."""
        found = [fault for size in self.sizes for fault in size.faults()]
        found += [fault for row in self.rows for fault in row.faults()]
        if not self.rows:
            found.append("no row of the parity table speaks for it")
        elif not self.mutants:
            found.append("no mutant was tried on its rows")
        return found

    @property
    def mutants(self) -> list[Tried]:
        return [mutant for row in self.rows for mutant in row.mutants]

    @property
    def caught(self) -> int:
        return sum(mutant.caught for mutant in self.mutants)

    @property
    def worst(self) -> float | None:
        """The largest deviation of any check; None where one has none."""
        return largest(each.deviation for row in self.rows for each in row.checks)

    @property
    def references(self) -> list[str]:
        return sorted({row.reference for row in self.rows})

    def summary(self) -> dict[str, Any]:
        """What travels with the package."""
        tried = [self.caught, len(self.mutants)]
        facts = {"passed": self.passed, "worst": self.worst, "mutants": tried}
        return {**facts, "digest": self.digest, "date": self.date}

    def to_json(self) -> dict[str, Any]:
        head = {"format": FORMAT, "family": self.family, "passed": self.passed, "faults": self.faults()}
        return {**head, **asdict(self)}


def from_json(data: Mapping[str, Any]) -> Certificate:
    """The certificate that `to_json` wrote; ValueError for another format."""
    if data.get("format") != FORMAT:
        raise ValueError(f"certificate format {data.get('format')!r}, and this code reads {FORMAT}")
    rows = [
        RowResult(
            **{
                **row,
                "families": tuple(row["families"]),
                "checks": tuple(Checked(**each) for each in row["checks"]),
                "blocks": tuple(row["blocks"]),
                "mutants": tuple(Tried(**each) for each in row["mutants"]),
            }
        )
        for row in data["rows"]
    ]
    own = {field.name: data[field.name] for field in fields(Certificate)}
    parts = {"machine": Machine(**data["machine"]), "sizes": tuple(Size(**each) for each in data["sizes"])}
    return Certificate(**{**own, **parts, "rows": tuple(rows)})


def dumps(value: Any, indent: int | None = 1) -> str:
    """JSON that is JSON: no NaN, no Infinity."""
    return json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)


def largest(deviations: Iterable[float | None]) -> float | None:
    """The largest of them; None where one is not a number."""
    found = list(deviations)
    numbers = [each for each in found if each is not None]
    return max(numbers, default=None) if len(numbers) == len(found) else None


def shown(deviation: float | None) -> str:
    """3.2e-06; "0"; "not finite"."""
    return "not finite" if deviation is None else f"{deviation:.1e}" if deviation else "0"
