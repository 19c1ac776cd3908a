"""Where downloaded models live: `$VITRAL_HOME` or `~/.cache/vitral`. No torch.

models/<name>/       whole, verified models; each with a vitral.json that says where it came from
downloads/           what is still coming in; safe to delete when nothing runs
locks/               one file a name, so that two pulls of one model take turns
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vitral.errors import VitralError
from vitral.weights.files import replacing

MANIFEST = "vitral.json"
Progress = Callable[[str, int, int | None], None]
"""Called as progress(what, bytes done, bytes in all or None when unknown)."""

_OFF = ("", "0", "false", "no", "off")
_MARGIN = 64 << 20
"""Bytes of disk left free."""


def root() -> Path:
    """The cache folder; it may not exist yet."""
    home = os.environ.get("VITRAL_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "vitral"


def models() -> Path:
    return root() / "models"


def downloads() -> Path:
    return root() / "downloads"


def offline() -> str | None:
    """The name of the environment variable that forbids the network, or None."""
    for name in ("VITRAL_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").lower() not in _OFF:
            return name
    return None


def refuse_if_offline(what: str) -> None:
    """Raise when the network may not be used."""
    if name := offline():
        raise VitralError(
            f"{what} is not in the cache ({root()}) and {name} forbids fetching it",
            f"Unset {name}, or copy the model into the cache",
        )


def require_space(needed: int, what: str) -> None:
    """Raise when the cache's disk has no room for `needed` more bytes."""
    place = root()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed + _MARGIN:
        raise VitralError(
            f"{what} needs {needed / 1e6:.0f} MB and {place} has {free / 1e6:.0f} MB free",
            "Free some space or set VITRAL_HOME to another disk",
        )


@contextmanager
def locked(name: str, progress: Progress | None = None) -> Iterator[None]:
    """Hold the lock of one model; waits while another process holds it. A killed holder's lock is free at once."""
    path = root() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        told = False
        while not _try_lock(file):
            if progress and not told:
                progress(f"waiting for another process that is fetching {name}", 0, None)
                told = True
            time.sleep(0.1)
        yield  # closing the file frees the lock


def _try_lock(file: IO[str]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def installing(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Path]:
    """Fill the yielded empty folder; on success it becomes `folder` in one step. Call under `locked`.

    A folder left behind by a killed process is cleared first; a damaged `folder` is replaced.
    """
    staging = folder.with_name(f".{folder.name}.new")
    replaced = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        with replacing(staging / MANIFEST) as path:
            path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(replaced)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What `installing` wrote beside a model, or None where there is nothing readable."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def folder_size(folder: Path) -> int:
    """Bytes of the files in a folder, sub-folders included."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
