"""What the READMEs show is what happens: their commands run, and print what they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.artefacts import artefact
from vitral import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("vitral ")]


def printed(capsys: pytest.CaptureFixture[str], command: str) -> list[str]:
    capsys.readouterr()
    args = shlex.split(command)[1:]
    assert cli.run([str(artefact("smollm2")) if arg == "smollm2-135m-instruct" else arg for arg in args]) == 0
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def shown(beginning: str) -> list[str]:
    """The text block that starts with a line."""
    (block,) = [block for block in blocks("text") if block.startswith(beginning)]
    return [line.rstrip() for line in block.splitlines()]


def one(part: str) -> str:
    (command,) = [command for command in COMMANDS if part in command]
    return command


def test_the_tour_was_found() -> None:
    assert len(COMMANDS) >= 9 and len(blocks("text")) >= 4 and len(blocks("python")) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its verb exists and so does each of its options."""
    verb, *args = shlex.split(command)[1:]
    group = [verb, args[0]] if verb == "tokenizer" else [verb]
    assert cli.run([*group, "--help"]) == 0
    options = capsys.readouterr().out
    assert all(re.search(rf"{arg}\b", options) for arg in args if arg.startswith("--"))


def test_the_candidates(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, one("--candidates")) == shown("The capital of France is Paris.")


def test_the_attention(capsys: pytest.CaptureFixture[str]) -> None:
    expected = shown("attention of layer 29")
    assert printed(capsys, one("vitral inspect"))[: len(expected)] == expected


def test_the_drawing(capsys: pytest.CaptureFixture[str]) -> None:
    expected = shown("    ids")
    lines = printed(capsys, one("show llama3/3.2-1b"))
    assert lines[lines.index("    ids") :][: len(expected)] == expected


def test_what_changed(capsys: pytest.CaptureFixture[str]) -> None:
    expected = shown("parts:")
    lines = printed(capsys, one("--against"))
    assert lines[lines.index("parts:") :][: len(expected)] == expected


def test_the_translation(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    artefact("flan_t5")
    monkeypatch.setenv("VITRAL_OFFLINE", "1")
    assert printed(capsys, one("flan-t5")) == shown("Das Haus")


def test_the_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line by line, with what the comments promise."""
    monkeypatch.setenv("VITRAL_OFFLINE", "1")
    artefact("smollm2"), artefact("minilm")
    source = blocks("python")[0]
    names: dict[str, Any] = {}
    exec(compile(source.replace('vitral.load("all-mini', 'bert = vitral.load("all-mini'), "README.md", "exec"), names)
    pattern = names["seen"]["stack.blocks.29.attn.mixer.kernel.pattern"]
    assert tuple(pattern.shape) == (1, 9, 5, 5) and "# [1, 9, 5, 5]" in source
    assert names["bert"].shape == (2, 384) and names["bert"].dtype == "float32"


@pytest.mark.parametrize("name", ["README.md", "README.pt-BR.md", "CONTRIBUTING.md", *map(str, ROOT.glob("docs/*.md"))])
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{name} links to {target}"
