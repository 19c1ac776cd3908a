"""`vitral generate` and `vitral chat`."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vitral
from tests.artefacts import artefact
from vitral.cli import chat


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_answers_as_the_library_does(run: Any, tiny: Path) -> None:
    lm = vitral.load(tiny)
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "o gato"}]
    expected = lm.generate(messages, max_tokens=8, temperature=0.0)
    outcome = run("generate", tiny, "o gato", "--system", "be brief", "--max-tokens", 8, "--temperature", 0)
    assert (outcome.code, outcome.out) == (0, expected.text + "\n")
    made = run("generate", tiny, "o gato", "--system", "be brief", "--max-tokens", 8, "--temperature", 0, "--json").json
    assert made["prompt_ids"] == list(expected.prompt_ids)
    assert [token["id"] for token in made["tokens"]] == list(expected.ids)
    assert made["prompt_text"] == "<|system|>be brief<|user|>o gato<|a|>"


def test_raw_leaves_out_the_template(run: Any, tiny: Path, base: Path) -> None:
    for args in ((tiny, "o gato", "--raw"), (base, "o gato")):
        assert run("generate", *args, "--max-tokens", 1, "--json").json["prompt_text"] == "o gato"


def test_candidates(run: Any, tiny: Path) -> None:
    outcome = run("generate", tiny, "o", "--max-tokens", 3, "--candidates", 2, "--temperature", 0)
    lines = outcome.out.splitlines()
    rows = lines[next(n for n, line in enumerate(lines) if line.split() == ["token", "p", "candidates"]) + 1 :]
    assert len(rows) == 3 and all(row.count("%") == 3 for row in rows)


@pytest.mark.parametrize("option", [["--temperature", 0.8], ["--top-k", 5], ["--top-p", 0.5], ["--min-p", 0.1]])
def test_the_seed_decides(run: Any, tiny: Path, option: list[Any]) -> None:
    args = ["generate", tiny, "o gato", "--max-tokens", 12, "--temperature", 1.5, *option]
    first, second = run(*args, "--seed", 1), run(*args, "--seed", 1)
    assert first.code == 0 and first.out == second.out
    assert len({run(*args, "--seed", seed).out for seed in range(6)}) > 1


def test_top_k_1_is_greedy(run: Any, tiny: Path) -> None:
    args = ["generate", tiny, "o gato", "--max-tokens", 8]
    assert run(*args, "--temperature", 0).out == run(*args, "--temperature", 2, "--top-k", 1, "--seed", 3).out


def test_stop(run: Any, tiny: Path) -> None:
    args = ["generate", tiny, "o gato", "--max-tokens", 12, "--temperature", 0]
    whole = run(*args).out.rstrip("\n")
    stop = whole[3:5]
    assert run(*args, "--stop", "never said", "--stop", stop).out == whole[: whole.index(stop)] + "\n"


@pytest.mark.parametrize("args", [[], ["-"]])
def test_reads_stdin(run: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    feed(monkeypatch, "olá, gato\n".encode())
    made = run("generate", tiny, *args, "--max-tokens", 1, "--raw", "--json").json
    assert made["prompt_text"] == "olá, gato"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"ab\xff\xfe", "stdin is not UTF-8: byte 0xff at offset 2"),
        (b"", "the prompt is empty"),
        (b"\n", "the prompt is empty"),
    ],
)
def test_bad_stdin(run: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, said: str) -> None:
    feed(monkeypatch, data)
    outcome = run("generate", tiny)
    assert outcome.code == 2 and said in outcome.error and outcome.out == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["hi", "--temperature", "nan"], "temperature is nan. Give a number"),
        (["hi", "--temperature", "-1"], "temperature is -1"),
        (["hi", "--top-p", "0"], "top_p is 0"),
        (["hi", "--max-tokens", "0"], "max_tokens is 0"),
        (["hi", "--seed", str(2**70)], "seed is"),
        (["hi", "--stop", ""], "stop holds ''"),
        (["hi", "--candidates", "99"], "candidates is 99"),
        ([""], "the prompt is empty"),
        (["hi", "--raw", "--system", "x"], "--system needs the chat template. Leave out --raw"),
        (["hi", "--dtype", "int8"], "dtype is 'int8'"),
        (["hi", "--device", "nowhere"], "device 'nowhere' is not usable"),
        (["o gato " * 200], "96"),
    ],
)
def test_wrong_requests(run: Any, tiny: Path, args: list[str], said: str) -> None:
    outcome = run("generate", tiny, *args)
    assert outcome.code == 2 and said in outcome.error and outcome.out == ""


def test_a_prompt_that_is_not_utf8(tiny: Path) -> None:
    """Bytes on the command line reach Python as lone surrogates."""
    command = [os.fsencode(sys.executable), b"-m", b"vitral", b"generate", os.fsencode(tiny), b"a\xff"]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: the prompt is not UTF-8")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("smollm2-135m-instrukt", "Did you mean 'smollm2-135m-instruct'?"),
        ("./nowhere", "there is no file or folder './nowhere'"),
        ("smollm2-135m-instruct", "VITRAL_OFFLINE"),
    ],
)
def test_a_model_that_is_not_there(run: Any, name: str, said: str, tmp_path: Path) -> None:
    outcome = run("generate", name, "hi")
    assert outcome.code == 2 and said in outcome.error
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_chat_keeps_the_conversation(run: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[dict[str, str]]] = []
    stream = vitral.LanguageModel.stream

    def spy(self: Any, prompt: Any, **fields: Any) -> Any:
        seen.append([dict(message) for message in prompt])
        return stream(self, prompt, **fields)

    monkeypatch.setattr(vitral.LanguageModel, "stream", spy)
    feed(monkeypatch, b"um\ndois\n/reset\n/system calma\ntres\n/quit\nnunca\n")
    outcome = run("chat", tiny, "--max-tokens", 2, "--temperature", 0, "--system", "oi")
    assert outcome.code == 0
    assert [[(m["role"], m["content"]) for m in turn if m["role"] != "assistant"] for turn in seen] == [
        [("system", "oi"), ("user", "um")],
        [("system", "oi"), ("user", "um"), ("user", "dois")],
        [("system", "calma"), ("user", "tres")],
    ]
    assert [m["role"] for m in seen[1]] == ["system", "user", "assistant", "user"]


def test_chat_once(run: Any, tiny: Path) -> None:
    lm = vitral.load(tiny)
    expected = lm.generate([{"role": "user", "content": "o gato"}], max_tokens=4, temperature=0.0).text
    assert run("chat", tiny, "o gato", "--max-tokens", 4, "--temperature", 0).out == expected + "\n"


@pytest.mark.parametrize("args", [["generate", "{model}", "hi"], ["chat", "{model}", "hi"]])
def test_an_encoder_does_not_talk(run: Any, args: list[str]) -> None:
    model = artefact("minilm")
    outcome = run(*(arg.format(model=model) for arg in args))
    assert outcome.code == 2 and outcome.out == ""
    assert f"is an encoder and does not generate. Look inside it with: vitral inspect {model} TEXT" in outcome.error


def test_chat_checks_a_file_before_loading(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"um\nab\xff\n")
    outcome = run("chat", "./nowhere")
    assert outcome.code == 2 and "loading" not in outcome.err
    assert outcome.error.startswith("error: stdin is not UTF-8: byte 0xff at offset 5. ")


class Pipe(io.BytesIO):
    """Nothing but the next line can be had."""

    def seekable(self) -> bool:
        return False

    def read(self, size: int | None = -1) -> bytes:
        pytest.fail("whoever writes to the pipe may be waiting for an answer")


def test_chat_answers_a_pipe_line_by_line(run: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe("olá\r\n\ndois\n".encode() + b"tr\xeas\n"), "utf-8"))
    outcome = run("chat", tiny, "--max-tokens", 2, "--temperature", 0)
    assert outcome.code == 2 and "line 4 of stdin is not UTF-8: byte 0xea at offset 2" in outcome.error
    first, second = (run("chat", tiny, turn, "--max-tokens", 2, "--temperature", 0).out for turn in ("olá", "dois"))
    assert outcome.out.startswith(first) and len(outcome.out) > len(first) and second
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(b"tr\xeas\n"), "utf-8"))
    outcome = run("chat", "./nowhere")
    assert "line 1 of stdin is not UTF-8" in outcome.error and "loading" not in outcome.err


def test_what_a_person_types(monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[Any] = ["um", "dois", EOFError(), b"\xff"]

    def take(sign: str) -> str:
        line = typed.pop(0)
        if isinstance(line, EOFError):
            raise line
        return line.decode() if isinstance(line, bytes) else line

    monkeypatch.setattr("builtins.input", take)
    assert list(chat.typed_lines()) == ["um", "dois"]
    with pytest.raises(vitral.VitralError, match="not UTF-8"):
        list(chat.typed_lines())


def test_chat_reads_one_prompt_from_stdin(run: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"o gato\n")
    args = ["--max-tokens", 3, "--temperature", 0]
    assert run("chat", tiny, "-", *args).out == run("chat", tiny, "o gato", *args).out


def test_chat_needs_a_template(run: Any, base: Path) -> None:
    assert "has no chat template" in run("chat", base, "hi").error


def test_the_real_model_knows_paris(run: Any) -> None:
    model = artefact("smollm2")
    outcome = run("generate", model, "What is the capital of France?", "--temperature", 0, "--max-tokens", 16)
    assert outcome.out == "The capital of France is Paris.\n"
