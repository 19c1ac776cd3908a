"""A whole pass over what people hand in: ids, masks, pictures, checked and made into (inputs, step, options)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vitral.errors import VitralError
from vitral.inputs import Ids, alike, segment_table, table, token_table
from vitral.nn import Dual, Model, Patches, Step
from vitral.pictures import Pictures


@dataclass(frozen=True, kw_only=True)
class Given:
    """What was handed in, by the names of `LanguageModel.logits`."""

    input_ids: Ids | None = None
    attention_mask: Ids | None = None
    decoder_input_ids: Ids | None = None
    pixel_values: Any = None
    segments: Ids | None = None

    def only(self, who: str, *wanted: str, needs: str | None = None) -> None:
        """Refuse what the model has no use for, and the lack of what it cannot do without."""
        for name in self.__dataclass_fields__:
            if name not in wanted and getattr(self, name) is not None:
                raise VitralError(f"{who} has no use for {name}", "Leave it out", param=name)
        if needs is not None and getattr(self, needs) is None:
            raise VitralError(f"{who} needs {needs}", param=needs)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Inputs of a model's forward, its step, and what goes with it by name."""

    inputs: Tensor
    step: Step
    options: dict[str, Any] = field(default_factory=dict)


def whole_pass(model: Model, given: Given, pictures: Pictures | None, *, who: str) -> Pass:
    """The pass of a model of one stack, or of an encoder–decoder.

    Raises:
        VitralError: ids out of range or too many, tables of different shapes, something that the model has no use for.
    """
    if isinstance(model.embed, Patches):
        given.only(who, "pixel_values", needs="pixel_values")
        assert pictures is not None
        pixels = pictures.pixels(given.pixel_values, next(model.parameters()).device)
        return Pass(inputs=pixels, step=model.step(pixels))
    if model.encoder is not None:
        given.only(who, "input_ids", "attention_mask", "decoder_input_ids", needs="input_ids")
        return _encoder_decoder(model, given, who=who)
    sees = ("pixel_values",) if pictures is not None else ()
    given.only(who, "input_ids", "attention_mask", "segments", *sees, needs="input_ids")
    ids, valid = read(model, given)
    options = {}
    if given.segments is not None:
        options["segments"] = alike("segments", segment_table(given.segments, model.embed.segments, ids.device), ids)
    return Pass(inputs=ids, step=model.step(ids, valid, **_shown(model, given, ids, pictures)), options=options)


def read(model: Model, given: Given) -> tuple[Tensor, Tensor | None]:
    """Ids [B, T] and which of them are not padding."""
    assert given.input_ids is not None
    ids = token_table("input_ids", given.input_ids, model)
    if given.attention_mask is None:
        return ids, None
    return ids, alike("attention_mask", table("attention_mask", given.attention_mask, ids.device).bool(), ids)


def _encoder_decoder(model: Model, given: Given, *, who: str) -> Pass:
    assert model.encoder is not None
    ids, valid = read(model.encoder, given)
    if given.decoder_input_ids is None:
        remedy = "Give the ids its decoder begins with: a list, or [B, T]"
        raise VitralError(f"{who} is an encoder–decoder", remedy, param="decoder_input_ids")
    written = token_table("decoder_input_ids", given.decoder_input_ids, model)
    if len(written) != len(ids):
        raise VitralError(
            f"decoder_input_ids has {len(written)} rows and input_ids {len(ids)}", param="decoder_input_ids"
        )
    return Pass(inputs=written, step=model.step(written, memory=model.remember(ids, valid)))


def _shown(model: Model, given: Given, ids: Tensor, pictures: Pictures | None) -> dict[str, Any]:
    """Pictures, all of one row's after those of the row before, as the step takes them."""
    if given.pixel_values is None:
        return {}
    assert pictures is not None
    rows = ids.tolist()
    if not pictures.tiled:
        pixels = pictures.pixels(given.pixel_values, ids.device)
        pictures.check([id for row in rows for id in row], len(pixels))
        return {"soft": model.show(ids, pixels)}
    if isinstance(given.pixel_values, Tensor) or given.attention_mask is not None:
        raise VitralError(
            "pictures in tiles are given as pictures, without padding in the text",
            "Give pixel_values as a list of paths or opened images, and no attention_mask",
            param="pixel_values",
        )
    left = pictures.read(given.pixel_values)
    pictures.check([id for row in rows for id in row], len(left))
    each = [[left.pop(0) for id in row if id == pictures.token] for row in rows]
    return pictures.options(model, ids, each)


def two_towers(model: Dual, given: Given, pictures: Pictures, *, who: str) -> Tensor:
    """Logits [texts, pictures] of a model whose texts and pictures meet in one space."""
    given.only(who, "input_ids", "pixel_values", needs="pixel_values")
    if given.input_ids is None:
        raise VitralError(f"{who} needs input_ids", param="input_ids")
    ids = token_table("input_ids", given.input_ids, model.text)
    return model(ids, pictures.pixels(given.pixel_values, ids.device))
