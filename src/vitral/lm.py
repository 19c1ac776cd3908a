"""The object people hold: a model, its tokenizer and its chat template.

lm = vitral.load("smollm2-135m-instruct")
lm.generate([{"role": "user", "content": "What is the capital of France?"}]).text
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitral.errors import PromptTooLongError, VitralError, did_you_mean
from vitral.generate.embed import Pooling, embed
from vitral.generate.loop import NoText, run
from vitral.generate.request import Generation, Sampling, Token, check_text_length
from vitral.generate.start import start
from vitral.inputs import Ids, alike, as_ids, segment_table, table, token_table, usable
from vitral.nn import Model, Spec, Step
from vitral.source import Source
from vitral.text.chat import ChatTemplate, encode_chat
from vitral.text.tokenizer import Tokenizer
from vitral.weights.load import DTYPES, load_model
from vitral.weights.save import save_folder, save_gguf

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Messages | Sequence[int]
"""A text as it stands, messages for the chat template, or ids."""
LATER = {"beams": 1, "schema": None}
"""Options that later versions give a meaning; here only these values are accepted."""


def load(
    source: str | Path,
    device: str = "cpu",
    dtype: str | torch.dtype = "float32",
    quantize: str | None = None,
    *,
    progress: Callable[..., None] | None = None,
) -> LanguageModel:
    """Load a model by folder, GGUF file, catalogue name or hub id.

    Args:
        dtype: of the weights in memory: float32, bfloat16, float16 or float64.
        quantize: not available yet; a quantised file is dequantised.
        progress: told about a download, if one is needed.

    Raises:
        VitralError: an unknown name, a damaged or unsafe file, a config or a tensor that does not belong.
    """
    if quantize is not None:
        raise VitralError(f"quantize={quantize!r} is not available yet", "Leave it out: weights are held in dtype")
    device = usable(device)
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise VitralError(f"dtype is {name!r:.40}", did_you_mean(name, DTYPES))
    found = Source.find(source, progress=progress)
    model, spec, config, family = load_model(found.checkpoint, device=device, dtype=DTYPES[name])
    return LanguageModel(model=model, spec=spec, config=config, family=family, source=found)


class LanguageModel:
    """A model with its tokenizer and template; made by `vitral.load`.

    Attributes:
        model: the torch module; `record(lm.model, …)` looks into it.
        spec: the data it was built from. config: the published config.
        name, licence: of the weights. context: most tokens it reads. kind: "decoder", "encoder" or "encoder-decoder".
        defaults: the sampling its publisher recommends; greedy when none is given.
    """

    def __init__(self, *, model: Model, spec: Spec, config: dict[str, Any], family: Any, source: Source) -> None:
        self.model = model
        self.spec = spec
        self.config = config
        self.family = family
        self.source = source
        self.name = source.name
        self.licence = source.licence or "unknown"
        reader = model.encoder or model
        self.context = reader.context
        self.kind = "encoder-decoder" if model.encoder else "decoder" if model.generates else "encoder"
        self.defaults = source.sampling()
        self._tokenizer = source.tokenizer()
        self.chat: ChatTemplate | None = source.chat(self._tokenizer)
        self.eos = source.eos(config, self._tokenizer)
        self.pooling: Pooling = source.pooling()

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {self.kind}, {self.spec.count().total:,} parameters)"

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; a folder without one still gives logits for ids."""
        if self._tokenizer is None:
            raise VitralError(f"{self.name} has no tokenizer files", "Add tokenizer.json to its folder, or pass ids")
        return self._tokenizer

    # ── looking at numbers ──────────────────────────────────────────────────────────────────────────────────

    def logits(
        self,
        input_ids: Ids,
        attention_mask: Ids | None = None,
        decoder_input_ids: Ids | None = None,
        pixel_values: Any = None,
        *,
        segments: Ids | None = None,
    ) -> Tensor:
        """Logits [B, T, V] of ids [B, T] (or one text [T]); `attention_mask` is 0 on padding, which may be on either
        side. An encoder–decoder reads `input_ids` and gives the logits of `decoder_input_ids`.
        """
        if self.model.head is None:
            raise VitralError(f"{self.name} has no vocabulary head", "Use hidden() or embed()")
        if pixel_values is not None:
            raise VitralError(f"{self.name} has no use for pixel_values", "Leave it out", param="pixel_values")
        with torch.no_grad():
            ids, step, options = self._whole_pass(input_ids, attention_mask, decoder_input_ids, segments)
            return self.model(ids, step, **options)

    def hidden(
        self,
        input_ids: Ids,
        attention_mask: Ids | None = None,
        decoder_input_ids: Ids | None = None,
        *,
        segments: Ids | None = None,
    ) -> Tensor:
        """Hidden states [B, T, d_model] after the last norm; of an encoder–decoder those of its decoder, or, without
        decoder_input_ids, of its encoder.
        """
        with torch.no_grad():
            if self.model.encoder is not None and decoder_input_ids is None:
                ids, valid = self._read(self.model.encoder, input_ids, attention_mask)
                return self.model.encoder.hidden(ids, self.model.encoder.step(ids, valid))
            ids, step, options = self._whole_pass(input_ids, attention_mask, decoder_input_ids, segments)
            return self.model.hidden(ids, step, **options)

    def _whole_pass(
        self, input_ids: Ids, attention_mask: Ids | None, decoder_input_ids: Ids | None, segments: Ids | None
    ) -> tuple[Tensor, Step, dict[str, Tensor]]:
        model, encoder = self.model, self.model.encoder
        ids, valid = self._read(encoder or model, input_ids, attention_mask)
        if encoder is not None:
            if decoder_input_ids is None:
                remedy = "Give the ids its decoder begins with: a list, or [B, T]"
                raise VitralError(f"{self.name} is an encoder–decoder", remedy, param="decoder_input_ids")
            written = token_table("decoder_input_ids", decoder_input_ids, model)
            if len(written) != len(ids):
                raise VitralError(
                    f"decoder_input_ids has {len(written)} rows and input_ids {len(ids)}", param="decoder_input_ids"
                )
            return written, model.step(written, memory=model.remember(ids, valid)), {}
        if decoder_input_ids is not None:
            raise VitralError(
                f"{self.name} has no use for decoder_input_ids", "Leave it out", param="decoder_input_ids"
            )
        options = {}
        if segments is not None:
            options["segments"] = alike("segments", segment_table(segments, model.embed.segments, ids.device), ids)
        return ids, model.step(ids, valid), options

    def _read(self, model: Model, input_ids: Ids, attention_mask: Ids | None) -> tuple[Tensor, Tensor | None]:
        ids = token_table("input_ids", input_ids, model)
        if attention_mask is None:
            return ids, None
        return ids, alike("attention_mask", table("attention_mask", attention_mask, ids.device).bool(), ids)

    # ── text ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def longest_text(self) -> int | None:
        """Characters that can fit the context at most; None where the tokenizer allows no such bound."""
        piece = self._tokenizer.longest_piece if self._tokenizer else None
        return None if piece is None else self.context * piece

    def encode_prompt(
        self, prompt: Prompt, tools: Sequence[Any] | None = None, template: Mapping[str, Any] | None = None
    ) -> list[int]:
        """The ids the model reads: a text as it stands, messages through the chat template, or ids unchanged.

        Text never becomes a special token, whatever it spells; who wants one gives its id.

        Args:
            tools: JSON schemas of functions, for the template.
            template: what else it may be told, such as {"enable_thinking": False} (`vitral.text.chat.OPTIONS`).
        """
        if isinstance(prompt, str):
            if not prompt:
                raise VitralError("the prompt is empty", "Give some text", param="prompt")
            check_text_length(len(prompt), longest=self.longest_text, context=self.context, param="prompt")
            return self.tokenizer.encode(prompt)
        ids = as_ids(prompt)
        if ids is not None:
            return ids
        if not isinstance(prompt, (list, tuple)) or not all(isinstance(message, Mapping) for message in prompt):
            raise VitralError(
                f"the prompt is a {type(prompt).__name__}",
                "Give a text, a list of messages, or a list of ids",
                param="prompt",
            )
        if not prompt:
            raise VitralError("there are no messages", "Give at least one", param="messages")
        if self.chat is None and self.kind == "encoder-decoder" and len(prompt) == 1:
            return self.encode_prompt(str(prompt[0].get("content") or ""))  # text to text: the one message is the text
        if self.chat is None:
            raise VitralError(
                f"{self.name} has no chat template", "Give a plain prompt, or a model tuned for chat", param="messages"
            )
        messages: Any = list(prompt)
        return encode_chat(self.tokenizer, self.chat, messages, tools=tools, **(template or {}))

    def stream(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[Any] | None = None,
        template: Mapping[str, Any] | None = None,
        sampling: Sampling | None = None,
        stopped: Callable[[], bool] = lambda: False,
        **fields: Any,
    ) -> Iterator[Token]:
        """Tokens as they come; closing the iterator stops the work.

        Args:
            prompt: a text, messages for the chat template, or ids; `tools` and `template` as in `encode_prompt`.
            sampling: all settings at once; single ones may be given by name instead or as well (temperature=…, stop=…).
            stopped: asked now and then, also while a long prompt is read; once it says True the tokens end.
        """
        tokens = self._run([self.encode_prompt(prompt, tools, template)], self._sampling(sampling, fields), stopped)
        return (token for _, token in tokens)

    @overload
    def generate(self, prompt: list[str] | list[list[int]], **options: Any) -> list[Generation]: ...
    @overload
    def generate(self, prompt: Prompt, **options: Any) -> Generation: ...
    def generate(
        self,
        prompt: Prompt | list[str] | list[list[int]],
        *,
        tools: Sequence[Any] | None = None,
        template: Mapping[str, Any] | None = None,
        sampling: Sampling | None = None,
        **fields: Any,
    ) -> Generation | list[Generation]:
        """A finished answer; for a list of texts (or of ids), one each, worked out together. Options as in `stream`."""
        batch = isinstance(prompt, (list, tuple)) and len(prompt) > 0 and not isinstance(prompt[0], Mapping)
        batch = batch and as_ids(prompt) is None
        each: Any = prompt if batch else [prompt]
        prompts = [self.encode_prompt(one, tools, template) for one in each]
        answers: list[list[Token]] = [[] for _ in prompts]
        for row, token in self._run(prompts, self._sampling(sampling, fields)):
            answers[row].append(token)
        made = [
            Generation(
                text="".join(token.text for token in tokens),
                prompt_ids=tuple(ids),
                tokens=tuple(tokens),
                finish_reason=tokens[-1].finish_reason or "length",
                prompt_text=self._tokenizer.decode(ids, skip_special=False) if self._tokenizer else "",
            )
            for ids, tokens in zip(prompts, answers, strict=True)
        ]
        return made if batch else made[0]

    def _run(
        self, prompts: list[list[int]], sampling: Sampling, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Token]]:
        if not self.model.generates:
            raise VitralError(f"{self.name} is an encoder and does not generate", "Use embed() or logits()")
        reader = self.model.encoder or self.model
        vocab = reader.embed.tokens.weight.shape[0]
        if any(not 0 <= id < vocab for ids in prompts for id in ids):
            raise VitralError(f"the prompt has ids outside 0 to {vocab - 1}, the model's vocabulary", param="prompt")
        if self._tokenizer is None and sampling.stop:
            raise VitralError(f"{self.name} has no tokenizer, so no text to stop at", param="stop")
        tokenizer = self._tokenizer or NoText()
        limit = vocab if self._tokenizer is None else min(vocab, self._tokenizer.vocab_size)
        begun = start(self.model, prompts, self.source.first(self.config))
        return run(
            self.model,
            begun,
            [sampling] * len(prompts),
            tokenizer=tokenizer,
            eos=self.eos,
            vocab_limit=limit,
            banned=self.source.banned(self.config),
            stopped=stopped,
        )

    def _sampling(self, sampling: Sampling | None, fields: dict[str, Any]) -> Sampling:
        for name, neutral in LATER.items():
            if fields.pop(name, neutral) != neutral:
                raise VitralError(f"{name} is not available yet", "Leave it out", param=name)
        unknown = sorted(set(fields) - set(Sampling.__dataclass_fields__))
        if unknown:
            raise VitralError(
                f"unknown option {unknown[0]!r}",
                did_you_mean(unknown[0], Sampling.__dataclass_fields__),
                param=unknown[0],
            )
        # None means the default, where None is not a setting of its own.
        given = {k: v for k, v in fields.items() if v is not None or k in ("max_tokens", "seed")}
        return replace(sampling or self.defaults, **given)

    def embed(self, texts: Sequence[str], *, truncate: bool = False) -> NDArray[np.float32]:
        """Vectors float32 [N, d], one a text, pooled and normalised as the model's folder says.

        Args:
            truncate: cut texts longer than the model was made for instead of refusing them.
        """
        if isinstance(texts, str):
            texts = [texts]
        most = min(self.pooling.max_tokens or self.context, self.context)
        ids = [self.tokenizer.encode(text) for text in texts]
        for number, each in enumerate(ids):
            if len(each) > most and not truncate:
                raise PromptTooLongError(
                    f"text {number} is {len(each)} tokens long and the model embeds {most}",
                    "Split it, or pass truncate=True to lose its end",
                    param="texts",
                )
        special = self.tokenizer.encode("")
        tail = special[1:] if len(special) > 1 else []
        ids = [each if len(each) <= most else each[: most - len(tail)] + tail for each in ids]
        return embed(self.model.encoder or self.model, ids, self.pooling)

    # ── files ───────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, folder: str | Path, *, max_shard_bytes: int | None = None) -> Path:
        """Write a Hugging Face folder that transformers opens."""
        options = {} if max_shard_bytes is None else {"max_shard_bytes": max_shard_bytes}
        dtype = str(self.model.dtype).removeprefix("torch.")
        return save_folder(
            folder,
            model=self.model,
            names=self.family.NAMES,
            config=self.config,
            dtype=dtype,
            also=lambda place: self.source.save_beside(place, self._tokenizer, self.eos),
            **options,
        )

    def save_gguf(self, path: str | Path, *, kind: str = "F32") -> Path:
        """Write a GGUF file that llama.cpp opens; kind is F32, F16 or Q8_0."""
        embeds = self.source.embeds or not self.model.generates
        return save_gguf(
            path,
            model=self.model,
            names=self.family.NAMES,
            config=self.config,
            tokenizer_fields=self.source.tokenizer_fields(self.tokenizer),
            kind=kind,
            pooling=(self.pooling.mode, self.pooling.max_tokens) if embeds else None,
            about={"name": self.name} | ({"license": self.source.licence} if self.source.licence else {}),
        )
