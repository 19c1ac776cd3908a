"""The rows of the parity table: one published architecture in one variant each, gathered from the modules here."""

from __future__ import annotations

import importlib
import pkgutil

from tests.families.parity import Row

_MODULES = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
ROWS: tuple[Row, ...] = tuple(row for module in _MODULES for row in getattr(module, "ROWS", ()))
BY_NAME = {row.name: row for row in ROWS}
assert len(BY_NAME) == len(ROWS), "two rows have one name"
