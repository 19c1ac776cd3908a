"""The hub, played by a server on 127.0.0.1 that answers what huggingface_hub asks."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.weights.servers import Site, hub_repository, serving, tree, wait_for
from vitral.errors import CheckpointError, NotFoundError, VitralError
from vitral.weights import catalogue, hub
from vitral.weights.catalogue import Entry, HubFiles, list_models, pull, remove
from vitral.weights.packages import Member

pytest.importorskip("huggingface_hub")
SOURCE = Path(hub.__file__).parents[2]
COMMIT, LATER = "a" * 40, "b" * 40
WEIGHTS = random.Random(0).randbytes(2_000_000)
GOOD = {"config.json": b"{}", "tokenizer.json": b"{} ", "chat_template.jinja": b"{{ x }}"}
MODEL = {
    **GOOD,
    "model.safetensors": WEIGHTS,
    "1_Pooling/config.json": b"{}\n",
    "pytorch_model.bin": b"pickle",
    "modeling_toy.py": b"raise SystemExit",
    "consolidated.safetensors": b"twice",
    "onnx/config.json": b"{}",
    "README.md": b"# Toy",
    ".gitattributes": b"*",
}
TAKEN = {"model.safetensors", "1_Pooling/config.json", *GOOD}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("HF_", "VITRAL_", "HUGGING")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VITRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "home"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with serving(Site()) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        yield site


def _names(folder: Path) -> set[str]:
    return set(tree(folder)) - {"vitral.json"}


def test_a_repository_becomes_a_pinned_verified_folder(site: Site, home: Path) -> None:
    hub_repository(site, "owner/toy", MODEL)
    seen: list[str] = []
    folder = pull("owner/toy", progress=lambda what, *_: seen.append(what))
    assert seen[0] == "owner/toy, licence: apache-2.0"  # before the first byte
    assert folder.parent == home / "models"
    assert _names(folder) == TAKEN
    assert all((folder / name).read_bytes() == MODEL[name] for name in TAKEN)
    manifest = json.loads((folder / "vitral.json").read_text())
    assert (manifest["commit"], manifest["revision"], manifest["licence"]) == (COMMIT, "main", "apache-2.0")
    assert manifest["sha256"]["model.safetensors"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert {path for path, _ in site.asked} == {f"/owner/toy/resolve/{COMMIT}/{name}" for name in TAKEN}
    assert not list((home / "downloads").iterdir())


def test_what_is_here_is_not_asked_for_again_until_another_revision_is(site: Site, monkeypatch: Any) -> None:
    hub_repository(site, "owner/toy", MODEL)
    folder = pull("owner/toy")
    asked = len(site.tokens)
    assert pull("owner/toy") == pull("owner/toy", revision=COMMIT) == pull("owner/toy", revision="main") == folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull("owner/toy") == folder
    with pytest.raises(VitralError, match="HF_HUB_OFFLINE forbids"):
        pull("owner/toy", revision=LATER)
    assert len(site.tokens) == asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub_repository(site, "owner/toy", {**MODEL, "config.json": b"{ }"}, commit=LATER)
    later = pull("owner/toy", revision=LATER)
    assert later != folder
    assert (later / "config.json").read_bytes() == b"{ }"
    assert (folder / "config.json").read_bytes() == b"{}"


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_pull_killed_half_way_resumes_and_verifies(site: Site, home: Path) -> None:
    hub_repository(site, "owner/toy", MODEL)
    site.stall_after = 1_000_000
    code = "import sys; from vitral.weights.catalogue import pull; print(pull('owner/toy'))"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    part = home / "downloads" / f"owner--toy@{COMMIT}" / "model.safetensors.part"
    wait_for(lambda: part.exists() and part.stat().st_size >= 3 << 18)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = part.stat().st_size
    assert not list((home / "models").glob("*"))
    site.stall_after = None
    site.go.set()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert _names(Path(done.stdout.strip())) == TAKEN
    ranges = [wanted for path, wanted in site.asked if path.endswith("model.safetensors")]
    assert ranges == [None, f"bytes={kept}-"]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_that_is_not_what_the_hub_says_is_refused(file: str, site: Site, home: Path) -> None:
    """Both digests are checked: SHA-256 of large files, git's blob id of small ones."""
    hub_repository(site, "owner/toy", MODEL)
    path = f"/owner/toy/resolve/{COMMIT}/{file}"
    site.files[path] = bytes([site.files[path][0] ^ 1]) + site.files[path][1:]
    with pytest.raises(VitralError, match=rf"{file} is not the file that was promised"):
        pull("owner/toy")
    assert not list((home / "models").glob("*"))
    staging = home / "downloads" / f"owner--toy@{COMMIT}"
    assert not {file, f"{file}.part"} & set(tree(staging))


def test_a_file_of_another_size_is_refused(site: Site, home: Path) -> None:
    hub_repository(site, "owner/toy", MODEL, model_safetensors={"size": 12})
    with pytest.raises(VitralError, match="2000000 bytes, 12 were promised"):
        pull("owner/toy")
    assert not list((home / "models").glob("*"))


def test_a_file_without_a_digest_is_refused(site: Site) -> None:
    hub_repository(site, "owner/toy", MODEL, config_json={"blobId": None})
    with pytest.raises(VitralError, match=r"no digest for config\.json"):
        pull("owner/toy")


