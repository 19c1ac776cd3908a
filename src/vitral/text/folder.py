"""A tokenizer in a model folder: which files count, and how they are written back.

tokenizer.json comes first, since it is complete; then SentencePiece, rank files, and those of GPT-2 and BERT.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Core

from vitral.errors import CheckpointError, NotFoundError
from vitral.text import gpt2, sentencepiece, tiktoken, wordpiece
from vitral.text.charsmap import Charsmap

_TEMPLATE = "chat_template.jinja"
_MORE_TEMPLATES = "additional_chat_templates"


def read(folder: Path) -> tuple[Core, dict[str, Any] | None, Charsmap | None]:
    """The `tokenizers` object of a folder, its configuration (None where it has none) and its normalisation rules.

    Raises:
        NotFoundError: there is no tokenizer here.
        CheckpointError: a file is damaged.
    """
    config = read_config(folder)
    core, found, *rules = _read_vocabulary(folder, config or {})
    merged = config if config is None and not found else {**found, **(config or {})}
    return core, merged, rules[0] if rules else None


def _read_vocabulary(folder: Path, config: Mapping[str, Any]) -> tuple[Any, ...]:
    if (path := folder / "tokenizer.json").is_file():
        return read_json(path), {}
    for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"):
        if (path := folder / name).is_file():
            # Llama 3's own tokenizer.model is a rank file.
            return tiktoken.read(path) if _looks_like_ranks(path) else sentencepiece.read(path)
    if (path := folder / "tekken.json").is_file():
        return tiktoken.read_tekken(path)
    if ranks := sorted(folder.glob("*.tiktoken")):
        return tiktoken.read(ranks[0])
    for vocabulary, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if (folder / vocabulary).is_file() and (folder / merges).is_file():
            return gpt2.read(folder / vocabulary, folder / merges)
    if (path := folder / "vocab.txt").is_file():
        return wordpiece.read(path, bool(config.get("do_lower_case", True)))
    raise NotFoundError(f"{folder} holds no tokenizer", "Expected tokenizer.json, tokenizer.model or vocab.txt")


def read_json(path: Path) -> Core:
    """A tokenizer.json."""
    try:
        return Core.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        if not path.is_file():
            raise NotFoundError(f"{path} does not exist", "") from error
        raise CheckpointError(f"{path} is no tokenizer.json ({error})", "Fetch the file again") from error


def read_config(folder: Path) -> dict[str, Any] | None:
    """tokenizer_config.json, special_tokens_map.json and the template files as one; None where none of them is here."""
    config: dict[str, Any] = {}
    found = False
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the second overrides the first
        if (folder / name).is_file():
            found = True
            config |= {key: value for key, value in _object(folder / name).items() if value is not None}
    templates = _template_files(folder)
    if templates:
        config["chat_template"] = templates
    return config if found or templates else None


def _template_files(folder: Path) -> dict[str, str]:
    """Templates that lie in files of their own; they replace those in tokenizer_config.json."""
    files = {"default": folder / _TEMPLATE}
    files |= {path.stem: path for path in sorted((folder / _MORE_TEMPLATES).glob("*.jinja"))}
    return {name: _text(path) for name, path in files.items() if path.is_file()}


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON ({error})", "Fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object", "Fetch the file again")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 (byte {error.start})", "Fetch the file again") from error


def _looks_like_ranks(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(64).split(b"\n")[0].split()
    return len(head) == 2 and head[1].isdigit()


def write(folder: Path, tokenizer: str, config: Mapping[str, Any], templates: Mapping[str, str]) -> None:
    """Writes the files of a tokenizer, each in one step: a reader never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in config.items() if key not in ("chat_template", "auto_map")}
    # tokenizer.json says everything; a class of one family would rebuild parts of it from its own defaults.
    kept["tokenizer_class"] = "PreTrainedTokenizerFast"
    _replace(folder / "tokenizer.json", tokenizer)
    _replace(folder / "tokenizer_config.json", json.dumps(kept, ensure_ascii=False, indent=2) + "\n")
    for name, source in templates.items():
        path = folder / _TEMPLATE if name == "default" else folder / _MORE_TEMPLATES / f"{Path(name).name}.jinja"
        path.parent.mkdir(exist_ok=True)
        _replace(path, source)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
