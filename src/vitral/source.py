"""Where a model comes from, and what lies beside its weights: tokenizer, template, generation settings, pooling,
licence.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitral.errors import NotFoundError, VitralError
from vitral.generate.embed import Pooling
from vitral.generate.request import Sampling
from vitral.text.chat import ChatTemplate
from vitral.text.tokenizer import Tokenizer
from vitral.weights import catalogue
from vitral.weights.files import user_path
from vitral.weights.gguf_config import pooling_of
from vitral.weights.gguf_tokenizer import tokenizer_fields
from vitral.weights.load import Checkpoint, open_checkpoint, read_json

# Files of a sentence-embedding folder that are handed on when it is saved.
_SENTENCE_FILES = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "*.tiktoken", "tekken.json")
# Special tokens that end a turn; GGUF metadata names one of them at most.
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<end_of_turn>", "</s>")
_LICENCE = re.compile(r"^license(?:_name)?:\s*[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened checkpoint and its name.

    Args:
        name: what people call it: the catalogue name, the hub id, or the name of its folder or file.
        licence: of the weights, "" when nothing beside them says.
        generation: generation_config.json, {} when there is none.
    """

    name: str
    checkpoint: Checkpoint
    licence: str
    generation: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, source: str | Path, *, progress: Callable[..., None] | None = None) -> Source:
        """By path if there is such a file or folder, else by catalogue name or hub id (fetched if need be)."""
        if not isinstance(source, (str, Path)) or not str(source):
            raise VitralError(
                f"the model is {source!r:.40}", "Give a folder, a GGUF file, a name or a hub id", param="model"
            )
        path = user_path(source)
        name = str(source)
        if path.exists():
            name = path.resolve().stem if path.is_file() else path.resolve().name
        elif isinstance(source, Path) or name.startswith((".", "/", "~")) or name.endswith(".gguf"):
            remedy = "Give a model folder, a GGUF file, or a name of `vitral list`"
            raise NotFoundError(f"there is no file or folder {name!r:.300}", remedy)
        else:
            path = catalogue.pull(name, progress=progress)
        checkpoint = open_checkpoint(path)
        folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        generation = read_json(folder / "generation_config.json", {}) if checkpoint.path.is_dir() else {}
        known = catalogue.CATALOGUE.get(name)
        licence = known.licence if known else _licence(folder, checkpoint.metadata)
        return cls(name=name, checkpoint=checkpoint, licence=licence, generation=generation)

    @property
    def folder(self) -> Path | None:
        """The model folder, None for a GGUF file."""
        return self.checkpoint.path if self.checkpoint.path.is_dir() else None

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, None where there are no files of one."""
        if self.folder is None:
            return Tokenizer.from_gguf(self.checkpoint.metadata)
        held = any(path for pattern in _TOKENIZER_FILES for path in self.folder.glob(pattern))
        return Tokenizer.from_folder(self.folder) if held else None

    def chat(self, tokenizer: Tokenizer | None) -> ChatTemplate | None:
        """The chat template, None where the model has none."""
        return None if tokenizer is None else ChatTemplate.of(tokenizer)

    def eos(self, config: Mapping[str, Any], tokenizer: Tokenizer | None) -> frozenset[int]:
        """Ids that end an answer: what generation_config says, else the config, else the tokenizer's own."""
        said = self._said(config, "eos_token_id")
        ids = set(said) if isinstance(said, list) else {said}
        if tokenizer is not None:
            ids.add(tokenizer.eos_id)
        if tokenizer is not None and self.folder is None:
            ids |= {self.checkpoint.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ("eot", "eom")}
            ids |= {id for end in _TURN_ENDS if (id := tokenizer.token_id(end)) in tokenizer.special_ids}
        return frozenset(id for id in ids if isinstance(id, int) and not isinstance(id, bool))

    def first(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """What the decoder of an encoder–decoder begins with: its start, and the id that must follow, if any."""
        said = (self._said(config, key) for key in ("decoder_start_token_id", "forced_bos_token_id"))
        return tuple(id for id in said if isinstance(id, int) and not isinstance(id, bool))

    def banned(self, config: Mapping[str, Any]) -> frozenset[int]:
        """Ids that the publisher never wants chosen: single ids of bad_words_ids, and suppress_tokens."""
        words, single = self._said(config, "bad_words_ids") or [], self._said(config, "suppress_tokens") or []
        ids = [word[0] for word in words if isinstance(word, list) and len(word) == 1] + list(single)
        return frozenset(id for id in ids if isinstance(id, int) and id >= 0)

    def _said(self, config: Mapping[str, Any], key: str) -> Any:
        """A key of generation_config.json; of config.json, where older files have it, when it is not there."""
        return self.generation.get(key, config.get(key))

    def image_settings(self) -> Mapping[str, Any]:
        """preprocessor_config.json, {} where there is none."""
        return {} if self.folder is None else read_json(self.folder / "preprocessor_config.json", {})

    def sampling(self) -> Sampling:
        """The publisher's settings; greedy where it does not ask for sampling."""
        fields = ["repetition_penalty"]
        if self.generation.get("do_sample"):
            fields += ["temperature", "top_k", "top_p", "min_p"]
        said = {name: value for name in fields if (value := self.generation.get(name)) is not None}
        try:
            return Sampling(**({"temperature": 1.0} if len(fields) > 1 else {}) | said)
        except VitralError as error:
            raise VitralError(f"generation_config.json: {error.message}", error.remedy) from None

    @property
    def embeds(self) -> bool:
        """Whether its publisher made it to embed texts, and says how."""
        if self.folder is None:
            return pooling_of(self.checkpoint.metadata)[0] is not None
        return (self.folder / "modules.json").exists()

    def pooling(self) -> Pooling:
        """How its texts are to be pooled: as the folder or the GGUF file says; the mean where nothing does."""
        if not self.embeds:
            return Pooling()
        if self.folder is None:
            mode, longest = pooling_of(self.checkpoint.metadata)
            return Pooling.named(mode, longest)
        modules = read_json(self.folder / "modules.json", kind=list)
        place = self.folder / Pooling.place(modules)
        sentence = read_json(self.folder / "sentence_bert_config.json", {})
        return Pooling.read(modules, read_json(place / "config.json"), sentence)

    def save_beside(self, place: Path, tokenizer: Tokenizer | None, eos: frozenset[int]) -> None:
        """Write what belongs beside the weights of a saved folder."""
        if tokenizer is not None:
            tokenizer.save(place)
        self._save_card(place)
        generation = {**self.generation}
        if eos and "eos_token_id" not in generation:
            generation["eos_token_id"] = sorted(eos)
        for key in ("decoder_start_token_id", "pad_token_id"):  # without these an encoder–decoder cannot begin
            if key not in generation and isinstance(self.checkpoint.config.get(key), int):
                generation[key] = self.checkpoint.config[key]
        settings = self.image_settings()
        if settings:
            (place / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        if generation:
            (place / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
        for name in self._sentence_files():
            if (self.folder / name).is_file():  # type: ignore[operator]
                (place / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(self.folder / name, place / name)  # type: ignore[operator]

    def _save_card(self, place: Path) -> None:
        """The publisher's model card, or a short one: a copy must not lose the licence."""
        if self.folder is not None and (self.folder / "README.md").is_file():
            shutil.copyfile(self.folder / "README.md", place / "README.md")
        elif self.licence:
            text = (
                f"---\nlicense: {self.licence.lower()}\n---\n\n# {self.name}\n\nWritten by vitral from {self.name}.\n"
            )
            (place / "README.md").write_text(text, encoding="utf-8")

    def _sentence_files(self) -> tuple[str, ...]:
        if self.folder is None or not self.embeds:
            return ()
        modules = read_json(self.folder / "modules.json", kind=list)
        return (*_SENTENCE_FILES, f"{Pooling.place(modules)}/config.json")

    def tokenizer_fields(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """The `tokenizer.*` metadata of a GGUF export: the file's own where it came from one."""
        if self.folder is None:
            return {key: value for key, value in self.checkpoint.metadata.items() if key.startswith("tokenizer.")}
        roles = ("bos", "eos", "unk", "pad", "mask", "cls", "sep")
        return tokenizer_fields(
            json.loads(tokenizer.to_json()),
            vocab_size=self.checkpoint.config["vocab_size"],
            ids={role: getattr(tokenizer, f"{role}_id") for role in roles},
            chat_template=tokenizer.chat_template,
        )


def _licence(folder: Path, metadata: Mapping[str, Any]) -> str:
    """From the GGUF metadata or the model card beside the weights."""
    if "general.license" in metadata:
        return str(metadata["general.license"])
    card = folder / "README.md"
    if not card.is_file():
        return ""
    found = _LICENCE.search(card.read_text(encoding="utf-8", errors="replace")[:4000])
    return found.group(1) if found else ""
