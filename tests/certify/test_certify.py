"""`python -m tests.certify`: it passes what is right, and fails for every kind of wrong."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from tests.certify import certificate as written
from tests.certify import page, run, store
from tests.certify.__main__ import main
from tests.certify.certificate import Certificate, Checked, Machine, RowResult, Size, Tried, from_json
from tests.families.mutants import Mutant
from tests.families.mutants.decoders import interleaved
from tests.families.rows import BY_NAME
from vitral.cli.drawing import draw
from vitral.errors import NotFoundError
from vitral.families import families, spec
from vitral.families.common import certificates

FEW = ("qwen3-tied-bias", "qwen3-plain")
"""Enough rows for these tests; the others take their time elsewhere."""


@pytest.fixture(scope="module")
def whole() -> Certificate:
    """Qwen3's certificate from two of its rows."""
    rows = [run.examine(name) for name in FEW]
    return run.certificate("qwen3", rows, quick=False)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Certificates, pages and summary in a folder of their own."""
    monkeypatch.setattr(store, "FOLDER", tmp_path / "certificates")
    monkeypatch.setattr(page, "FOLDER", tmp_path / "families")
    monkeypatch.setattr(page, "families", lambda: ["qwen3", "gpt4"])  # to count every preset takes its time
    monkeypatch.setattr(certificates, "SUMMARY", tmp_path / "certificates.json")
    return tmp_path


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def choose(*names: str) -> None:
        monkeypatch.setattr(run, "ROWS", tuple(BY_NAME[name] for name in names))

    return choose


def only(monkeypatch: pytest.MonkeyPatch, *mutants: Mutant) -> None:
    monkeypatch.setattr(run, "gather", lambda: mutants)


def test_what_is_right_passes(whole: Certificate) -> None:
    assert whole.passed and whole.faults() == []
    assert whole.worst is not None and 0 < whole.worst <= 1e-5
    checked = {each.check for row in whole.rows for each in row.checks}
    assert checked >= {"whole_pass", "cached_pass", "padding", "tied_head", "round_trip", "every_block"}
    assert whole.meanings.keys() == checked and all(whole.meanings.values())
    assert whole.caught == len(whole.mutants) >= 3
    assert whole.references == ["transformers Qwen3ForCausalLM"]
    assert {size.preset: size.closes for size in whole.sizes}["0.6b"]
    assert whole.digest == certificates.digest("qwen3")
    assert all(len(row.blocks) == 2 and 0 < max(row.blocks) <= 1e-5 for row in whole.rows)


def test_the_json_says_all_of_it(whole: Certificate) -> None:
    data = json.loads(written.dumps(whole.to_json()))
    assert from_json(data) == whole
    with pytest.raises(ValueError, match="format 0"):
        from_json({**data, "format": 0})


def test_the_fields_are_these() -> None:
    """Whoever changes a field raises FORMAT, and then this."""
    names = {kind.__name__: " ".join(field.name for field in fields(kind)) for kind in
             (Certificate, RowResult, Checked, Tried, Size, Machine)}  # fmt: skip
    assert written.FORMAT == 1
    assert names == {
        "Certificate": "family digest date seconds quick machine meanings sizes rows",
        "RowResult": "row families reference checks blocks mutants seconds",
        "Checked": "check deviation allowed fault",
        "Tried": "pitfall name row check deviation caught fault",
        "Size": "preset total active expected expected_active published published_active note closes",
        "Machine": "vitral torch transformers python threads",
    }


def test_what_is_not_finite_is_null_in_json_and_never_passes(whole: Certificate) -> None:
    check = Checked(check="whole_pass", deviation=run.finite(float("nan")), allowed=1.0)
    bad = replace(whole, rows=(replace(whole.rows[0], checks=(check,)),))
    assert json.loads(written.dumps(bad.to_json()))["rows"][0]["checks"][0]["deviation"] is None
    assert not bad.passed and bad.worst is None and "not finite" in bad.faults()[0]


def test_a_sown_bug_fails(
    monkeypatch: pytest.MonkeyPatch, few: Any, places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few("qwen3-plain")
    only(monkeypatch)
    interleaved(monkeypatch)
    assert main(["qwen3", "--workers", "1"]) == 1
    captured = capsys.readouterr()
    assert "FAILED" in captured.out and "0 of 1 certified" in captured.err
    assert "failed: qwen3: qwen3-plain, whole_pass: |Δ|" in captured.err
    kept = json.loads((places / "certificates" / "qwen3.json").read_text())
    assert kept["passed"] is False and kept["faults"]
    assert certificates.status("qwen3") == "failed"
    assert "**Failed**" in (places / "families" / "qwen3.md").read_text()
    assert "failed: ≤" in (places / "families" / "README.md").read_text()


@pytest.mark.parametrize(
    ("graft", "fault"),
    [(None, "mutant blunt not caught: |Δ| "), (lambda ours: ours.absent, "not caught: AttributeError")],
    ids=["harmless", "broken"],
)
def test_a_mutant_that_is_not_found_fails(monkeypatch: pytest.MonkeyPatch, graft: Any, fault: str) -> None:
    only(monkeypatch, Mutant(1, "blunt", "qwen3-plain", graft=graft))
    made = run.certificate("qwen3", [run.examine("qwen3-plain")], quick=False)
    assert made.caught == 0 and len(made.faults()) == 1 and fault in made.faults()[0]


def test_a_check_that_breaks_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(ref: Any, ours: Any) -> float:
        raise RuntimeError("sizes differ\nand more")

    (found,) = [run.tried("breaks", 1.0, lambda: breaks(None, None))]
    assert not found.passed and found.fault == "RuntimeError: sizes differ"


def test_a_row_that_cannot_be_made_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.BY_NAME, "qwen3-plain", replace(BY_NAME["qwen3-plain"], make=lambda: 1 / 0))
    (fault,) = run.examine("qwen3-plain").faults()
    assert "ZeroDivisionError" in fault


def die(name: str, quick: bool) -> RowResult:
    os._exit(3)


def test_a_process_that_dies_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "examine", die)
    results = list(run.examined(FEW, False, workers=2))
    assert {result.row for result in results} == set(FEW)
    assert all("BrokenProcessPool" in fault for result in results for fault in result.faults())


def test_a_count_that_does_not_close_fails(whole: Certificate) -> None:
    size = replace(whole.sizes[0], closes=False, expected=whole.sizes[0].total + 1)
    assert replace(whole, sizes=(size,)).faults() == [
        f"preset {size.preset}: {size.total:,} parameters, expected {size.expected:,}"
    ]


def test_what_nothing_was_tried_on_fails(whole: Certificate, few: Any) -> None:
    few()
    (made,) = run.certify(["qwen3"], quick=False, workers=1, report=lambda result: None)
    assert made.faults() == ["no row of the parity table speaks for it"]
    idle = replace(whole, rows=tuple(replace(row, mutants=()) for row in whole.rows))
    assert idle.faults() == ["no mutant was tried on its rows"]


def test_a_row_counts_for_all_its_families_and_is_examined_once(few: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    few("llama-gqa-6-2")
    seen: list[str] = []
    made = list(run.certify(["llama1", "llama2"], quick=True, workers=1, report=lambda result: seen.append(result.row)))
    assert seen == ["llama-gqa-6-2"] and [each.family for each in made] == ["llama1", "llama2"]
    assert all(each.passed and each.quick for each in made)


@pytest.mark.parametrize("family", ["qwen2", "bert"])
def test_quick_leaves_no_kind_of_check_out(family: str) -> None:
    kinds = {
        quick: {check.__name__ for row in run.rows_of(family, quick) for check in row.checks()} for quick in (0, 1)
    }
    assert kinds[0] == kinds[1]
    assert len(run.rows_of(family, True)) < len(run.rows_of(family)) / 2
    assert any(run.mutants_of(row.name, True) for row in run.rows_of(family, True))


def test_quick_writes_nothing(few: Any, places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few("qwen3-plain")
    assert main(["qwen3", "--quick", "--json", "--workers", "1"]) == 0
    (data,) = json.loads(capsys.readouterr().out)
    assert data["passed"] and data["quick"] and data["family"] == "qwen3"
    assert list(places.iterdir()) == []


def test_a_card_alone_has_nothing_to_certify(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpt4", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == [] and "gpt4: nothing to certify" in captured.err
    assert certificates.status("gpt4") == "closed"
    with pytest.raises(NotFoundError, match="gpt4"):
        main(["gpt-4"])


# ── what is kept, and its pages ─────────────────────────────────────────────────────────────────────────────


def test_kept_and_read_again(whole: Certificate, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert certificates.status("qwen3") == "none" and store.stored("qwen3") is None
    store.keep(replace(whole, family="llama2", digest="of other code"))
    store.keep(whole)
    assert store.stored("qwen3") == whole
    assert list(certificates.summary()) == ["llama2", "qwen3"], "oldest first"
    assert certificates.summary()["qwen3"]["mutants"] == [whole.caught, len(whole.mutants)]
    assert (certificates.status("qwen3"), certificates.status("llama2")) == ("certified", "stale")


def test_the_page_says_what_the_certificate_says(whole: Certificate) -> None:
    text = page.page("qwen3", whole)
    assert "# Qwen3" in text and draw(spec("qwen3/0.6b")) in text
    assert re.search(r"\| `0.6b` \| 596,049,920 \|.* 600 M \| closes \|", text)
    assert f"{whole.caught} of {len(whole.mutants)} mistakes" in text
    assert all(f"`{each.check}`" in text for row in whole.rows for each in row.checks)
    assert all(f"| {mutant.name} | `{mutant.row}` |" in text for mutant in whole.mutants)
    assert "has not been run" in page.page("qwen3", None)


def test_the_stored_certificates_are_of_families_that_are_here() -> None:
    names = {path.stem for path in store.FOLDER.glob("*.json")}
    assert names <= set(certificates.summary()) <= set(families())
    for name in names:
        found = store.stored(name)
        assert found is not None and found.summary() == certificates.summary()[name]
