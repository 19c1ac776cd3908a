"""Random starts: every kind of parameter, in every kind of model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.families.tiny import tiny_config
from vitral.families import of_config
from vitral.nn import LayerNorm, RMSNorm, Sublayer, initialise

PATHS = (
    "t5/small",
    "gopher/44m",
    "mixtral/8x7b",
    "deepseek_v3/v3",
    "siglip/b16-224",
    "llama3/3.2-11b-vision",
    "vit/b16",
)


def started(path: str, seed: int = 0) -> nn.Module:
    config = tiny_config(path)
    model: nn.Module = of_config(config).spec(config).build()
    initialise(model, seed=seed)
    return model


@pytest.mark.parametrize("path", PATHS)
def test_all_follows_the_seed_and_nothing_else(path: str) -> None:
    torch.manual_seed(1)
    one = started(path).state_dict()
    torch.manual_seed(2)
    same, other = started(path).state_dict(), started(path, seed=3).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = {name for name, value in one.items() if value.std() > 0 and value.numel() > 1}
    assert drawn and all(not torch.equal(one[name], other[name]) for name in drawn)


@pytest.mark.parametrize("path", PATHS)
def test_what_writes_to_the_stream_starts_smaller(path: str) -> None:
    model = started(path)
    narrow = 0.02 / sum(isinstance(module, Sublayer) for module in model.modules()) ** 0.5
    for name, parameter in model.named_parameters():
        writes = name.endswith(
            ("mixer.o.weight", "attention.o.weight", "down.weight", "experts.down", "shared.down.weight")
        )
        if parameter.ndim > 1 and parameter.numel() > 500:
            latent = ".attn." in name and "down" in name  # a projection inside the mixer, not its last
            assert parameter.std().item() == pytest.approx(narrow if writes and not latent else 0.02, rel=0.15), name


@pytest.mark.parametrize("path", PATHS)
def test_norms_gates_and_lone_numbers_keep_their_start(path: str) -> None:
    config = tiny_config(path)
    before = of_config(config).spec(config).build()
    after = started(path)
    for name, module in before.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            now = after.get_submodule(name).get_parameter(leaf)
            if isinstance(module, (LayerNorm, RMSNorm)) or parameter.ndim == 0:
                assert torch.equal(now, parameter), f"{name}.{leaf}"
            elif leaf == "bias":
                assert not now.any(), f"{name}.{leaf}"
