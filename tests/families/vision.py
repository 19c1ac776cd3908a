"""References that see: pixels beside ids, or in their place, each with checks of its own for `parity.py`."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from tests.families.parity import Check, Outputs, Reference, Row, answer, deviation, fill, left_padded, worst
from vitral.nn import looking

PICTURES = 3


class ImageReference(Reference):
    """An image encoder of transformers, asked for pictures [3, C, H, W]."""

    @staticmethod
    def checks(row: Row) -> Iterator[Check]:
        yield from (seen_whole, seen_at_other_sizes, seen_in_half_precision)

    def __init__(self, row: Row, folder: Path) -> None:
        self.row, self.folder = row, folder
        torch.manual_seed(zlib.crc32(row.name.encode()))
        self.theirs = row.make().eval()
        fill(self.theirs, row.scales or {})
        if hasattr(self.theirs, "logit_scale"):
            self.theirs.logit_scale.data.fill_(3.0)  # near the published ones: small angles count
        self.theirs.save_pretrained(folder)
        self._rewrite()
        self.segments = None
        self.ids = self.draw()
        self.full = self.ask(self.ids)
        for name, value in self.full.items():
            assert 0.05 < value.std() < 8, f"{row.name}: flat or wild {name} (std {value.std():.3g}) proves nothing"

    def draw(self) -> Tensor:
        """What it is asked."""
        return self.pictures(self.theirs.config.image_size)

    def pictures(self, height: int, width: int | None = None) -> Tensor:
        config = getattr(self.theirs.config, "vision_config", self.theirs.config)
        return torch.randn(PICTURES, config.num_channels, height, width or height)

    def ask(self, ids: Tensor, theirs: Any = None, **options: Any) -> Outputs:
        options.pop("segments", None)
        with torch.no_grad():
            out = (theirs or self.theirs)(pixel_values=ids, **options)
        kinds = {"last_hidden_state": "hidden", "pooler_output": "pooled", "logits": "classes"}
        return {kinds[key]: value for key, value in out.items() if key in kinds and value is not None}

    def see(self, ours: Any, pixels: Tensor) -> Outputs:
        """What vitral makes of pictures."""
        return answer(ours, pixels)

    def answer_of(self, ours: Any) -> Outputs:
        return self.see(ours, self.ids)


class DualReference(ImageReference):
    """Two towers of transformers, asked for pictures and texts. `ids` are the texts."""

    def draw(self) -> Tensor:
        text = self.theirs.config.text_config
        ids = torch.randint(5, text.vocab_size - 1, (4, min(text.max_position_embeddings, 11)))
        for row, end in enumerate((3, 10, 7, 5)):
            ids[row, end] = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
            if row == 3:
                ids[row, end + 1 :] = ids[row, end]  # padded with the end of text itself, as published tokenizers do
        self.pixels = self.pictures(self.theirs.config.vision_config.image_size)
        return ids

    def ask(self, ids: Tensor, theirs: Any = None, *, pixels: Tensor | None = None, **options: Any) -> Outputs:
        options.pop("segments", None)
        with torch.no_grad():
            out = (theirs or self.theirs)(
                input_ids=ids, pixel_values=self.pixels if pixels is None else pixels, **options
            )
        return {
            "logits": out.logits_per_text,
            "texts": out.text_embeds,
            "pictures": out.image_embeds,
            "read": out.text_model_output.last_hidden_state,
            "seen": out.vision_model_output.last_hidden_state,
        }

    def see(self, ours: Any, pixels: Tensor) -> Outputs:
        with torch.no_grad():
            return {
                "logits": ours(self.ids, pixels),
                "texts": ours.read(self.ids),
                "pictures": ours.look(pixels),
                "read": ours.text.hidden(self.ids),
                "seen": ours.image.hidden(pixels),
            }

    def answer_of(self, ours: Any) -> Outputs:
        return self.see(ours, self.pixels)


# ── checks: (reference, ours) → the largest deviation ───────────────────────────────────────────────────────


def seen_whole(ref: Any, ours: Any) -> float:
    """Pictures (and texts) of the size it was made for."""
    return worst(ref.full, ref.answer_of(ours))


def seen_at_other_sizes(ref: Any, ours: Any) -> float:
    """Larger, smaller, oblong, with a border that fills no patch: the grid of positions is interpolated."""
    config = getattr(ref.theirs.config, "vision_config", ref.theirs.config)
    size, patch = config.image_size, config.patch_size
    found = []
    for height, width in ((2 * size, 2 * size), (size - patch, size - patch), (size + patch, size), (size, 3 * patch)):
        pixels = ref.pictures(height, width)
        options = {"interpolate_pos_encoding": True}
        options |= {"pixels": pixels} if isinstance(ref, DualReference) else {}
        theirs = ref.ask(ref.ids if isinstance(ref, DualReference) else pixels, **options)
        found.append(worst(theirs, ref.see(ours, pixels)))
    return max(found)


def seen_in_half_precision(ref: Any, ours: Any) -> float:
    """The weights in bfloat16: all finite, and near the float32 numbers on average (the deviation is 0 if so)."""
    mine = ref.answer_of(ref.load(torch.bfloat16))
    for name, theirs in ref.full.items():
        error = (theirs - mine[name].float()).abs().mean()
        if not mine[name].isfinite().all() or error > 0.1 * max(theirs.std().item(), 1):
            return math.inf
    return 0.0


# ── pictures among words ────────────────────────────────────────────────────────────────────────────────────


class SoftReference(ImageReference):
    """A decoder of transformers with soft tokens, asked for texts with pictures in them."""

    @staticmethod
    def checks(row: Row) -> Iterator[Check]:
        yield from (shown_whole, shown_cached, shown_ragged, shown_nothing, seen_in_half_precision)

    def draw(self) -> Tensor:
        config = self.theirs.config
        self.token, self.tokens = config.image_token_index, config.mm_tokens_per_image
        self.pixels = self.pictures(config.vision_config.image_size)
        ids = torch.randint(3, config.text_config.vocab_size - 3, (2, 29))
        for row, start in ((0, 3), (0, 15), (1, 9)):  # the first row shows two pictures, the second one
            ids[row, start : start + self.tokens] = self.token
        return ids

    def ask(self, ids: Tensor, theirs: Any = None, *, pixels: Tensor | None = None, **options: Any) -> Outputs:
        options.pop("segments", None)
        pixels = self.pixels if pixels is None else pixels
        with torch.no_grad():
            out = (theirs or self.theirs)(
                input_ids=ids,
                pixel_values=pixels if len(pixels) else None,
                token_type_ids=(ids == self.token).long(),
                **options,
            )
        return {"logits": out.logits}

    def body_again(self, folder: Path) -> float:
        """The body's hidden states under the head, which is tied: the logits again."""
        return self.answers_again(folder)

    def answer_of(self, ours: Any) -> Outputs:
        with torch.no_grad():
            soft = ours.show(self.ids, self.pixels)
            return {"logits": ours(self.ids, ours.step(self.ids, soft=soft))}


