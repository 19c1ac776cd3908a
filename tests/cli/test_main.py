"""The command as a whole: the table of verbs, its speed, and how it says no."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vitral import cli
from vitral.errors import VitralError


def python(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=60, **options)


def test_help_lists_every_verb_without_importing_one(run: Any) -> None:
    shown = run("--help")
    assert shown.code == 0
    for name, verb in cli.VERBS.items():
        assert name in shown.out and verb.help in " ".join(shown.out.split())
    code = "import sys; from vitral.cli import run; run(['--help']); print(*sys.modules)"
    loaded = set(python("-c", code).stdout.splitlines()[-1].split())
    assert not {name for name in loaded if name.startswith(("torch", "tokenizers", "numpy", "fastapi", "rich"))}
    assert {name for name in loaded if name.startswith("vitral.")} <= {"vitral.cli", "vitral.errors"}


@pytest.mark.parametrize("code", ["import vitral", "from vitral.cli import run; run(['--help'])"])
def test_start_is_fast(code: str) -> None:
    """Under half a second; the best of three, since the machine may be busy."""

    def seconds() -> float:
        start = time.perf_counter()
        assert python("-c", code).returncode == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_explains_itself(run: Any, name: str) -> None:
    shown = run(name, "-h")
    assert shown.code == 0 and shown.err == ""
    module = importlib.import_module(f"vitral.cli.{cli.VERBS[name].module}")
    assert len(module.EXAMPLES) >= 1
    for example in module.EXAMPLES:
        assert example in shown.out
        words = example.partition("vitral ")[2].split()
        assert words[0] in (name, *[alias for alias, verb in cli.ALIASES.items() if verb == name])


def test_no_arguments_is_help(run: Any) -> None:
    assert run().out == run("--help").out


def test_version(run: Any) -> None:
    from vitral import __version__

    assert run("--version").out == f"vitral {__version__}\n"


def test_aliases(run: Any) -> None:
    assert run("ls", "--json").json == run("list", "--json").json


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["sho"], "there is no verb 'sho'. Did you mean 'show'?"),
        (["families", "--jsno"], "no such option: --jsno. Did you mean '--json'?"),
        (["families", "lama3"], "no family is called 'lama3'. Did you mean 'llama3'"),
        (["generate"], "MODEL"),
        (["generate", "x", "y", "--max-tokens", "many"], "--max-tokens"),
        (["tokenizer", "shwo"], "Did you mean 'show'?"),
        (["export", "x", "--to", "onnx", "--out", "y"], "--to"),
    ],
)
def test_wrong_requests_are_one_line(run: Any, args: list[str], said: str) -> None:
    outcome = run(*args)
    assert outcome.code == 2
    assert said in outcome.error
    assert outcome.out == ""


def test_debug_shows_the_traceback(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAL_DEBUG", "1")
    outcome = run("families", "lama3")
    assert outcome.code == 2 and "Traceback" in outcome.err and outcome.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (VitralError("cause", "remedy"), 2, "error: cause. remedy\n"),
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "Permission denied", "model.gguf"), 2, "error: model.gguf: Permission denied\n"),
    ],
)
def test_what_a_verb_raises(run: Any, monkeypatch: Any, raised: BaseException, code: int, said: str) -> None:
    def verb() -> None:
        raise raised

    monkeypatch.setattr(importlib.import_module("vitral.cli.doctor"), "verb", verb)
    outcome = run("doctor")
    assert (outcome.code, outcome.err) == (code, said)


def test_a_bug_is_not_hidden(run: Any, monkeypatch: Any) -> None:
    def verb() -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr(importlib.import_module("vitral.cli.doctor"), "verb", verb)
    with pytest.raises(AttributeError, match="a bug"):
        run("doctor")


def test_a_reader_that_leaves_is_no_error() -> None:
    """`vitral families --json | head -1` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "vitral", "families", "--json"], stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("args", [["--help"], ["families"], ["list", "--json"]])
def test_a_reader_that_left_before_is_no_error(args: list[str]) -> None:
    test = "import io, os, sys; from vitral.cli import run\n"
    test += "reader, writer = os.pipe(); os.close(reader); sys.stdout = os.fdopen(writer, 'w', buffering=1)\n"
    done = python("-c", test + f"sys.exit(run({args}))")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(os.name == "nt", reason="POSIX shells")
@pytest.mark.parametrize(
    ("closed", "args", "code"),
    [(">&-", "families llama3", 0), (">&-", "--version", 0), (">&- 2>&-", "familes", 2), ("<&-", "generate x", 2)],
)
def test_closed_streams(closed: str, args: str, code: int) -> None:
    """Python then has None for them."""
    command = f'"$0" -m vitral {args} {closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, timeout=60)
    assert done.returncode == code and "Traceback" not in done.stderr and done.stdout == ""
    assert done.stderr == (
        "error: the prompt is empty. Give some text, or pipe it into stdin\n" if "<" in closed else ""
    )


@pytest.mark.parametrize("name", ["README.md", "README.pt-BR.md"])
def test_the_readmes_install_into_an_environment(name: str) -> None:
    text = (Path(__file__).parents[2] / name).read_text("utf-8")
    (install,) = [block.splitlines() for block in text.split("```") if "pip install" in block]
    lines = ["python3 -m venv .venv", "source .venv/bin/activate", "pip install -e ."]
    assert [line for line in install if line in lines] == lines


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_is_130() -> None:
    code = "import vitral.cli.doctor as d, time\nd.verb = lambda: (print('up', flush=True), time.sleep(30))\n"
    command = [sys.executable, "-c", code + "import sys; from vitral.cli import run; sys.exit(run(['doctor']))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == ""


def test_runs_as_a_module(tmp_path: Path) -> None:
    done = python("-m", "vitral", "nothing", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: there is no verb 'nothing'")
