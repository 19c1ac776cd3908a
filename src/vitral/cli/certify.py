"""`vitral certify`: is a family here what its authors published? The references live in the repository's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from vitral.cli.common import Json
from vitral.errors import NotFoundError, VitralError, did_you_mean

EXAMPLES = ("vitral certify qwen3", "vitral certify --all", "vitral certify --all --quick --json")
ROOT = Path(__file__).resolve().parents[3]
"""The repository, where this package runs from one."""
NEEDED = ("transformers", "pytest")
"""Packages of the tests that have to be installed."""


def verb(
    names: Annotated[
        list[str] | None, typer.Argument(help="Families (vitral families).", metavar="[FAMILY]...")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every family: up to 20 minutes on two cores.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A part of every kind; no certificate is written.")] = False,
    write: Annotated[bool, typer.Option(help="Write docs/certificates and docs/families.")] = True,
    json: Json = False,
) -> None:
    """Compare families with their references and write a certificate each; exit code 1 when one fails.

    Parameter counts against the published ones; logits against transformers, or against a reference in NumPy written
    from the paper; import and export; and known mistakes, put back in on purpose, that the checks must find.
    """
    from vitral.families import families

    if bool(names) == all_:
        raise VitralError("say what to certify", "Name a family, or give --all", param="FAMILY")
    for name in names or ():
        if name not in families():
            raise NotFoundError(f"no family is called {name!r:.60}", did_you_mean(name, families()))
    require()
    options = ["--quick"] * quick + ["--no-write"] * (not write) + ["--json"] * json
    command = [sys.executable, "-m", "tests.certify", *(names or ()), *options]
    code = subprocess.call(command, cwd=ROOT, env=environment())
    if code:
        raise typer.Exit(code if code > 0 else 128 - code)


def require() -> None:
    """The repository and the packages of its tests must be here."""
    if not (ROOT / "tests" / "certify" / "__main__.py").is_file():
        raise VitralError(
            "certify needs vitral's repository, and this is an installed package without its tests",
            "Clone the repository, then there: pip install -e '.[test]'",
        )
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        cause = f"certify needs {' and '.join(missing)}, which this Python does not have"
        raise VitralError(cause, f"Install what the tests need: pip install -e '{ROOT}[test]'")


def environment() -> dict[str, str]:
    """Ours, with one thread a process, and with the repository first among the places of modules."""
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
