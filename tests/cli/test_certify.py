"""`vitral certify`: what it asks of its surroundings, and one run from the command line to the exit code."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from vitral import cli
from vitral.cli import certify


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, Any]]]:
    """The processes that would have been started."""
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def call(command: list[str], **options: Any) -> int:
        calls.append((command, options))
        return 0

    monkeypatch.setattr(certify.subprocess, "call", call)
    return calls


def test_one_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["certify", "qwen3", "--quick", "--json"]) == 0
    captured = capfd.readouterr()
    (certificate,) = json.loads(captured.out)
    assert certificate["family"] == "qwen3" and certificate["passed"] and certificate["machine"]["threads"] == 1
    assert "1 of 1 certified" in captured.err and "qwen3-plain:" in captured.err


def test_the_options_are_passed_on(run: Any, called: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert run("certify", "--all", "--quick", "--no-write", "--json").code == 0
    assert run("certify", "llama1", "gpt2").code == 0
    commands = [command[1:] for command, _ in called]
    assert commands == [
        ["-m", "tests.certify", "--quick", "--no-write", "--json"],
        ["-m", "tests.certify", "llama1", "gpt2"],
    ]
    command, options = called[0]
    assert command[0] == sys.executable and options["cwd"] == certify.ROOT
    assert options["env"]["OMP_NUM_THREADS"] == "1"
    assert options["env"]["PYTHONPATH"] == f"{certify.ROOT}{os.pathsep}elsewhere"


@pytest.mark.parametrize(("code", "ours"), [(1, 1), (2, 2), (-9, 137)])
def test_the_exit_code_is_that_of_the_run(run: Any, monkeypatch: pytest.MonkeyPatch, code: int, ours: int) -> None:
    monkeypatch.setattr(certify.subprocess, "call", lambda *args, **options: code)
    assert run("certify", "qwen3").code == ours


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "say what to certify. Name a family, or give --all"),
        (("qwen3", "--all"), "say what to certify"),
        (("quen3",), "no family is called 'quen3'. Did you mean 'qwen3'"),
        (("qwen3", "lama2"), "Did you mean 'llama2'"),
    ],
)
def test_what_it_is_asked_must_be_clear(run: Any, called: list[Any], args: tuple[str, ...], said: str) -> None:
    outcome = run("certify", *args)
    assert outcome.code == 2 and said in outcome.error and not called


def test_without_the_packages_of_the_tests(run: Any, called: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify, "find_spec", lambda name: None if name == "transformers" else find_spec(name))
    outcome = run("certify", "qwen3")
    assert outcome.code == 2 and not called
    assert "certify needs transformers, which this Python does not have. Install" in outcome.error
    assert "pip install -e" in outcome.error and "[test]" in outcome.error


def test_without_the_repository(run: Any, called: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(certify, "ROOT", tmp_path)
    outcome = run("certify", "--all")
    assert outcome.code == 2 and not called
    assert "needs vitral's repository" in outcome.error and "Clone" in outcome.error