def shown_whole(ref: Any, ours: Any) -> float:
    """Texts with pictures, in one pass."""
    return worst(ref.full, ref.answer_of(ours))


def shown_cached(ref: Any, ours: Any) -> float:
    """The same in pieces that cut no picture, as short as that allows; and a prompt with all pictures, then words."""
    found = []
    for most in (ref.tokens, 7, 22):
        with torch.no_grad():
            soft = ours.show(ref.ids, ref.pixels)
            cache = ours.new_cache(2, ref.ids.shape[1], chunk=most)
            cuts = soft.pieces(most)
            out = [ours(ref.ids[:, a:b], cache.extend(b - a, soft=soft.piece(a, b))) for a, b in cuts]
        found.append(deviation(ref.full["logits"], torch.cat(out, 1)))
    with torch.no_grad():
        cache = ours.new_cache(2, ref.ids.shape[1], chunk=22)
        out = [ours(ref.ids[:, :22], cache.extend(22, soft=soft.piece(0, 22)))]
        out += [ours(ids, cache.extend(1)) for ids in ref.ids[:, 22:].split(1, 1)]
    return max(*found, deviation(ref.full["logits"], torch.cat(out, 1)))


def shown_ragged(ref: Any, ours: Any) -> float:
    """Texts of different lengths, padded on the left, one of them without a picture: each as if alone."""
    texts, pictures = [ref.ids[0], ref.ids[1, 4:23], ref.ids[0, 20:29]], (2, 1, 0)
    assert not (texts[2] == ref.token).any()
    ids, valid = left_padded(texts)
    with torch.no_grad():
        soft = ours.show(ids, ref.pixels)
        whole = ours(ids, ours.step(ids, valid, soft=soft))
        cache = ours.new_cache(3, ids.shape[1], chunk=ids.shape[1])
        cached = ours(ids, cache.extend(valid, soft=soft))
    found, first = [], 0
    for row, (text, n) in enumerate(zip(texts, pictures, strict=True)):
        alone = ref.ask(text[None], pixels=ref.pixels[first : first + n])["logits"][0]
        first += n
        found += [deviation(alone, out[row][valid[row]]) for out in (whole, cached)]
    return max(found)


