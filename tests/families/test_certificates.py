"""The digest names the code a family is made of: all of that, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vitral.families import families
from vitral.families.common import certificates

CACHED = (certificates.digest, certificates.code, certificates._read, certificates._imports)
Change = Callable[[str, str], str]


@pytest.fixture
def change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Change]:
    """change(file, text added at its end): the digest of qwen3 before and after, in a copy of the package."""
    copy = tmp_path / "vitral"
    shutil.copytree(certificates.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "page"))
    monkeypatch.setattr(certificates, "PACKAGE", copy)

    def digests(file: str, added: str) -> tuple[str, str]:
        clear()
        before = certificates.digest("qwen3")
        with (copy / file).open("a", encoding="utf-8") as end:
            end.write(added)
        clear()
        return before, certificates.digest("qwen3")

    yield lambda file, added: "same" if len(set(digests(file, added))) == 1 else "other"
    clear()


def clear() -> None:
    for function in CACHED:
        function.cache_clear()


@pytest.mark.parametrize(
    "file",
    [
        "families/qwen3.py",
        "families/qwen2.py",
        "families/llama1.py",
        "families/common/config.py",
        "nn/attention.py",
        "nn/norm.py",
        "nn/cache.py",
        "weights/names.py",
    ],
)
def test_code_of_the_family_changes_it(change: Change, file: str) -> None:
    assert change(file, "\nNEW = 1\n") == "other"


@pytest.mark.parametrize("file", ["families/bert.py", "cli/show.py", "nn/__init__.py", "families/__init__.py"])
def test_other_code_does_not(change: Change, file: str) -> None:
    assert change(file, "\nNEW = 1\n") == "same"


@pytest.mark.parametrize("added", ["\n# a remark\n", "\n\n\n", '\n"""Said at the end."""\n'])
def test_words_about_the_code_do_not(change: Change, added: str) -> None:
    assert change("nn/attention.py", added) == "same"


def test_a_new_import_brings_its_file_in(change: Change) -> None:
    assert change("families/qwen3.py", "\nfrom vitral.families import bert\n") == "other"
    assert change("families/bert.py", "\nNEW = 1\n") == "other"


def test_a_file_of_an_architecture_within_the_family_counts(change: Change) -> None:
    (certificates.PACKAGE / "families" / "qwen3_wide.py").write_text("WIDE = 1\n", "utf-8")
    assert change("families/qwen3_wide.py", "\nNEW = 1\n") == "other"


def test_every_family_has_one() -> None:
    assert all(len(certificates.digest(name)) == 16 for name in families())
    built = [name for name in families() if certificates.has_architecture(name)]
    assert "qwen3" in built and "minilm" in built and "gpt4" not in built
    assert len({certificates.digest(name) for name in built}) == len(built)
