"""The same numbers as transformers' processors, in their Pillow form (image_processing_pil_*), bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf
from PIL import Image

from vitral.errors import CheckpointError, VitralError
from vitral.image import Prepare, PrepareTiles

SIZES = [(40, 30), (300, 200), (200, 301), (224, 224), (17, 500), (640, 480), (1, 1), (900, 91)]


def picture(width: int, height: int) -> Image.Image:
    """Smooth shapes and noise."""
    rng = np.random.default_rng(width * 1000 + height)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9 + y / 17), np.cos(x / 5), np.sin(y / 3)], -1) * 90 + 128
    return Image.fromarray((waves + rng.normal(0, 15, waves.shape)).clip(0, 255).astype(np.uint8))


def published(kind: str) -> Any:
    """The processor's Pillow form, wherever a release keeps it."""
    return getattr(hf, f"{kind}ImageProcessorPil")


CASES = [
    ("clip", "CLIP", {}),
    ("clip", "CLIP", {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}),
    ("clip", "CLIP", {"size": {"shortest_edge": 30}, "crop_size": {"height": 41, "width": 50}}),
    ("clip", "CLIP", {"size": 64, "crop_size": 60}),
    ("vit", "ViT", {}),
    ("vit", "ViT", {"size": {"height": 96, "width": 80}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}),
    ("vit", "ViT", {"do_normalize": False}),
    ("vit", "ViT", {"do_rescale": False, "resample": 3}),
    ("siglip", "Siglip", {}),
    ("siglip", "Siglip", {"size": {"height": 384, "width": 384}, "rescale_factor": 1 / 127.5}),
    ("gemma3", "Gemma3", {}),
    ("gemma3", "Gemma3", {"size": {"height": 896, "width": 896}}),
]


@pytest.mark.parametrize(("model_type", "kind", "settings"), CASES)
def test_equals_the_published_processor(model_type: str, kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    processor = published(kind)(**settings)
    processor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text("utf-8"))
    for said in (written, settings):  # all keys written out, and only what differs
        prepare = Prepare.of(said, {"model_type": model_type})
        for width, height in SIZES:
            image = picture(width, height)
            theirs = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
            mine = prepare(image)
            assert mine.dtype == np.float32 and mine.flags.c_contiguous
            assert np.array_equal(mine, theirs), (width, height, np.abs(mine - theirs).max())
        if not settings:
            break


@pytest.mark.parametrize("tile", [32, 56])
@pytest.mark.parametrize("most", [1, 4, 6])
def test_tiles_equal_the_published_processor(tile: int, most: int, tmp_path: Path) -> None:
    processor = published("Mllama")(size={"height": tile, "width": tile}, max_image_tiles=most)
    processor.save_pretrained(tmp_path)
    prepare = PrepareTiles.of(
        json.loads((tmp_path / "preprocessor_config.json").read_text("utf-8")), {"model_type": "mllama"}
    )
    for width, height in [*SIZES, (tile, 2 * tile), (3 * tile, tile), (tile + 1, tile - 1), (61, 60), (7, 2)]:
        image = picture(width, height)
        theirs = processor(images=[[image]], return_tensors="np")
        mine = prepare(image)
        assert np.array_equal(mine.pixels, theirs["pixel_values"][0, 0]), (width, height)
        assert mine.shape == theirs["aspect_ratio_ids"][0, 0]
        assert mine.tiles == theirs["aspect_ratio_mask"][0, 0].sum() == theirs["num_tiles"][0][0]


def test_without_a_file_the_model_says_its_size() -> None:
    seen = {"model_type": "siglip", "vision_config": {"image_size": 96}}
    assert Prepare.of({}, seen)(picture(50, 60)).shape == (3, 96, 96)
    clip = Prepare.of({}, {"model_type": "clip", "vision_config": {"image_size": 64}})
    assert (clip.size, clip.crop) == (64, (64, 64))
    tiles = PrepareTiles.of({}, {"model_type": "mllama", "vision_config": {"image_size": 28, "max_num_tiles": 4}})
    assert tiles(picture(50, 60)).pixels.shape == (4, 3, 28, 28)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 0, "width": 9}}, {"size": {"longest_edge": 9}}, {"size": "big"}, {"size": 10**9},
        {"size": True}, {"resample": 9}, {"image_mean": [0.1]}, {"image_std": [0, 1, 1]}, {"rescale_factor": -1},
        {"do_resize": "yes"}, {"do_pan_and_scan": True}, {"do_flip": True}, {"crop_size": {"height": 9}},
        {"image_mean": "x"}, {"rescale_factor": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_settings_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError) as error:
        Prepare.of({"do_center_crop": True, **settings}, {"model_type": "clip"})
    assert repr(next(iter(settings))) in str(error.value) and "\n" not in str(error.value)


def test_a_thread_of_an_image_is_refused() -> None:
    with pytest.raises(VitralError, match="long and thin"):
        Prepare.of({}, {"model_type": "clip"})(picture(1, 9000))
