"""`vitral serve` as a process, and `vitral doctor`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import vitral
from tests.artefacts import artefact
from vitral.cli.serve import check


def test_serves_until_interrupted(tiny: Path) -> None:
    options = ["--port", "0", "--served-model-name", "gato", "--self-check"]
    command = [sys.executable, "-m", "vitral", "serve", str(tiny), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        said = "".join(lines)
        found = re.search(r"page +(http://127\.0\.0\.1:\d+)\n", said)
        assert found and "What is the capital of France?" in said and "ok, " in said, said + process.stderr.read()
        with urllib.request.urlopen(f"{found[1]}/v1/models", timeout=10) as answer:
            assert [model["id"] for model in json.load(answer)["data"]] == ["gato"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130)
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--host", "0.0.0.0"], "no API key is set"),
        (["--port", "70000"], "--port"),
        (["--served-model-name", " "], "--served-model-name is empty"),
    ],
)
def test_wrong_requests(run: Any, tiny: Path, args: list[str], said: str) -> None:
    outcome = run("serve", tiny, *args)
    assert outcome.code == 2 and said in outcome.error


def test_an_empty_name_is_refused_before_loading(run: Any) -> None:
    outcome = run("serve", "./nowhere", "--served-model-name", "")
    assert "--served-model-name is empty. Give a name, or leave it out" in outcome.error
    assert "loading" not in outcome.err


def test_a_port_in_use(run: Any, tiny: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as busy:
        outcome = run("serve", tiny, "--port", busy.getsockname()[1])
    assert outcome.code == 2 and "cannot listen on 127.0.0.1" in outcome.error


def test_self_check_of_an_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    check(vitral.load(artefact("minilm")))
    assert "near" in capsys.readouterr().out


def test_self_check_refuses_a_model_that_says_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = vitral.load(tiny)
    silent = lm.generate("o", max_tokens=1)
    monkeypatch.setattr(vitral.LanguageModel, "generate", lambda *_, **__: silent.__class__(
        text=" ", prompt_ids=silent.prompt_ids, tokens=silent.tokens, finish_reason="stop"
    ))  # fmt: skip
    with pytest.raises(vitral.VitralError, match="self-check failed"):
        check(lm)


def test_doctor(run: Any) -> None:
    facts = run("doctor", "--json").json
    assert facts["vitral"] == vitral.__version__ and facts["cores"] >= 1 and facts["packages"]["torch"]
    assert facts["offline"] == "VITRAL_OFFLINE"
    shown = run("doctor").out
    assert all(name in shown for name in facts)
