"""Files that are whole or not there, and names that stay where they belong. No torch."""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vitral.errors import CheckpointError, VitralError

_CHUNK = 1 << 20
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def user_path(path: str | Path) -> Path:
    """A path that a person gave, with `~` for the home folder.

    Raises:
        VitralError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise VitralError(f"{str(path)!r} names no home folder", "Write the path out") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """The work that puts `path` in its place: missing parents are made, and go again should the work fail.

    Raises:
        VitralError: the system refuses (no permission, no space, a file where a folder should be).
    """
    made: list[Path] = []
    try:
        for folder in reversed(path.parents):
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                made.append(folder)
        yield
    except BaseException as error:
        for folder in reversed(made):
            with suppress(OSError):  # somebody else put something there meanwhile
                folder.rmdir()
        if isinstance(error, OSError):
            raise VitralError(
                f"{str(path)!r:.300} cannot be written: {error.strerror or error}", "Give another place"
            ) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to the yielded sibling; on success it takes `path`'s place in one step, on failure it disappears.

    The bytes reach the disk before the name does, so a crash leaves the old file or the new one, never half of one.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.touch()
    mode = temporary.stat().st_mode  # the user's own; some writers replace the file by a private one
    try:
        yield temporary
        temporary.chmod(mode)
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk (a no-op where folders cannot be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The SHA-256 of a file in lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def is_plain_name(name: str) -> bool:
    """Whether `name` is one file name that means the same on every system: no folder, drive, device, odd character."""
    return (
        0 < len(name) <= 255
        and name not in (".", "..")
        and name.isprintable()
        and not set(name) & set('/\\:*?"<>|')
        and name.split(".")[0].lower() not in _RESERVED
    )


def file_inside(folder: Path, name: str) -> Path:
    """The regular file `name` of a model folder.

    A link may lead elsewhere in the folder, or from a hub cache's `snapshots/<revision>/` to the `blobs/` beside it,
    and nowhere else: a downloaded folder must not be able to make us read the rest of the disk.

    Raises:
        CheckpointError: the name is a path, the file is missing or not a regular file, or a link leads outside.
    """
    if not is_plain_name(name):
        raise CheckpointError(f"{name!r:.80} is not a plain file name", f"Only files directly in {folder} are read")
    path, home = folder / name, folder.resolve()
    target = path.resolve()
    allowed = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(f"{path} is a link that leads outside its folder", "Put the file itself there")
    if not target.is_file():
        what = "is not a regular file" if target.exists() else "does not exist"
        raise CheckpointError(f"{path} {what}", "Download the model folder again")
    return path


def mapped(path: Path) -> mmap.mmap:
    """A file in memory as it is used, in a private (copy-on-write) map: nobody can write to the file through it.

    Raises:
        CheckpointError: the file is empty or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except ValueError as error:
        raise CheckpointError(f"{path} is empty", "Download it again") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
