"""Pictures: from a file to the numbers a model takes. NumPy and Pillow; no torch."""

from vitral.image.prepare import Prepare
from vitral.image.read import data_url, read_image
from vitral.image.tile import PrepareTiles, Tiled

__all__ = ["Prepare", "PrepareTiles", "Tiled", "data_url", "read_image"]
