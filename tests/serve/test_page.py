"""The committed build of the page: whole, served, and within the server's own policy."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import vitral.serve.app as app
from tests.serve.server import running
from tests.serve.toy import ToyLM
from vitral.serve.app import PAGE

INDEX = (PAGE / "index.html").read_text("utf-8")
ASSETS = sorted((PAGE / "assets").iterdir())


def test_page_is_served_and_so_is_everything_it_names(http: TestClient) -> None:
    page = http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert page.text == INDEX
    assert http.head("/").status_code == 200
    named = re.findall(r'(?:src|href)="\./(assets/[^"]+)"', INDEX)
    assert {kind.rsplit(".", 1)[1] for kind in named} == {"js", "css", "svg"}
    assert sorted(PAGE / name for name in named) == ASSETS, "built files that nothing names, or names without a file"
    for name in named:
        assert http.get(f"/{name}").status_code == 200


def test_page_needs_nothing_its_policy_forbids() -> None:
    assert not re.search(r"<script(?![^>]*\bsrc=)", INDEX), "an inline script"
    assert not re.search(r"<style|\sstyle=|\son\w+=", INDEX), "an inline style or handler"
    assert not re.search(r'(?:src|href)="(?!\./|#)', INDEX), "something from elsewhere"


@pytest.mark.parametrize("asset", ASSETS, ids=lambda path: path.suffix)
def test_assets_reach_for_nothing_outside_and_write_no_html(asset: Path) -> None:
    text = asset.read_text("utf-8")
    urls = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`)]*", text)) - {"http://www.w3.org/2000/svg"}
    assert urls == set()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|url\(", text)


ASK_TOO_MUCH = """
const find = (selector) => document.querySelector(selector);
const until = async (test) => { while (!test()) await new Promise((done) => setTimeout(done, 20)); };
await until(() => find("#model").value !== "");
find("#prompt").value = "word\\n".repeat(300);
find("#composer").requestSubmit();
await until(() => find(".answer .error") !== null && find("#prompt").value !== "");
const [error, pane, head] = [".answer .error", ".pane", "header"].map((name) => find(name).getBoundingClientRect());
document.body.dataset.seen = String(head.bottom <= error.top && error.bottom <= pane.top);
"""


def test_the_error_of_a_too_long_message_is_in_view(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs Chromium or Chrome")
    page = shutil.copytree(PAGE, tmp_path / "page")
    (page / "assets" / "ask.js").write_text(ASK_TOO_MUCH, "utf-8")
    script = '<script type="module" src="./assets/ask.js"></script></body>'
    (page / "index.html").write_text(INDEX.replace("</body>", script), "utf-8")
    monkeypatch.setattr(app, "PAGE", page)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--window-size=800,600"]
    with running(ToyLM(context=100)) as url:
        command = [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", url]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert re.findall(r'data-seen="(\w+)"', dom) == ["true"]
