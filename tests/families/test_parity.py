"""Every row of the parity table through every check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.families import parity
from tests.families.parity import TOLERANCE, Check, Reference, answer, worst
from tests.families.rows import ROWS
from vitral.weights.load import load_model, open_checkpoint

Make = Callable[[str], Reference]
CASES = [pytest.param(row.name, check, id=f"{row.name}-{check.__name__}") for row in ROWS for check in row.checks()]
every_row = pytest.mark.parametrize("name", [row.name for row in ROWS])


@pytest.mark.parametrize(("name", "check"), CASES)
def test_equals_transformers(reference: Make, name: str, check: Check) -> None:
    ref = reference(name)
    assert check(ref, ref.load()) <= TOLERANCE


@every_row
def test_written_again_it_is_the_same_file(reference: Make, name: str, tmp_path: Path) -> None:
    ref = reference(name)
    parity.write_again(ref, tmp_path / "one")
    parity.write_again(ref, tmp_path / "shards", max_shard_bytes=9000)
    before, after = (load_file(folder / "model.safetensors") for folder in (ref.folder, tmp_path / "one"))
    if ref.row.same_names:
        assert after.keys() == before.keys()
        assert all(torch.equal(after[key], before[key]) and after[key].dtype == before[key].dtype for key in before)
    for folder in (tmp_path / "one", tmp_path / "shards"):
        theirs = type(ref.theirs).from_pretrained(folder, attn_implementation="eager").eval()
        assert worst(ref.full, ref.ask(ref.ids, theirs, segments=ref.segments)) == 0
        again = load_model(open_checkpoint(folder))[0]
        mine = answer(ref.load(), ref.ids, segments=ref.segments)
        assert worst(mine, answer(again, ref.ids, segments=ref.segments)) == 0
    body = transformers.AutoModel.from_pretrained(tmp_path / "one", attn_implementation="eager").eval()
    bodies = [ref.ask(ref.ids, model, segments=ref.segments) for model in (ref.theirs.base_model, body)]
    assert worst(*bodies) == 0
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