def shown_nothing(ref: Any, ours: Any) -> float:
    """Words alone."""
    ids = ref.ids.masked_fill(ref.ids == ref.token, 4)
    with torch.no_grad():
        return worst(ref.ask(ids, pixels=ref.pixels[:0]), {"logits": ours(ids)})


# ── pictures beside words ───────────────────────────────────────────────────────────────────────────────────


class TileReference(ImageReference):
    """A decoder of transformers whose layers look at tiles. The first text shows two pictures, the second one.

    transformers 5.24 keeps what *leaves* the tower's blocks of `intermediate_layers_indices`; the code published with
    the weights (and the first releases of transformers that had the model) keeps what *enters* them. Here the
    reference is put right.
    """

    @staticmethod
    def checks(row: Row) -> Iterator[Check]:
        yield from (looked_whole, looked_cached, looked_ragged, looked_nowhere, seen_in_half_precision)

    def _rewrite(self) -> None:
        super()._rewrite()
        put_right(self.theirs)

    def draw(self) -> Tensor:
        config = self.theirs.config
        self.token, size = config.image_token_index, config.vision_config.image_size
        self.shape = torch.tensor([[6, 2], [1, 0]])  # 2×2 tiles and 1×2; one tile, and no picture
        self.tiles = torch.tensor([[[1, 1, 1, 1], [1, 1, 0, 0]], [[1, 0, 0, 0], [1, 0, 0, 0]]]).bool()
        self.pixels = torch.randn(2, 2, 4, 3, size, size) * self.tiles[..., None, None, None]
        ids = torch.randint(3, config.text_config.vocab_size, (2, 21))
        ids[0, 2] = ids[0, 9] = ids[1, 6] = self.token
        return ids

    def ask(self, ids: Tensor, theirs: Any = None, *, rows: Any = slice(None), **options: Any) -> Outputs:
        options.pop("segments", None)
        if rows is not None:
            places = [get_cross_attention_token_mask(text, self.token) for text in ids.tolist()]
            count = [tiles.sum(-1).tolist()[: len(held)] for tiles, held in zip(self.tiles[rows], places, strict=True)]
            mask = convert_sparse_cross_attention_mask_to_dense(places, count, 4, ids.shape[1])
            mask = torch.nn.functional.pad(torch.from_numpy(mask), (0, 0, 0, 2 - mask.shape[2]))
            options |= {"pixel_values": self.pixels[rows], "aspect_ratio_ids": self.shape[rows]}
            options |= {"aspect_ratio_mask": self.tiles[rows].long(), "cross_attention_mask": mask}
        with torch.no_grad():
            return {"logits": (theirs or self.theirs)(input_ids=ids, **options).logits}

    def memory(self, ours: Any, ids: Tensor) -> Any:
        return ours.vision.memory(self.pixels, self.shape, self.tiles, looking(ids, self.token, self.tiles))

    def answer_of(self, ours: Any) -> Outputs:
        with torch.no_grad():
            return {"logits": ours(self.ids, ours.step(self.ids, memory=self.memory(ours, self.ids)))}

    def answers_again(self, folder: Path) -> float:
        theirs = put_right(type(self.theirs).from_pretrained(folder, attn_implementation="eager").eval())
        return worst(self.full, self.ask(self.ids, theirs))

    def body_again(self, folder: Path) -> float:
        body = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        with torch.no_grad():
            mine, again = (model(input_ids=self.ids).last_hidden_state for model in (self.theirs.model, body))
        return deviation(mine, again)