def test_names_that_lead_elsewhere_are_never_taken(site: Site, home: Path) -> None:
    evil = {"../evil.json": b"{}", "/abs.json": b"{}", "a\\b.json": b"{}", "CON.json": b"{}"}
    hub_repository(site, "owner/toy", {**MODEL, **evil})
    assert _names(pull("owner/toy")) == TAKEN
    assert not list(home.parent.rglob("evil.json"))


def test_shards_come_with_their_index_and_nothing_else(site: Site) -> None:
    files = {
        **GOOD, "model-00001-of-00002.safetensors": b"a", "model-00002-of-00002.safetensors": b"b",
        "model.safetensors.index.json": b"{}", "consolidated.safetensors": b"c", "pytorch_model.bin.index.json": b"{}",
    }  # fmt: skip
    hub_repository(site, "owner/big", files)
    assert _names(pull("owner/big")) == set(files) - {"consolidated.safetensors", "pytorch_model.bin.index.json"}


def test_gguf_files_are_picked_by_name(site: Site) -> None:
    hub_repository(site, "owner/one-gguf", {"one.Q4_0.gguf": b"GGUF1", "config.json": b"{}"})
    assert pull("owner/one-gguf").read_bytes() == b"GGUF1"
    hub_repository(site, "owner/two", {"m.Q4_0.gguf": b"GGUF4", "m.Q8_0.gguf": b"GGUF8"})
    with pytest.raises(VitralError, match=r"holds 2 GGUF files.*owner/two:m\.Q4_0\.gguf"):
        pull("owner/two")
    assert pull("owner/two:m.Q8_0.gguf").read_bytes() == b"GGUF8"
    assert pull("owner/two:m.Q4_0.gguf").read_bytes() == b"GGUF4"
    with pytest.raises(NotFoundError, match=r"no file 'm\.Q9_0\.gguf'.*Did you mean"):
        pull("owner/two:m.Q9_0.gguf")


def test_pickles_alone_are_refused(site: Site, home: Path) -> None:
    hub_repository(site, "owner/old", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(CheckpointError, match=r"only as pytorch_model\.bin"):
        pull("owner/old")
    assert site.asked == []


def test_what_the_hub_does_not_have_is_said(site: Site) -> None:
    missing = (404, {"X-Error-Code": "RepoNotFound"}, b"")
    site.answers["/api/models/owner/none/revision/main"] = missing
    with pytest.raises(NotFoundError, match="no repository 'owner/none'"):
        pull("owner/none")
    site.answers["/api/models/owner/toy/revision/v9"] = (404, {"X-Error-Code": "RevisionNotFound"}, b"")
    with pytest.raises(NotFoundError, match="no revision 'v9'"):
        pull("owner/toy", revision="v9")
    site.answers["/api/models/owner/gated/revision/main"] = (403, {"X-Error-Code": "GatedRepo"}, b"")
    with pytest.raises(VitralError, match="accept its licence"):
        pull("owner/gated")


@pytest.mark.parametrize("revision", ["../x", "", "a b", "x" * 300, "-x"])
def test_a_revision_is_a_name_and_no_path(revision: str, site: Site) -> None:
    with pytest.raises(VitralError, match="not a branch, tag or commit"):
        pull("owner/toy", revision=revision)
    assert site.tokens == []


def test_no_hub_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(VitralError, match="could not be asked about owner/toy") as caught:
        pull("owner/toy")
    assert "\n" not in str(caught.value)


def test_without_the_extra_the_command_to_install_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(VitralError, match=r"pip install 'vitral\[hub\]'"):
        pull("owner/toy")


def test_a_token_goes_to_the_hub_and_to_nobody_it_redirects_to(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: "hf_secret")
    hub_repository(site, "owner/toy", {"model.safetensors": WEIGHTS})
    with serving(Site(files={"/blob": WEIGHTS})) as other:
        path = f"/owner/toy/resolve/{COMMIT}/model.safetensors"
        site.answers[path] = (302, {"Location": f"{other.url}/blob"}, b"")
        assert (pull("owner/toy") / "model.safetensors").read_bytes() == WEIGHTS
        assert set(site.tokens) == {"Bearer hf_secret"}
        assert other.tokens == [None]


def test_list_and_remove(site: Site, home: Path) -> None:
    hub_repository(site, "owner/toy", MODEL)
    folder = pull("owner/toy")
    row = next(row for row in list_models() if row.name == "owner/toy")
    assert (row.path, row.licence, row.source) == (folder, "apache-2.0", f"owner/toy@{COMMIT}")
    assert remove("owner/toy") == row.size
    assert tree(home) == {}
    with pytest.raises(NotFoundError, match="holds no model"):
        remove("owner/toy")


def test_a_catalogue_model_comes_from_the_hub_where_the_index_has_it_not(site: Site, monkeypatch: Any) -> None:
    member = Member(path="model.safetensors", sha256=hashlib.sha256(WEIGHTS).hexdigest(), size=len(WEIGHTS))
    toy = Entry(
        name="toy", what="", licence="MIT", kind="folder", upstream="owner/toy", files=(member,),
        sources=(HubFiles(repo="owner/toy", revision="main"),),
    )  # fmt: skip
    monkeypatch.setattr(catalogue, "CATALOGUE", {"toy": toy})
    hub_repository(site, "owner/toy", MODEL)
    assert (pull("toy") / "model.safetensors").read_bytes() == WEIGHTS
    remove("toy")
    hub_repository(site, "owner/toy", {**MODEL, "model.safetensors": WEIGHTS[::-1]})
    with pytest.raises(VitralError, match="not the file that was promised"):
        pull("toy")
