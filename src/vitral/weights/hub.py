"""Models from the Hugging Face hub, through the optional `huggingface_hub` package. No torch.

The package answers what a repository holds at a revision, with each file's digest, and supplies the person's token; the
bytes come through our own download, because its newest versions start a killed download again from nothing and check no
digest. Only files that cannot carry code are taken, and a branch is pinned to the commit it stood for.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitral.errors import CheckpointError, NotFoundError, VitralError, did_you_mean
from vitral.weights import cache
from vitral.weights.cache import Progress
from vitral.weights.download import Remote, fetch
from vitral.weights.files import is_plain_name, sha256
from vitral.weights.packages import Member

ALLOWED = (".safetensors", ".json", ".model", ".txt", ".jinja", ".gguf", ".tiktoken")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl")
_NOT_SMALL = (".safetensors", ".gguf", ".bin.index.json")
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(:[\w.-]{1,200}\.gguf)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Cached:
    """A hub model in the cache."""

    name: str
    """`owner/name`, with `:FILE.gguf` where one file was picked."""
    licence: str
    source: str
    folder: Path
    path: Path


def is_repo_id(name: str) -> bool:
    """Whether a name has the form `owner/name` or `owner/name:FILE.gguf`."""
    return bool(_REPO_ID.fullmatch(name)) and ".." not in name and "--" not in name


def pull(name: str, *, revision: str | None = None, progress: Progress | None = None) -> Path:
    """A hub model's folder (or its GGUF file) on this disk, fetched if need be.

    With no revision, what the cache holds is good enough; else the branch `main` is asked for. The commit is recorded.

    Raises:
        NotFoundError: the hub has no such repository, revision or file.
        VitralError: the extra is not installed, offline, no space, or a failed download (which can be resumed).
    """
    if revision is not None and not (_REVISION.fullmatch(revision) and ".." not in revision):
        raise VitralError(f"The revision {revision!r:.80} is not a branch, tag or commit", param="revision")
    lock = name.replace("/", "--").partition(":")[0]
    with cache.locked(lock, progress):
        for found in cached(name):
            manifest = cache.read_manifest(found.folder) or {}
            if revision in (None, manifest.get("revision"), manifest.get("commit")):
                return found.path
        cache.refuse_if_offline(name)
        return _fetch_model(name, revision or "main", progress)


def cached(name: str | None = None) -> list[Cached]:
    """The hub models in the cache (those of one name), newest first."""
    found = []
    for folder in sorted(cache.models().glob("*--*@*"), key=lambda path: path.stat().st_mtime, reverse=True):
        manifest = cache.read_manifest(folder) or {}
        held, file = manifest.get("name"), manifest.get("file")
        if isinstance(held, str) and folder.is_dir() and name in (None, held):
            path = folder / file if isinstance(file, str) and is_plain_name(file) else folder
            licence, source = str(manifest.get("licence", "unknown")), str(manifest.get("source", ""))
            found.append(Cached(name=held, licence=licence, source=source, folder=folder, path=path))
    return found


def folders(name: str) -> list[Path]:
    return [found.folder for found in cached(name)]


def pending(name: str) -> list[Path]:
    """Folders of unfinished downloads of a repository."""
    return sorted(cache.downloads().glob(f"{name.partition(':')[0].replace('/', '--')}@*"))


def take_files(
    repo: str, revision: str, members: Sequence[Member], folder: Path, progress: Progress | None = None
) -> None:
    """Fill `folder` with known files of a repository, each held against its SHA-256.

    Raises:
        VitralError: as `pull`.
        CheckpointError: a file is not what it must be.
    """
    info = _info(repo, revision)
    staging = cache.downloads() / f"{repo.replace('/', '--')}@{info.sha}"
    for member in members:
        remote = _remote(repo, info.sha, member.path, size=member.size, digest=member.sha256)
        _put(fetch(remote, staging / member.path, progress), folder / member.path)
    shutil.rmtree(staging, ignore_errors=True)


def _fetch_model(name: str, revision: str, progress: Progress | None) -> Path:
    repo, _, file = name.partition(":")
    info = _info(repo, revision)
    chosen = _choose(repo, {entry.rfilename: entry for entry in info.siblings or ()}, file)
    if file == "" and len(chosen) == 1 and chosen[0].rfilename.endswith(".gguf"):
        file = chosen[0].rfilename
    cache.require_space(sum(entry.size or 0 for entry in chosen), name)
    card = info.card_data
    licence = str((card.get("license") if card else None) or "unknown")
    say_licence(name, licence, progress)
    staging = cache.downloads() / f"{repo.replace('/', '--')}@{info.sha}"
    fetched = [fetch(_remote_of(repo, info.sha, e), staging / e.rfilename, progress) for e in chosen]
    manifest = {
        "name": name,
        "licence": licence,
        "source": f"{repo}@{info.sha}",
        "revision": revision,
        "commit": info.sha,
        "file": file or None,
        "sha256": {str(path.relative_to(staging).as_posix()): sha256(path) for path in fetched},
    }
    suffix = f"--{file}" if file else ""
    folder = cache.models() / f"{repo.replace('/', '--')}@{info.sha[:12]}{suffix}"
    with cache.installing(folder, manifest) as new:
        for path in fetched:
            _put(path, new / path.relative_to(staging))
    shutil.rmtree(staging, ignore_errors=True)
    return folder / file if file else folder


def say_licence(name: str, licence: str, progress: Progress | None) -> None:
    """Under what licence the weights are that are about to be fetched: whoever waits is told before the first byte."""
    if progress is not None:
        progress(f"{name}, licence: {licence}", 0, None)


def _put(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)


def _choose(repo: str, held: dict[str, Any], file: str) -> list[Any]:
    """The files to take: one GGUF, or one set of safetensors with the small files beside it."""
    if file:
        if file not in held:
            ggufs = [name for name in held if name.endswith(".gguf")]
            raise NotFoundError(f"{repo} has no file {file!r:.80}", did_you_mean(file, ggufs), param="model")
        return [held[file]]
    weights = [name for name in held if _WEIGHTS.fullmatch(name)]
    if not weights:
        weights = [name for name in held if name.endswith(".safetensors") and is_plain_name(name)]
    if "model.safetensors" in weights:
        weights = ["model.safetensors"]
    if weights:
        small = [name for name in held if _is_small(name)]
        return [held[name] for name in sorted({*weights, *small})]
    ggufs = sorted(name for name in held if name.endswith(".gguf") and is_plain_name(name))
    if len(ggufs) == 1:
        return [held[ggufs[0]]]
    if ggufs:
        raise VitralError(f"{repo} holds {len(ggufs)} GGUF files", f"Pick one, as in {repo}:{ggufs[0]}", param="model")
    pickles = [name for name in held if name.endswith(_PICKLES)]
    if pickles:
        raise CheckpointError(
            f"{repo} holds its weights only as {pickles[0]}, a kind of file that can run code when opened",
            "Look for a repository with safetensors or GGUF files",
        )
    raise CheckpointError(f"{repo} holds no weights that can be read", "It needs safetensors or GGUF files")


def _is_small(name: str) -> bool:
    """Whether a file belongs beside the weights: configuration and tokenizer at the top, or a sentence encoder's."""
    folder, slash, base = name.rpartition("/")
    if not is_plain_name(base) or not base.endswith(ALLOWED) or base.endswith(_NOT_SMALL):
        return False
    return not slash or bool(re.fullmatch(r"\d+_[A-Za-z]+", folder))


