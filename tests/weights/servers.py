"""A file server on 127.0.0.1 that can resume, stall, refuse and lie, for the tests of `pull`."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Site:
    """What is served, what goes wrong, and what was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    """Fixed answers by path: status, headers, body."""
    stall_after: int | None = None
    """Send this many bytes of each file, then nothing more until `go` is set."""
    go: threading.Event = field(default_factory=threading.Event)
    resumes: bool = True
    drop_after: int | None = None
    """Close the connection after this many bytes of each answer."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range header) of every GET of a file."""
    tokens: list[str | None] = field(default_factory=list)
    """The Authorization header of every request."""
    sent: int = 0
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.site.tokens.append(self.headers.get("Authorization"))
        if path in self.site.answers:
            status, headers, body = self.site.answers[path]
            self._answer(status, headers, body)
        elif path in self.site.files:
            self._file(path, self.site.files[path])
        else:
            self._answer(404, {}, b"no such thing")

    def _file(self, path: str, content: bytes) -> None:
        wanted = self.headers.get("Range")
        if self.command == "GET":
            self.site.asked.append((path, wanted))
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted and self.site.resumes else 0
        if start >= len(content) > 0 and wanted and self.site.resumes:
            self._answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if wanted and self.site.resumes:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(206 if "Content-Range" in headers else 200, headers, content[start:])

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        stops = self.site.drop_after if len(body) > (self.site.drop_after or len(body)) else None
        for at in range(0, len(body), 1 << 14):
            if self.site.stall_after is not None and at >= self.site.stall_after:
                self.site.go.wait(30)
            if stops is not None and at >= stops:
                self.close_connection = True
                self.connection.close()
                return
            try:
                self.wfile.write(body[at : at + (1 << 14)])
            except OSError:  # the other side was killed, which is what some tests do
                self.close_connection = True
                return
            self.site.sent += len(body[at : at + (1 << 14)])

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read `asked`, not a log."""


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve `site` on a free port of 127.0.0.1; its address is in `site.url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        site.go.set()
        server.shutdown()
        server.server_close()


def wheel(name: str, version: str, files: Mapping[str, bytes]) -> bytes:
    """A minimal wheel, stored and not compressed, so that half of it is half of its model."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    shape = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, content in {**files, f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": shape.encode()}.items():
            archive.writestr(path, content)
        archive.writestr(f"{info}/RECORD", "")
    return out.getvalue()


def index(site: Site, name: str, version: str, content: bytes, *, digest: str | None = None) -> str:
    """Put a wheel on the site as a package index serves it, metadata beside it (PEP 503, 658). Returns its path."""
    file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    digest = digest or hashlib.sha256(content).hexdigest()
    known = f"sha256={hashlib.sha256(metadata).hexdigest()}"
    link = f'<a href="/packages/{file}#sha256={digest}" data-core-metadata="{known}" data-dist-info-metadata="{known}">'
    page = f"<!DOCTYPE html><html><body>{link}{file}</a></body></html>".encode()
    site.answers[f"/simple/{name}/"] = (200, {"Content-Type": "text/html"}, page)
    site.answers[f"/packages/{file}.metadata"] = (200, {}, metadata)
    site.files[f"/packages/{file}"] = content
    return f"/packages/{file}"


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come true")
        time.sleep(0.02)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, locks aside."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {path: content for path, content in found.items() if not path.startswith("locks")}


def hub_repository(site: Site, repo: str, files: Mapping[str, bytes], *, commit: str = "a" * 40, **lies: Any) -> None:
    """Put a repository on the site as the Hugging Face hub serves it; `lies` replaces what is said of a file."""
    siblings = []
    for name, content in files.items():
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
        if name.endswith((".safetensors", ".gguf", ".bin")):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
        siblings.append({**entry, **lies.get(name.replace(".", "_"), {})})
        site.files[f"/{repo}/resolve/{commit}/{name}"] = content
    info = {"_id": "1", "id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": [],
            "cardData": {"license": "apache-2.0"}, "private": False, "gated": False}  # fmt: skip
    for revision in ("main", commit):
        answer = (200, {"Content-Type": "application/json"}, json.dumps(info).encode())
        site.answers[f"/api/models/{repo}/revision/{revision}"] = answer
