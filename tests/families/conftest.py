"""The references of the parity table, each made once for the whole session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from tests.families.parity import Reference
from tests.families.rows import BY_NAME


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """row name → its reference."""

    @cache
    def make(name: str) -> Reference:
        return BY_NAME[name].real(tmp_path_factory.mktemp(name))

    return make
