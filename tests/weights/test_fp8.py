"""8-bit checkpoints: each block times its scale, edges included, and a clear word on every form that is not read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.families.rows.latent import SMALL
from tests.nn.tiny import randomise
from vitral.errors import CheckpointError
from vitral.families import deepseek_v3
from vitral.weights.load import load_model, open_checkpoint
from vitral.weights.save import save_folder

BLOCK = [16, 8]
SAID = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": BLOCK}
CONFIG = {key: value for key, value in SMALL.items() if key != "rope_parameters"}
CONFIG |= {"model_type": "deepseek_v3", "norm_topk_prob": True, "routed_scaling_factor": 2.5, "hidden_act": "silu"}
CONFIG |= {"_vitral_drafts": 1}


def quantised(w: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix in 8 bits, and the factor that brings each block back: its largest number over the format's."""
    m, n = BLOCK
    blocks = [[w[i : i + m, j : j + n] for j in range(0, w.shape[1], n)] for i in range(0, w.shape[0], m)]
    scale = torch.tensor([[block.abs().max().item() / 448 for block in row] for row in blocks])
    wide = torch.from_numpy(np.kron(scale.numpy(), np.ones(BLOCK, np.float32)))[: w.shape[0], : w.shape[1]]
    return (w / wide).to(torch.float8_e4m3fn), scale


def by_hand(w: Tensor, scale: Tensor) -> Tensor:
    wide = np.kron(scale.numpy(), np.ones(BLOCK, np.float32))[: w.shape[0], : w.shape[1]]
    return torch.from_numpy(w.float().numpy() * wide)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(8-bit folder as published, the same numbers in float32)."""
    place = tmp_path_factory.mktemp("fp8")
    model = deepseek_v3.spec(CONFIG).build()
    randomise(model)
    wide = save_folder(place / "wide", model=model, names=deepseek_v3.names(CONFIG), config=CONFIG, dtype="float32")
    small, back = {}, {}
    for name, tensor in load_file(wide / "model.safetensors").items():
        small[name] = back[name] = tensor
        if "_proj" in name and "eh_proj" not in name:
            small[name], small[f"{name}_scale_inv"] = quantised(tensor)
            back[name] = by_hand(small[name], small[f"{name}_scale_inv"])
    (place / "small").mkdir()
    config = json.loads((wide / "config.json").read_text("utf-8"))
    save_file(small, place / "small" / "model.safetensors")
    (place / "small" / "config.json").write_text(json.dumps({**config, "quantization_config": SAID}), "utf-8")
    save_file(back, wide / "model.safetensors")
    return place / "small", wide


def test_the_model_is_the_one_of_the_dequantised_numbers(folders: tuple[Path, Path]) -> None:
    (small, _, config, _), (wide, *_) = (load_model(open_checkpoint(folder)) for folder in folders)
    mine, theirs = dict(small.named_parameters()), dict(wide.named_parameters())
    assert mine.keys() == theirs.keys() and any("drafts.0.block" in name for name in mine)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert "quantization_config" not in config  # nor in a copy that is written


def test_a_strip_is_scaled_as_it_is_read_and_never_the_file(folders: tuple[Path, Path]) -> None:
    source, name = open_checkpoint(folders[0]).tensors, "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"
    assert source.dtype(name) == "F32" and source.shape(name) == (24, 48)
    first, again = source.read(name), source.read(name)
    assert torch.equal(first, again) and first.dtype == torch.float32
    assert not any(name.endswith("_scale_inv") for name in source.names())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"activation_scheme": "static"}, "'activation_scheme' is 'static'.*bfloat16"),
        ({"fmt": "e5m2"}, "'fmt' is 'e5m2'"),
        ({"weight_block_size": None}, "'weight_block_size' is None.*\\[128, 128\\]"),
        ({"weight_block_size": [128]}, "'weight_block_size' is \\[128\\]"),
        ({"weight_block_size": [0, 128]}, "'weight_block_size' is \\[0, 128\\]"),
        ({"weight_block_size": [128, 128]}, "has scales \\[.*blocks of \\[128, 128\\] need"),
        ({"group_size": 32}, "the key 'group_size'"),
        ({"quant_method": "gptq"}, "'quantization_config' says that the weights are quantised"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_other_forms_are_refused(
    folders: tuple[Path, Path], tmp_path: Path, said: dict[str, Any], message: str
) -> None:
    folder = altered(folders[0], tmp_path, {"quantization_config": {**SAID, **said}})
    with pytest.raises(CheckpointError) as error:
        load_model(open_checkpoint(folder))
    assert re.search(message, str(error.value)), error.value


@pytest.mark.parametrize(("drop", "message"), [("_scale_inv", "has no '.*_scale_inv'"), ("", "is not in 8 bits")])
def test_a_matrix_without_scales_and_scales_without_a_matrix(
    folders: tuple[Path, Path], tmp_path: Path, drop: str, message: str
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    folder = altered(folders[0], tmp_path, {}, drop=name + drop)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def altered(folder: Path, to: Path, change: dict[str, Any], drop: str | None = None) -> Path:
    """A copy with other words in its config, or with one tensor less."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (to / "config.json").write_text(json.dumps({**config, **change}), "utf-8")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if name != drop}, to / "model.safetensors")
    return to
