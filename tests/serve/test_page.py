"""The committed build of the page: whole, served, and within the server's own policy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

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