def _remote_of(repo: str, commit: str, entry: Any) -> Remote:
    digest, algorithm = (entry.lfs.sha256, "sha256") if entry.lfs else (entry.blob_id, "git-sha1")
    if not digest:
        raise VitralError(f"The hub gives no digest for {entry.rfilename} of {repo}", "It cannot be verified")
    return _remote(repo, commit, entry.rfilename, size=entry.size, digest=digest, algorithm=algorithm)


def _remote(repo: str, commit: str, file: str, *, size: int | None, digest: str, algorithm: Any = "sha256") -> Remote:
    library = _library()
    url = library.hf_hub_url(repo, file, revision=commit, endpoint=_endpoint())
    headers = library.utils.build_hf_headers(library_name="vitral")
    return Remote(url=url, size=size, digest=digest, algorithm=algorithm, headers=headers)


def _info(repo: str, revision: str) -> Any:
    """What the repository holds at a revision, and the commit that is."""
    library = _library()
    errors = library.errors
    try:
        info = library.HfApi(endpoint=_endpoint()).model_info(repo, revision=revision, files_metadata=True)
    except errors.GatedRepoError as error:
        raise VitralError(
            f"{repo} asks you to accept its licence first", "Do so on its hub page, then run: hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFoundError(
            f"The hub has no repository {repo!r} that you may read",
            "Check the spelling; private ones need: hf auth login",
            param="model",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotFoundError(f"{repo} has no revision {revision!r}", param="revision") from error
    except Exception as error:  # the library raises what its HTTP client raises, which changed between versions
        raise VitralError(
            f"The hub could not be asked about {repo}: {str(error)[:160]}", "Check the network, or HF_ENDPOINT"
        ) from error
    if not _COMMIT.fullmatch(info.sha or ""):
        raise VitralError(f"The hub answered with no commit for {repo}@{revision}", "Check HF_ENDPOINT")
    return info


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise VitralError(
            "Fetching from the Hugging Face hub needs the package huggingface_hub",
            "Install it: pip install 'vitral[hub]'",
        ) from error
    return huggingface_hub
