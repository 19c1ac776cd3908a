"""Every row of the parity table through every check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.families.parity import TOLERANCE, Check, Reference
from tests.families.rows import ROWS

Make = Callable[[str], Reference]
CASES = [pytest.param(row.name, check, id=f"{row.name}-{check.__name__}") for row in ROWS for check in row.checks()]
every_row = pytest.mark.parametrize("name", [row.name for row in ROWS])


@pytest.mark.parametrize(("name", "check"), CASES)
def test_equals_transformers(reference: Make, name: str, check: Check) -> None:
    ref = reference(name)
    assert check(ref, ref.load()) <= TOLERANCE


@every_row
def test_written_again_it_is_the_same_file(reference: Make, name: str, tmp_path: Path) -> None:
    assert reference(name).round_trip(tmp_path) <= TOLERANCE
