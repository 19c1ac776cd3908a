"""The tiny presets are small, and made of the parts that the published ones are made of."""

from __future__ import annotations

import pytest
from torch import nn

from tests.families.tiny import LAYERS, tiny_config
from vitral.families import families, of_config, presets, spec
from vitral.nn import Spec, Stack

PATHS = [f"{name}/{preset}" for name in families() for preset in presets(name)]


def parts(tree: Spec) -> set[str]:
    """The classes a model is made of, and the kinds and scalings among their arguments."""
    found = set()
    for each in tree.walk():
        found.add(each.part.__name__)
        found |= {type(arg).__name__ for arg in each.args.values() if type(arg).__module__.startswith("vitral.nn")}
    return found - {"Spec"}


@pytest.mark.parametrize("path", PATHS)
def test_a_tiny_preset_keeps_its_character(path: str) -> None:
    config = tiny_config(path)
    small, large = of_config(config).spec(config), spec(path)
    assert parts(small) == parts(large)
    model: nn.Module = small.build(device="meta")
    assert sum(p.numel() for p in model.parameters()) < 600_000
    stacks = [len(each.args["blocks"]) for each in small.walk() if issubclass(each.part, Stack)]
    assert max(stacks) == LAYERS
