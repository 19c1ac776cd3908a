"""Every published preset has exactly as many parameters as the published model.

published_counts.json was made with transformers 5.23 on the meta device, from the published sizes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitral.errors import NotFoundError
from vitral.families import families, family, preset_config, presets, spec

COUNTS = json.loads(Path(__file__).with_name("published_counts.json").read_text("utf-8"))
CASES = [(name, preset, count) for name, table in COUNTS.items() for preset, count in table.items()]


@pytest.mark.parametrize(("name", "preset", "count"), CASES, ids=[f"{name}/{preset}" for name, preset, _ in CASES])
def test_the_count_is_exact(name: str, preset: str, count: int) -> None:
    found = spec(f"{name}/{preset}").count()
    assert (found.total, found.active) == (count, count)


def test_every_preset_is_in_the_table() -> None:
    assert {name: set(presets(name)) for name in families()} == {name: set(table) for name, table in COUNTS.items()}


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
