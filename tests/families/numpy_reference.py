"""Families without a class in transformers: checked against a NumPy module written from the paper alone.

    tiny config ─▶ family.spec ─▶ random numbers ─▶ folder on disk ─┬─▶ vitral ─▶ float32
                                                                    └─▶ tests/references/<family>.py ─▶ float64

A module of `tests/references/` imports nothing of vitral and defines

    logits(tensors, config, ids [B, T]) -> [B, T, V], or {"logits": …, "score": …}

over whole texts without padding. With a parameter `positions` [T] it also answers for texts that start later, and with
a parameter `lengths` [T] for texts that came in pieces: how long the text was when each token came.
"""

from __future__ import annotations

import inspect
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.families.parity import (
    DECODING,
    LENGTH,
    ROWS_OF_TEXT,
    Check,
    Outputs,
    Reference,
    Row,
    cached_pass,
    far_positions,
    half_precision,
    padding,
    tied_head,
    whole_pass,
)
from vitral.families import names_of, of_config
from vitral.nn import LayerNorm, Model, RMSNorm
from vitral.weights.load import open_checkpoint
from vitral.weights.save import save_folder


@dataclass(frozen=True, kw_only=True)
class NumpyRow(Row):
    """A row whose `make` gives a config, and whose numbers come from a module of `tests/references/`.

    Args:
        skips: checks that mean nothing for it.
    """

    module: ModuleType
    skips: tuple[Check, ...] = ()

    def takes(self, parameter: str) -> bool:
        return parameter in inspect.signature(self.module.logits).parameters


def numpy_row(
    name: str, families: tuple[str, ...], module: ModuleType, config: Mapping[str, Any], /, **options: Any
) -> NumpyRow:
    """A row of the parity table. `scales` speaks of our parameters' names; other options are `NumpyRow`'s."""
    return NumpyRow(
        name=name, families=families, module=module, make=lambda: dict(config), reference=NumpyReference, **options
    )


class NumpyReference(Reference):
    """A row made real: a folder that vitral wrote, and what the NumPy module makes of the tensors in it."""

    row: NumpyRow

    @staticmethod
    def checks(row: Row) -> Iterator[Check]:
        assert isinstance(row, NumpyRow)
        found: list[Check] = [whole_pass, half_precision, *((cached_pass,) if row.grows else DECODING), padding]
        if row.takes("positions"):
            found.append(far_positions)
        if row.make().get("tie_word_embeddings"):
            found.append(tied_head)
        yield from (check for check in found if check not in row.skips)

    def __init__(self, row: Row, folder: Path) -> None:
        assert isinstance(row, NumpyRow)
        self.row, self.folder = row, folder
        torch.manual_seed(zlib.crc32(row.name.encode()))
        config = row.make()
        family = of_config(config)
        model = family.spec(config).build().eval()
        fill(model, row.scales or {})
        save_folder(folder, model=model, names=names_of(family, config), config=config, dtype="float32")
        if row.config or row.tensors:
            self._rewrite()
        self.read(folder)
        self.ids = torch.randint(0, config["vocab_size"], (ROWS_OF_TEXT, LENGTH))
        self.ids[:, :3] = torch.tensor([0, 1, 2])
        self.segments = None
        self.full = self.ask(self.ids)
        for name, value in self.full.items():
            assert 0.2 < value.std() < 8, f"{row.name}: flat or wild {name} (std {value.std():.3g}) prove nothing"

    def _rewrite(self) -> None:
        """Change the files into what others say that mean the same."""
        if self.row.config:
            path = self.folder / "config.json"
            path.write_text(json.dumps(self.row.config(json.loads(path.read_text("utf-8")))), "utf-8")
        if self.row.tensors:
            path = self.folder / "model.safetensors"
            save_file(self.row.tensors(load_file(path)), path, metadata={"format": "pt"})

    def read(self, folder: Path) -> None:
        """Take the numbers of a folder: what `ask` answers from."""
        tensors = {name: value.double().numpy() for name, value in load_tensors(folder).items()}
        self.theirs = (tensors, open_checkpoint(folder).config)

    @property
    def is_bert(self) -> bool:
        return False

    @property
    def said(self) -> str:
        return f"float64 NumPy, written from the paper (tests/references/{self.row.module.__name__.split('.')[-1]}.py)"

    def ask(self, ids: Tensor, theirs: Any = None, **options: Any) -> Outputs:
        """What the NumPy module answers. Padding is taken out of each row first, and comes back as zeros."""
        tensors, config = theirs or self.theirs
        mask, positions = options.get("attention_mask"), options.get("position_ids")
        if mask is None:
            if positions is not None:
                options = {"positions": positions[0].numpy()}
            return self._call(tensors, config, ids, options)
        if positions is not None:
            counted = (mask.cumsum(-1) - 1).clamp_min(0)
            assert torch.equal(positions, counted), "padding is left out, so positions count what is there"
        out: Outputs = {}
        for index, (row, seen) in enumerate(zip(ids, mask.bool(), strict=True)):
            for name, value in self._call(tensors, config, row[seen][None], {}).items():
                whole = out.setdefault(name, torch.zeros(*ids.shape, value.shape[-1], dtype=value.dtype))
                whole[index, seen] = value[0]
        return out

    def pieces(self, chunks: tuple[int, ...]) -> Tensor:
        """The reference for texts in pieces (the last size repeats): the whole pass, unless the rotation grows."""
        if not self.row.grows:
            return self.main(self.full)
        lengths: list[int] = []
        for chunk in (*chunks, *chunks[-1:] * LENGTH):
            done = len(lengths)
            lengths += [min(done + chunk, LENGTH)] * (min(done + chunk, LENGTH) - done)
        tensors, config = self.theirs
        return self.main(self._call(tensors, config, self.ids, {"lengths": np.array(lengths)}))

    def _call(self, tensors: Any, config: Any, ids: Tensor, options: Mapping[str, Any]) -> Outputs:
        found = self.row.module.logits(tensors, config, ids.numpy(), **options)
        found = found if isinstance(found, dict) else {"logits": found}
        assert all(value.dtype == np.float64 for value in found.values()), "the reference must stay in float64"
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}

    def answers_again(self, folder: Path) -> float:
        """How far the reference's answer from a folder that was written again is from its first."""
        again = object.__new__(type(self))
        again.row = self.row
        again.read(folder)
        return max((self.full[name] - value).abs().max().item() for name, value in again.ask(self.ids).items())

    def body_again(self, folder: Path) -> float:
        """Nothing: these families have no class for a body alone."""
        return 0.0


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, in one file or in shards."""
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def fill(model: Model, scales: Mapping[str, float]) -> None:
    """Random numbers in every parameter of ours, norms and biases too, scaled so that logits are of order 1.

    Args:
        scales: ending of our parameter's name → factor.
    """
    norms = [module for module in model.modules() if isinstance(module, (LayerNorm, RMSNorm))]
    neutral = {id(norm.weight): 1.0 - getattr(norm, "offset", 0.0) for norm in norms}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape) * min(p.shape[-1], 64) ** -0.5)
            else:
                p.copy_(torch.randn(p.shape) * 0.3 + neutral.get(id(p), 0.0))
            for ending, factor in scales.items():
                if name.endswith(ending):
                    p.mul_(factor)
