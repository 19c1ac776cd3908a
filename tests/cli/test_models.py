"""The verbs that keep models: pull, list, rm, export; and how waiting looks."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vitral
from tests.artefacts import artefact
from vitral.cli import progress
from vitral.weights.catalogue import CATALOGUE


def test_list_before_anything_is_pulled(run: Any) -> None:
    rows = run("list", "--json").json
    assert [row["name"] for row in rows] == list(CATALOGUE)
    assert all(row["path"] is None and row["size"] > 0 and row["licence"] for row in rows)
    assert " no " in run("list").out


def test_pull_list_and_remove(run: Any, tmp_path: Path) -> None:
    """A model that is whole is not fetched again: this works offline."""
    model = artefact("minilm")
    home = tmp_path / "home" / "models" / "all-minilm-l6-v2"
    shutil.copytree(model, home)
    assert run("pull", "all-minilm-l6-v2").out == f"{home}\n"
    assert run("pull", "all-minilm-l6-v2", "--json").json == {"model": "all-minilm-l6-v2", "path": str(home)}
    row = next(row for row in run("ls", "--json").json if row["name"] == "all-minilm-l6-v2")
    assert row["path"] == str(home)
    removed = run("rm", "all-minilm-l6-v2")
    assert removed.code == 0 and "freed" in removed.out and not home.exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["pull", "smollm2"], "No model is called 'smollm2'"),
        (["pull", "all-minilm-l6-v2"], "VITRAL_OFFLINE forbids fetching it"),
        (["pull", "all-minilm-l6-v2", "--revision", "main"], "has no revisions"),
        (["rm", "all-minilm-l6-v2"], "The cache holds no model"),
        (["rm", "../../etc"], "The cache holds no model"),
    ],
)
def test_wrong_requests(run: Any, args: list[str], said: str, tmp_path: Path) -> None:
    outcome = run(*args)
    assert outcome.code == 2 and said in outcome.error
    assert not list((tmp_path / "home").rglob("*.gguf")) and not list((tmp_path / "home").rglob("*.safetensors"))


def same_logits(one: Path, other: Path, tolerance: float = 0.0) -> bool:
    ids = [[5, 9, 40, 7, 250, 33]]
    first, second = vitral.load(one).logits(ids), vitral.load(other).logits(ids)
    return bool((first - second).abs().max() <= tolerance)


def test_export_a_folder(run: Any, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = run("export", tiny, "--to", "hf", "--out", out, "--json")
    assert outcome.json["path"] == str(out)
    assert outcome.json["bytes"] == sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert same_logits(tiny, out)
    assert vitral.load(out).chat is not None


def test_export_a_folder_in_bfloat16(run: Any, tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    out = tmp_path / "out"
    assert run("export", tiny, "--to", "hf", "--dtype", "bfloat16", "--out", out).code == 0
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize(("kind", "tolerance"), [("F32", 1e-6), ("F16", 1e-2)])
def test_export_a_file(run: Any, tiny: Path, tmp_path: Path, kind: str, tolerance: float) -> None:
    out = tmp_path / "tiny.gguf"
    outcome = run("export", tiny, "--to", "gguf", "--kind", kind, "--out", out)
    assert outcome.code == 0 and str(out) in outcome.out
    assert same_logits(tiny, out, tolerance)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--to", "hf", "--kind", "F16"], "--kind is for GGUF files. Use --dtype"),
        (["--to", "gguf", "--dtype", "float16"], "--dtype is for folders. Use --kind"),
        (["--to", "hf", "--dtype", "int3"], "dtype is 'int3'"),
        (["--to", "gguf"], "does not end in .gguf"),
    ],
)
def test_export_options_that_do_not_belong(run: Any, tiny: Path, tmp_path: Path, args: list[str], said: str) -> None:
    outcome = run("export", tiny, *args, "--out", tmp_path / "out")
    assert outcome.code == 2 and said in outcome.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_export_overwrites_nothing(run: Any, tiny: Path, tmp_path: Path, to: str) -> None:
    out = tmp_path / "mine"
    out.write_text("precious")
    outcome = run("export", tiny, "--to", to, "--out", out)
    assert outcome.code == 2 and "exists" in outcome.error and out.read_text() == "precious"


@pytest.mark.parametrize(
    ("to", "out", "said"),
    [
        ("gguf", "noext", "does not end in .gguf"),
        ("gguf", "mine.gguf", "exists"),
        ("gguf", "mine.gguf/below/x.gguf", "mine.gguf' is a file"),
        ("hf", "mine.gguf/below", "mine.gguf' is a file"),
        ("hf", ".", "exists and is not empty"),
        ("hf", "x" * 300, "File name too long"),
    ],
)
def test_export_looks_at_its_place_first(run: Any, tmp_path: Path, to: str, out: str, said: str) -> None:
    """Before a model is loaded, or even looked for."""
    (tmp_path / "mine.gguf").write_text("precious")
    outcome = run("export", "./nowhere", "--to", to, "--out", tmp_path / out)
    assert outcome.code == 2 and said in outcome.error and "loading" not in outcome.err


def test_export_into_a_locked_folder(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked)  # root may write anywhere
    outcome = run("export", "./nowhere", "--to", "hf", "--out", locked / "new" / "out")
    assert outcome.code == 2 and f"{str(locked)!r} may not be written to" in outcome.error
    assert "loading" in run("export", "./nowhere", "--to", "hf", "--out", tmp_path / "new" / "out").err


def test_plain_lines_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 5.0, 6.0, 7.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    total = 100 << 20
    with progress.progress("working") as report:
        for percent in (1, 20, 40, 60, 100, 100):  # at 0, 1, 2, 5, 6 and 7 seconds
            report("model", percent << 20, total)
        report("small file", 10, 10)
    assert sys.stderr.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "working …",
        "model: 1.0 MiB of 100.0 MiB (1%)",
        "model: 60.0 MiB of 100.0 MiB (60%)",
        "model: 100.0 MiB of 100.0 MiB (100%)",
    ]


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setitem(os.environ, "TERM", "xterm")
    with progress.progress("working") as report:
        report("model", 50 << 20, 100 << 20)
        report("waiting", 0, None)
    shown = terminal.getvalue()
    assert "working" in shown and "50.0 MiB of 100.0 MiB (50%)" in shown and "waiting" in shown
