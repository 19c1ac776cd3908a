"""Every mutant is caught (see `tests/families/mutants`)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.families.mutants import Mutant, gather
from tests.families.parity import Reference


@pytest.mark.parametrize("mutant", gather(), ids=str)
def test_the_harness_sees(reference: Callable[[str], Reference], mutant: Mutant) -> None:
    assert mutant.caught(reference(mutant.row))