def put_right(theirs: Any) -> Any:
    """Make it keep what enters the named blocks."""
    tower = theirs.model.vision_model
    tower.intermediate_layers_indices = [depth - 1 for depth in theirs.config.vision_config.intermediate_layers_indices]
    assert min(tower.intermediate_layers_indices) >= 0
    return theirs


def looked_whole(ref: Any, ours: Any) -> float:
    """Texts with pictures, in one pass; some tokens look at nothing, some at one picture, some at another."""
    return worst(ref.full, ref.answer_of(ours))


def looked_cached(ref: Any, ours: Any) -> float:
    """A prompt in pieces, then single tokens, which look where the prompt's last token looked."""
    found, T = [], ref.ids.shape[1]
    for prompt, chunk in ((10, 10), (12, 5), (T, 1)):
        with torch.no_grad():
            cache = ours.new_cache(2, T, chunk=chunk, memory=ref.memory(ours, ref.ids[:, :prompt]))
            pieces = [*ref.ids[:, :prompt].split(chunk, 1), *ref.ids[:, prompt:].split(1, 1)]
            out = [ours(piece, cache.extend(piece.shape[1])) for piece in pieces if piece.shape[1]]
        found.append(deviation(ref.full["logits"], torch.cat(out, 1)))
    return max(found)


def looked_ragged(ref: Any, ours: Any) -> float:
    """Texts of different lengths, padded on the left: each as if alone, in one pass and in a cache."""
    texts = [ref.ids[0], ref.ids[1, :12]]
    ids, valid = left_padded(texts)
    right = torch.stack([torch.cat((text, text.new_full((len(ids[0]) - len(text),), 5))) for text in texts])
    with torch.no_grad():
        memory = ref.memory(ours, right)  # by position, whatever side the padding is on
        cache = ours.new_cache(2, ids.shape[1], chunk=ids.shape[1], memory=memory)
        outs = [ours(ids, ours.step(ids, valid, memory=memory)), ours(ids, cache.extend(valid))]
    alone = [ref.ask(text[None], rows=[row])["logits"][0] for row, text in enumerate(texts)]
    return max(deviation(alone[row], out[row][valid[row]]) for row in range(2) for out in outs)


def looked_nowhere(ref: Any, ours: Any) -> float:
    """Words alone: the layers that look are passed by, whole and cached."""
    ids = ref.ids.masked_fill(ref.ids == ref.token, 4)
    theirs = ref.ask(ids, rows=None)
    with torch.no_grad():
        cache = ours.new_cache(2, ids.shape[1], chunk=4)
        cached = torch.cat([ours(piece, cache.extend(piece.shape[1])) for piece in ids.split(4, 1)], 1)
        return max(worst(theirs, {"logits": ours(ids)}), worst(theirs, {"logits": cached}))
