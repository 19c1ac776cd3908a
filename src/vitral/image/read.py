"""A picture from a file or from bytes, refused in one line where it cannot be one.

Its size is read from the header and judged before a single pixel is decoded: 100 KB of PNG can stand for 30000 × 30000
pixels, 2.7 GB. Only formats of plain pictures are tried; nothing is ever fetched.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitral.errors import NotFoundError, VitralError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 2**26
"""67 million, 8192 × 8192; three bytes each once decoded."""
MAX_SIDE = 2**15
MAX_PATH = 4096
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
"""Eight bits a channel or fewer."""


def read_image(source: str | Path | bytes | bytearray | Image, name: str = "the image") -> Image:
    """The picture as RGB, upright as its EXIF data say; transparency is dropped, as published processors do.

    Args:
        source: a path, a data URL, the bytes of a file, or a picture that Pillow has opened.
        name: what it is called in messages, where it has no path.

    Raises:
        VitralError: no picture, damaged, animated, too large, or in numbers that do not fit eight bits a channel.
    """
    pillow, upright = _pillow()
    if isinstance(source, str) and source.startswith("data:"):
        source = data_url(source, name)
    elif isinstance(source, (str, Path)):
        if len(str(source)) > MAX_PATH:  # it is base64, and the system would say "File name too long"
            raise VitralError(f"{name} is a text too long for a path", "Give base64 as data:image/…;base64,…")
        name = repr(str(source)[-80:])
        source = _bytes_of(source, name)
    opened = isinstance(source, pillow.Image)
    if isinstance(source, (bytes, bytearray)):
        source = _open(pillow, bytes(source), name)
    elif not opened:
        raise VitralError(f"{name} is a {type(source).__name__}", "Give a path, the bytes of a file or a PIL image")
    image: Image = source
    _check(image, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that transparency is dropped
            # Decodes: what is cut short or damaged shows here. Only a picture of the caller's is copied.
            image = upright(image) if opened else upright(image, in_place=True) or image
            return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # a decoder of foreign bytes may fail in any way, and each means the same
        cause = str(error) or type(error).__name__
        raise VitralError(f"{name} is damaged: {cause:.80}", "Save or send it again") from error


def data_url(text: str, name: str = "the image") -> bytes:
    """The bytes that a `data:image/…;base64,…` URL holds; other URLs are refused, because nothing is fetched."""
    head, comma, body = text.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise VitralError(f"{name} is {text[:40]!r}", "Give data:image/…;base64,…; addresses are not fetched")
    if len(body) > MAX_BYTES * 4 // 3 + 4:
        raise VitralError(f"{name} has more than {MAX_BYTES >> 20} MiB")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise VitralError(f"{name} is not valid base64") from None


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise VitralError("pictures need Pillow, which is not installed", "pip install 'vitral[images]'") from None
    return Image, ImageOps.exif_transpose


def _bytes_of(path: str | Path, name: str) -> bytes:
    if "://" in str(path):
        raise VitralError(f"{name} is an address, and nothing is fetched", "Download it and give the file")
    try:
        with open(Path(path).expanduser(), "rb", opener=_regular) as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {name}") from None
    except (OSError, ValueError, RuntimeError) as error:  # the last for a ~ whose folder nobody knows
        raise VitralError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise VitralError(f"{name} has more than {MAX_BYTES >> 20} MiB", "Make it smaller")
    return data


def _regular(path: str, flags: int) -> int:
    """Opens a regular file only: a pipe would never end."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("it is not a regular file")
    return handle


def _open(pillow: Any, data: bytes, name: str) -> Image:
    """Reads the header."""
    if not data:
        raise VitralError(f"{name} is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pillow.DecompressionBombWarning)  # our own limit is lower
            return pillow.open(io.BytesIO(data), formats=FORMATS)
    except pillow.DecompressionBombError:
        raise VitralError(f"{name} has too many pixels", f"At most {MAX_PIXELS:,} are read; make it smaller") from None
    except Exception:  # as in read_image
        raise VitralError(f"{name} is not a picture that is read here", f"Give {', '.join(FORMATS)}") from None


def _check(image: Image, name: str) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise VitralError(f"{name} has {width} × {height} pixels")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise VitralError(
            f"{name} has {width} × {height} pixels",
            f"At most {MAX_PIXELS:,} are read, and {MAX_SIDE:,} a side; make it smaller",
        )
    if getattr(image, "is_animated", False) and image.format != "MPO":  # which is one photograph and its previews
        raise VitralError(f"{name} is animated", "Give one frame of it")
    if image.mode not in _MODES:
        raise VitralError(f"{name} has pixels of mode {image.mode}", "Save it with 8 bits a channel")
