"""A picture as a model was trained to see it: resized, cropped, scaled and normalised.

The numbers are those of the published processors (their Pillow and NumPy form), bit for bit: resized in 8 bits by
Pillow, scaled in float64, normalised in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitral.errors import CheckpointError, VitralError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SIDE = 2**13
"""No model looks at more."""
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)
BILINEAR, BICUBIC = 2, 3
_FILTERS = range(6)
_BYSTANDERS = frozenset(
    """
    image_processor_type feature_extractor_type processor_class do_convert_rgb data_format input_data_format
    default_to_square image_seq_length pan_and_scan_max_num_crops pan_and_scan_min_crop_size disable_grouping
    pan_and_scan_min_ratio_to_activate do_pad pad_size return_tensors device size_divisor model_input_names crop_pct
    max_image_tiles use_square_size _processor_class
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """RGB picture → float32 [3, H, W].

    Args:
        size: (height, width) it is resized to, whatever its shape; or the length of its shorter side; None keeps it.
        resample: Pillow's number of the filter.
        crop: (height, width) cut out of the middle, with black where it is smaller.
        factor: pixels are multiplied by this; None leaves them from 0 to 255.
        mean, std: of each channel, taken off and divided by; None for neither.
    """

    size: tuple[int, int] | int | None
    resample: int = BICUBIC
    crop: tuple[int, int] | None = None
    factor: float | None = 1 / 255
    mean: tuple[float, ...] | None = _HALF
    std: tuple[float, ...] | None = _HALF

    @classmethod
    def of(cls, settings: Mapping[str, Any], model: Mapping[str, Any]) -> Prepare:
        """What a preprocessor_config.json says; what it leaves out (or all, where there is none) is what the published
        processor of the config.json `model` does.
        """
        start = PUBLISHED.get(model.get("model_type", ""), cls(size=None))
        image_size = model.get("vision_config", model).get("image_size")
        if not settings and isinstance(image_size, int):
            sides = (image_size, image_size)
            start = replace(start, size=image_size if isinstance(start.size, int) else sides, crop=start.crop and sides)
        return _read(start, settings)

    def __call__(self, image: Image) -> NDArray[np.float32]:
        if self.size is not None:
            height, width = self.size if isinstance(self.size, tuple) else shorter_side(image, self.size)
            if max(height, width) > 4 * MAX_SIDE:
                raise VitralError(f"an image of {image.width} × {image.height} pixels is too long and thin to resize")
            image = image.resize((width, height), resample=self.resample)
        pixels = np.array(image).transpose(2, 0, 1)
        return self.numbers(pixels if self.crop is None else middle(pixels, *self.crop))

    def numbers(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scaled and normalised."""
        out = pixels.astype(np.float32)
        if self.factor is not None:
            out = (pixels.astype(np.float64) * self.factor).astype(np.float32)
        if self.mean is not None and self.std is not None:
            mean, std = (np.array(each, dtype=np.float32)[:, None, None] for each in (self.mean, self.std))
            out = (out - mean) / std
        return np.ascontiguousarray(out)


def shorter_side(image: Image, size: int) -> tuple[int, int]:
    """(height, width) with that shorter side, the other in proportion, rounded down."""
    short, long = sorted(image.size)
    other = int(size * long / short)
    return (other, size) if image.width <= image.height else (size, other)


def middle(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """[3, height, width] out of the middle of [3, H, W], with black around what is smaller."""
    for axis, size in ((1, height), (2, width)):
        held = pixels.shape[axis]
        if held < size:
            before = -((held - size) // 2)  # rounded up
            around = [(0, 0), (0, 0), (0, 0)]
            around[axis] = (before, size - held - before)
            pixels = np.pad(pixels, around)
        else:
            start = (held - size) // 2
            pixels = pixels.take(range(start, start + size), axis)
    return pixels


PUBLISHED = {
    "clip": Prepare(size=224, crop=(224, 224), mean=_CLIP_MEAN, std=_CLIP_STD),
    "vit": Prepare(size=(224, 224), resample=BILINEAR),
    "siglip": Prepare(size=(224, 224)),
    "gemma3": Prepare(size=(224, 224), resample=BILINEAR),
    "mllama": Prepare(size=(224, 224), resample=BILINEAR),
}
"""What a preprocessor_config.json means that leaves everything out, by the model_type of the config.json."""


def _read(start: Prepare, settings: Mapping[str, Any]) -> Prepare:
    """`start` with what the settings say."""
    said = {key: value for key, value in settings.items() if value is not None}
    on = {key: _flag(said.pop(key, default), key) for key, default in _steps(start).items()}
    if _flag(said.pop("do_pan_and_scan", False), "do_pan_and_scan"):
        raise _wrong("do_pan_and_scan", True, "Set it to false: pictures are seen whole here")
    size = _size(said.pop("size", start.size), "size") if on["do_resize"] else None
    crop = _size(said.pop("crop_size", start.crop), "crop_size") if on["do_center_crop"] else None
    resample = said.pop("resample", start.resample)
    if resample not in _FILTERS:
        raise _wrong("resample", resample, "It must be the number of one of Pillow's filters, 0 to 5")
    factor = said.pop("rescale_factor", 1 / 255 if start.factor is None else start.factor)
    mean, std = (_channels(said.pop(f"image_{key}", getattr(start, key)), f"image_{key}") for key in ("mean", "std"))
    for key in ("size", "crop_size"):
        said.pop(key, None)
    unknown = sorted(said.keys() - _BYSTANDERS)
    if unknown:
        raise CheckpointError(f"preprocessor_config.json has a key we do not know: {unknown[0]!r:.60}")
    if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not 0 < factor < 2**10:
        raise _wrong("rescale_factor", factor, "It must be a positive number")
    return Prepare(
        size=size,
        resample=int(resample),
        crop=(crop, crop) if isinstance(crop, int) else crop,
        factor=float(factor) if on["do_rescale"] else None,
        mean=mean if on["do_normalize"] else None,
        std=std if on["do_normalize"] else None,
    )


def _steps(start: Prepare) -> dict[str, bool]:
    return {
        "do_resize": start.size is not None,
        "do_center_crop": start.crop is not None,
        "do_rescale": start.factor is not None,
        "do_normalize": start.mean is not None,
    }


def _flag(value: Any, key: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, value, "It must be true or false")
    return value


def _size(value: Any, key: str) -> tuple[int, int] | int | None:
    """A length, {"shortest_edge": n} or {"height": h, "width": w}."""
    if isinstance(value, dict):
        edge = value.get("shortest_edge")
        value = edge if value.keys() == {"shortest_edge"} else (value.get("height"), value.get("width"))
    sides = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= MAX_SIDE for side in sides):
        raise _wrong(key, value, f"Give height and width, or shortest_edge, from 1 to {MAX_SIDE}")
    return value


def _channels(value: Any, key: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    value = [value] * 3 if isinstance(value, (int, float)) else value
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(isinstance(n, (int, float)) for n in value):
        raise _wrong(key, value, "It must be three numbers")
    if key == "image_std" and not all(n > 0 for n in value):
        raise _wrong(key, value, "They must be positive")
    return tuple(float(n) for n in value)


def _wrong(key: str, value: Any, remedy: str) -> CheckpointError:
    return CheckpointError(f"preprocessor_config.json: {key!r} is {value!r:.60}", remedy)
