"""The object people hold: a model, its tokenizer and its chat template.

lm = vitral.load("smollm2-135m-instruct")
lm.generate([{"role": "user", "content": "What is the capital of France?"}]).text
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitral.errors import VitralError, did_you_mean
from vitral.families import names_of
from vitral.generate.embed import Pooling, embed
from vitral.generate.loop import NoText, run
from vitral.generate.request import Generation, Sampling, Token, check_text_length
from vitral.generate.start import Start, padded, start
from vitral.inputs import Ids, as_ids, fit_texts, usable
from vitral.nn import Dual, Model, Spec
from vitral.passes import Given, two_towers, whole_pass
from vitral.pictures import Pictures, Prompt, take
from vitral.seeing import Seeing, kind
from vitral.source import Source
from vitral.text.chat import ChatTemplate, encode_chat, joined
from vitral.text.tokenizer import Tokenizer
from vitral.weights.gguf_config import check_exportable
from vitral.weights.load import DTYPES, load_model
from vitral.weights.save import save_folder, save_gguf

Messages = Sequence[Mapping[str, Any]]
Text = str | Messages | Sequence[int]
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


class LanguageModel(Seeing):
    """A model with its tokenizer and template; made by `vitral.load`.

    Attributes:
        model: the torch module; `record(lm.model, …)` looks into it.
        spec: the data it was built from. config: the published config.
        name, licence: of the weights. context: most tokens it reads.
        kind: "decoder", "encoder", "encoder-decoder", "image" (an encoder of pictures) or "two towers".
        pictures: how it takes pictures; None for a model that sees none.
        defaults: the sampling its publisher recommends; greedy when none is given.
    """

    def __init__(self, *, model: Model | Dual, spec: Spec, config: dict[str, Any], family: Any, source: Source) -> None:
        self.model = model
        self.spec = spec
        self.config = config
        self.family = family
        self.source = source
        self.name = source.name
        self.licence = source.licence or "unknown"
        self.kind = kind(model)
        self.context: int = (getattr(model, "encoder", None) or model).context
        self.defaults = source.sampling()
        self._tokenizer = source.tokenizer()
        self.chat: ChatTemplate | None = source.chat(self._tokenizer)
        self.eos = source.eos(config, self._tokenizer)
        self.pictures = Pictures.of(model, config, source.image_settings(), self._tokenizer)
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
        input_ids: Ids | None = None,
        attention_mask: Ids | None = None,
        decoder_input_ids: Ids | None = None,
        pixel_values: Any = None,
        *,
        segments: Ids | None = None,
    ) -> Tensor:
        """Logits [B, T, V] of ids [B, T] (or one text [T]); `attention_mask` is 0 on padding, which may be on either
        side. An encoder–decoder reads `input_ids` and gives the logits of `decoder_input_ids`.

        A model that sees takes pictures as `pixel_values`: a list of paths, bytes or opened images, or numbers
        [I, C, H, W]. They stand where the ids keep places for them; a model of pictures alone gives the logits of its
        classes [I, N], one of two towers those of each text and picture [B, I].
        """
        given = Given(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            pixel_values=pixel_values,
            segments=segments,
        )
        with torch.no_grad():
            if isinstance(self.model, Dual):
                assert self.pictures is not None
                return two_towers(self.model, given, self.pictures, who=self.name)
            classes = self.kind == "image" and self.model.classifier is not None
            if self.model.head is None and not classes:
                raise VitralError(f"{self.name} has no vocabulary head", "Use hidden() or embed()")
            found = whole_pass(self.model, given, self.pictures, who=self.name)
            out = self.model(found.inputs, found.step, **found.options)
            return self.model.classifier(self.model.pooler(out, found.step)) if classes else out

    def hidden(
        self,
        input_ids: Ids | None = None,
        attention_mask: Ids | None = None,
        decoder_input_ids: Ids | None = None,
        pixel_values: Any = None,
        *,
        segments: Ids | None = None,
    ) -> Tensor:
        """Hidden states [B, T, d_model] after the last norm; of an encoder–decoder those of its decoder, or, without
        decoder_input_ids, of its encoder.
        """
        given = Given(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            pixel_values=pixel_values,
            segments=segments,
        )
        model = self._stack()
        if model.encoder is not None and decoder_input_ids is None:
            model = model.encoder
        with torch.no_grad():
            found = whole_pass(model, given, self.pictures, who=self.name)
            return model.hidden(found.inputs, found.step, **found.options)

    def _stack(self) -> Model:
        if isinstance(self.model, Dual):
            raise VitralError(f"{self.name} has two towers", "Use embed(), embed_images() or match()")
        return self.model

    # ── text ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def longest_text(self) -> int | None:
        """Characters that can fit the context at most; None where the tokenizer allows no such bound."""
        piece = self._tokenizer.longest_piece if self._tokenizer else None
        return None if piece is None else self.context * piece

    def encode_prompt(
        self, prompt: Text, tools: Sequence[Any] | None = None, template: Mapping[str, Any] | None = None
    ) -> list[int]:
        """The ids the model reads: a text as it stands, messages through the chat template, or ids unchanged.

        Messages may hold pictures (see `vitral.pictures.take`): then the ids are a `Prompt`, which brings them along.
        Text never becomes a special token, whatever it spells; who wants one gives its id.

        Args:
            tools: JSON schemas of functions, for the template.
            template: what else it may be told, such as {"enable_thinking": False} (`vitral.text.chat.OPTIONS`).
        """
        if isinstance(prompt, Prompt):
            return prompt
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
        messages, images = take(cast(Messages, prompt))
        if self.chat is None and self.kind == "encoder-decoder" and len(messages) == 1:
            for name, given in (("tools", tools), ("template", template), ("images", images)):
                if given:
                    raise VitralError(f"{self.name} has no use for {name}: it has no template", param=name)
            return self.encode_prompt(joined(messages[0])["content"] or "")  # text to text: the message is the text
        if self.chat is None:
            raise VitralError(
                f"{self.name} has no chat template", "Give a plain prompt, or a model tuned for chat", param="messages"
            )
        written = self._sees().writes if images else {}
        options = {"tools": tools, "expand": written, **(template or {})}
        ids = encode_chat(self.tokenizer, self.chat, messages, **options)
        if not images:
            return ids
        self._sees().check(ids, len(images))
        return Prompt(ids, self._sees().read(images))

    def stream(
        self,
        prompt: Text,
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
    def generate(self, prompt: Text, **options: Any) -> Generation: ...
    def generate(
        self,
        prompt: Text | list[str] | list[list[int]],
        *,
        tools: Sequence[Any] | None = None,
        template: Mapping[str, Any] | None = None,
        sampling: Sampling | None = None,
        **fields: Any,
    ) -> Generation | list[Generation]:
        """A finished answer; for a list of texts (or of ids), one each, worked out together. Options as in `stream`."""
        batch = isinstance(prompt, (list, tuple)) and len(prompt) > 0 and not isinstance(prompt[0], Mapping)
        batch = batch and as_ids(prompt) is None
        if batch and self.pictures is not None and self.pictures.tiled:
            # Rows that look at different numbers of pictures would see each other's empty places.
            options: dict[str, Any] = {"tools": tools, "template": template, "sampling": sampling}
            return [self.generate(one, **options, **fields) for one in cast(list[Any], prompt)]
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
        if "decoder" not in self.kind:
            what = {"image": "a model of images", "two towers": "a model of two towers"}.get(self.kind, "an encoder")
            raise VitralError(f"{self.name} is {what} and does not generate", "Use embed(), classify() or match()")
        assert isinstance(self.model, Model)
        vocab = (self.model.encoder or self.model).embed.tokens.weight.shape[0]
        if any(not 0 <= id < vocab for ids in prompts for id in ids):
            raise VitralError(f"the prompt has ids outside 0 to {vocab - 1}, the model's vocabulary", param="prompt")
        if self._tokenizer is None and sampling.stop:
            raise VitralError(f"{self.name} has no tokenizer, so no text to stop at", param="stop")
        tokenizer = self._tokenizer or NoText()
        limit = vocab if self._tokenizer is None else min(vocab, self._tokenizer.vocab_size)
        begun = self._start(prompts)
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

    def _start(self, prompts: list[list[int]]) -> Start:
        model, rows = self._stack(), [getattr(prompt, "pictures", ()) for prompt in prompts]
        for prompt, row in zip(prompts, rows, strict=True) if self.pictures else ():
            self._sees().check(prompt, len(row))
        if not any(rows):
            return start(model, prompts, self.source.first(self.config))
        pictures, device = self._sees(), next(model.parameters()).device
        if not pictures.tiled:
            return Start(prompts=prompts, pixels=pictures.stacked(rows, device))
        with torch.inference_mode():
            return Start(prompts=prompts, memory=pictures.memory(model, padded(prompts, device)[0], rows))

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
        if not texts and isinstance(self.model, Dual):
            raise VitralError("there are no texts", "Give at least one", param="texts")
        most = min(self.pooling.max_tokens or self.context, self.context)
        ids = fit_texts(self.tokenizer.encode, texts, most, truncate=truncate)
        if isinstance(self.model, Dual):  # its texts all have the length it was trained with
            pad = self.tokenizer.pad_id or 0
            table = torch.tensor([[*each, *[pad] * (most - len(each))] for each in ids])
            with torch.no_grad():
                return self.model.read(table.to(self.model.scale.device)).float().cpu().numpy()
        return embed(self.model.encoder or self.model, ids, self.pooling)

    # ── files ───────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, folder: str | Path, *, max_shard_bytes: int | None = None) -> Path:
        """Write a Hugging Face folder that transformers opens."""
        options = {} if max_shard_bytes is None else {"max_shard_bytes": max_shard_bytes}
        dtype = str(self.model.dtype).removeprefix("torch.")
        return save_folder(
            folder,
            model=self.model,
            names=names_of(self.family, self.config),
            config=self.config,
            dtype=dtype,
            also=lambda place: self.source.save_beside(place, self._tokenizer, self.eos),
            **options,
        )

    def save_gguf(self, path: str | Path, *, kind: str = "F32") -> Path:
        """Write a GGUF file that llama.cpp opens; kind is F32, F16 or Q8_0."""
        check_exportable(self.config)
        embeds = self.source.embeds or not self.model.generates
        return save_gguf(
            path,
            model=self.model,
            names=names_of(self.family, self.config),
            config=self.config,
            tokenizer_fields=self.source.tokenizer_fields(self.tokenizer),
            kind=kind,
            pooling=(self.pooling.mode, self.pooling.max_tokens) if embeds else None,
            about={"name": self.name} | ({"license": self.source.licence} if self.source.licence else {}),
        )
