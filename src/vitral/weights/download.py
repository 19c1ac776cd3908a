"""Fetch one file over HTTP so that a killed download goes on where it stopped, and nothing wrong is ever kept.

Bytes go to `<target>.part`. A second run asks only for what is missing (HTTP Range); when all is there the digest
decides: right, and the file takes its name; wrong, and it is fetched once more from the start, then refused.
Only the standard library: certificates and proxies come from the usual environment variables.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from vitral.errors import VitralError
from vitral.weights.cache import Progress
from vitral.weights.files import sync

_CHUNK = 1 << 18
_TIMEOUT = 60.0
_ATTEMPTS = 5
"""Failures in a row, without one new byte, before giving up."""
_CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class DownloadError(VitralError):
    """A file that could not be fetched, or that came out wrong."""


class MismatchError(DownloadError):
    """What arrived is not what was promised; nothing of it is kept."""


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file on a server and what is known of it beforehand."""

    url: str
    size: int | None = None
    digest: str | None = None
    """Lower-case hex."""
    algorithm: Literal["sha256", "git-sha1"] = "sha256"
    """`git-sha1` is git's blob id: SHA-1 over `blob <size>\\0` and the content."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).path.rpartition("/")[2])


def fetch(remote: Remote, target: Path, progress: Progress | None = None) -> Path:
    """Download `remote` to `target`, resuming `<target>.part`. Not safe for two processes at once: hold a lock.

    Raises:
        DownloadError: the server refused or was not there, or the bytes do not match the digest.
    """
    part = part_of(target)
    part.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # arrived, and then we were killed: check it like any other beginning
        os.replace(target, part)
    resumed = part.exists() and part.stat().st_size > 0
    _complete(remote, part, progress)
    if not _matches(remote, part):
        part.unlink()
        if not resumed:
            raise _mismatch(remote)
        # What lay there may have been damaged: only a fresh copy can tell.
        _complete(remote, part, progress)
        if not _matches(remote, part):
            part.unlink()
            raise _mismatch(remote)
    sync(part)
    os.replace(part, target)
    return target


def part_of(target: Path) -> Path:
    """Where the bytes of an unfinished download lie."""
    return target.with_name(target.name + ".part")


def _complete(remote: Remote, part: Path, progress: Progress | None) -> None:
    """Append to `part` until the server says it is whole."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _append(remote, part, progress):
                return
            cause: Exception | str = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code not in (408, 425, 429) and error.code < 500:
                raise DownloadError(
                    f"{_shown(remote)} answered {error.code} {error.reason}",
                    "Check that the name and version exist and that you may read them",
                ) from error
            cause = error
        except ssl.SSLCertVerificationError as error:
            raise _no_certificate(remote) from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise _no_certificate(remote) from error
            cause = error
        failures = 0 if part.exists() and part.stat().st_size > before else failures + 1
        if failures >= _ATTEMPTS:
            raise DownloadError(
                f"{_shown(remote)} could not be fetched: {str(cause)[:160]}",
                "Check the network and run it again; what has arrived is kept",
            )
        if failures:
            time.sleep(min(0.25 * 2**failures, 8.0))


def _append(remote: Remote, part: Path, progress: Progress | None) -> bool:
    """One request for what is missing; whether the file is whole now."""
    have = part.stat().st_size if part.exists() else 0
    if remote.size is not None:
        if have > remote.size:
            part.unlink()
            have = 0
        elif have == remote.size and have:
            return True
    request = urllib.request.Request(remote.url, headers={"User-Agent": "vitral", "Accept-Encoding": "identity"})
    for key, value in remote.headers.items():
        request.add_header(key, value)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = _opener().open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return True  # we had it all
        part.unlink()
        return False
    with response:
        start, total = _extent(response, have)
        if start != have:
            have = 0  # the server does not resume: begin again
        if remote.size is not None and total is not None and total != remote.size:
            raise MismatchError(f"{_shown(remote)} has {total} bytes, {remote.size} were promised", "Report it")
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            have = _copy(response, file, have, total, remote.name, progress)
    total = total if total is not None else remote.size
    return total is None or have == total


def _extent(response: Any, asked: int) -> tuple[int, int | None]:
    """(offset of the first byte that comes, size of the whole file if the server says)."""
    if response.status == 206:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found and int(found[1]) == asked:
            return asked, None if found[2] == "*" else int(found[2])
        raise http.client.HTTPException("the server answered with another range than asked")
    length = response.headers.get("Content-Length")
    return 0, int(length) if length and length.isdecimal() else None


def _copy(source: Any, file: IO[bytes], done: int, total: int | None, name: str, progress: Progress | None) -> int:
    """Copy what comes, never past `total`, reporting as it goes; returns the file's new size."""
    while chunk := source.read(_CHUNK):
        if total is not None and done + len(chunk) > total:
            raise http.client.HTTPException("the server sent more than it announced")
        file.write(chunk)
        file.flush()  # a killed process keeps what it has paid for
        done += len(chunk)
        if progress:
            progress(name, done, total)
    return done


def _matches(remote: Remote, part: Path) -> bool:
    size = part.stat().st_size
    if remote.size is not None and size != remote.size:
        return False
    if remote.digest is None:
        return True
    digest = hashlib.sha256() if remote.algorithm == "sha256" else hashlib.sha1(b"blob %d\0" % size)
    with part.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == remote.digest.lower()


class _SafeRedirect(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but carry a token to no other host and never fall back to plain HTTP."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None:
            if req.type == "https" and new.type != "https":
                raise urllib.error.URLError(f"redirected from https to {new.type}")
            if req.host != new.host:
                new.remove_header("Authorization")
        return new


def _opener() -> urllib.request.OpenerDirector:
    context = ssl.create_default_context()
    for name in _CERTIFICATES:
        place = os.environ.get(name)
        if place and os.path.exists(place):
            context.load_verify_locations(**{"capath" if os.path.isdir(place) else "cafile": place})
            break
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        _SafeRedirect(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _shown(remote: Remote) -> str:
    """The address without user, password or query, which may hold secrets."""
    parts = urllib.parse.urlsplit(remote.url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _mismatch(remote: Remote) -> MismatchError:
    return MismatchError(
        f"{_shown(remote)} is not the file that was promised (its {remote.algorithm} differs)",
        "Nothing was kept; try again, and if it stays so do not trust that server",
    )


def _no_certificate(remote: Remote) -> DownloadError:
    return DownloadError(
        f"{_shown(remote)} could not be verified (TLS certificate)",
        "Set SSL_CERT_FILE to your certificate bundle",
    )
