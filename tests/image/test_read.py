"""What is read as a picture, and what is refused, each in one line and before it costs anything."""

from __future__ import annotations

import base64
import io
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from vitral.errors import VitralError
from vitral.image import data_url, read_image
from vitral.image import read as reading


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(7)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A valid PNG of zeros, about one thousandth of its pixels in size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pack = zlib.compressobj(9)
    row = b"\0" * ((width + 7) // 8 + 1)
    data = b"".join(pack.compress(row * 1000) for _ in range(height // 1000)) + pack.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refused(source: Any, *words: str) -> None:
    with pytest.raises(VitralError) as error:
        read_image(source)
    said = str(error.value)
    assert "\n" not in said and len(said) < 400
    for word in words:
        assert word in said, said


def test_900_million_pixels_in_100_kb_are_refused_undecoded() -> None:
    data = bomb(30000, 30000)
    assert len(data) < 120_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(data, "pixels")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024, "it was decoded"


def test_what_pillow_would_only_warn_about_is_refused_by_name(recwarn: pytest.WarningsRecorder) -> None:
    refused(bomb(10000, 9000), "10000 × 9000")
    refused(bomb(40000, 1000), "40000 × 1000")
    assert not list(recwarn)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_file_cut_short_is_damaged(kind: str, tmp_path: Path) -> None:
    data = saved(picture(200, 200), kind)
    assert read_image(data).size == (200, 200)
    path = tmp_path / "cut"
    path.write_bytes(data[: len(data) * 2 // 3])
    refused(path, "cut", "damaged") if kind != "WEBP" else refused(path, "cut")
    refused(data[:9])


@pytest.mark.parametrize("flip", range(0, 400, 7))
def test_flipped_bytes_give_a_picture_or_one_line(flip: int) -> None:
    data = bytearray(saved(picture(), "JPEG" if flip % 2 else "PNG"))
    data[flip % len(data)] ^= 0xFF
    try:
        assert read_image(bytes(data)).mode == "RGB"
    except VitralError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_refused(kind: str) -> None:
    frames = [picture(), ImageOps.flip(picture()), ImageOps.mirror(picture())]
    refused(saved(frames[0], kind, save_all=True, append_images=frames[1:]), "animated")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"GIF89a",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
    ids=["empty", "zeros", "cut-gif", "svg", "pdf", "eps"],
)
def test_no_picture(data: bytes) -> None:
    refused(data)


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "PPM", "TGA"])
def test_other_formats_are_not_tried(kind: str) -> None:
    refused(saved(picture(), kind), "PNG, JPEG")


def test_zero_pixels() -> None:
    data = bytearray(saved(picture(), "PNG"))
    data[16:20] = b"\0\0\0\0"
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    refused(bytes(data))
    refused(Image.new("RGB", (0, 4)), "0 × 4")


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved(picture()))
    assert read_image(path).size == read_image(str(path)).size == (40, 30)
    refused(tmp_path / "none.png", "no file")
    refused(tmp_path, "cannot be read")
    refused("https://example.org/a.png", "nothing is fetched")
    refused("/dev/zero", "regular")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "regular")
    refused(3.5, "float")
    refused("~nobody-of-that-name/a.png", "cannot be read")
    refused(base64.b64encode(b"x" * 9000).decode(), "too long for a path. Give base64 as data:")
    monkeypatch.setattr(reading, "MAX_BYTES", 100)
    refused(path, "MiB")


def test_modes() -> None:
    """CMYK, grey, palette and transparency become RGB as Pillow converts them; more than 8 bits are refused."""
    for mode in ("CMYK", "L", "1", "P", "RGBA", "LA", "YCbCr"):
        image = picture(mode="RGB").convert("L").convert(mode) if mode == "LA" else picture(mode=mode)
        kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
        data = saved(image, kind)
        expected = Image.open(io.BytesIO(data)).convert("RGB")
        assert np.array_equal(np.array(read_image(data)), np.array(expected)), mode
    deep = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    refused(saved(deep, "PNG"), "8 bits")
    refused(Image.new("F", (4, 4)), "8 bits")


def test_transparency_is_dropped_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    palette = picture(mode="P")
    data = saved(palette, transparency=bytes(range(100)))
    assert np.array_equal(np.array(read_image(data)), np.array(palette.convert("RGB")))
    assert not list(recwarn)


def test_what_a_caller_holds_stays_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(picture(), "JPEG", exif=exif)
    held = Image.open(io.BytesIO(data))
    assert read_image(held).size == read_image(held).size == read_image(bytearray(data)).size == (30, 40)
    assert held.size == (40, 30) and held.getexif()[0x0112] == 6


def test_a_large_picture_is_held_once() -> None:
    """4 bytes a pixel, and no copy to turn it or to make it RGB; measured alone, for a peak never falls."""
    file = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(file, "PNG", compress_level=1)
    program = (
        "import resource, sys; from PIL import Image; from vitral.image import read_image; Image.init();"
        "data = sys.stdin.buffer.read(); peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); read_image(data); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=file.getvalue(), capture_output=True, check=True)
    assert int(done.stdout) * 1024 < 1.5 * 4 * 5000 * 5000


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_put_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(picture(), "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.array(read_image(data)), np.array(expected))
    assert read_image(data).size == ((40, 30) if orientation < 5 else (30, 40))


def test_data_urls() -> None:
    data = saved(picture())
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    assert data_url(url) == data
    assert read_image(url).size == (40, 30)
    for bad in (
        "http://127.0.0.1/a.png",
        "file:///etc/passwd",
        "data:text/html;base64,AAAA",
        url[:-3] + "*",
        "data:image/png,x",
    ):
        with pytest.raises(VitralError):
            data_url(bad)


def test_without_pillow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    refused(b"x", "vitral[images]")
