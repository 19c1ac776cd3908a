"""Every published preset has exactly as many parameters as the published model (see `published.py`)."""

from __future__ import annotations

import pytest

from tests.families.published import COUNTS, closing
from vitral.errors import NotFoundError
from vitral.families import families, family, preset_config, presets, spec

CASES = [(name, preset) for name in families() for preset in presets(name)]


@pytest.mark.parametrize(("name", "preset"), CASES, ids=[f"{name}/{preset}" for name, preset in CASES])
def test_the_count_closes(name: str, preset: str) -> None:
    found = closing(name, preset)
    assert found.closes, found


def test_every_preset_is_in_the_table() -> None:
    assert {name: set(presets(name)) for name in families()} == {name: set(COUNTS[name]) for name in families()}


def test_the_families_are_listed_oldest_first() -> None:
    years = [family(name).CARD.year for name in families()]
    assert years == sorted(years)


def test_a_preset_is_a_copy_that_nobody_can_spoil() -> None:
    preset_config("gpt2/small")["n_layer"] = 1
    assert preset_config("gpt2/small")["n_layer"] == 12


@pytest.mark.parametrize(("path", "meant"), [("lama3/3-8b", "llama3"), ("llama3/3.2-1", "3.2-1b"), ("gpt2", "small")])
def test_a_misspelt_name_says_what_was_meant(path: str, meant: str) -> None:
    with pytest.raises(NotFoundError, match=meant):
        spec(path)
