"""Which families are certified: a summary that `vitral certify` writes and that travels with the package.

A certificate speaks of the code it was made from. `digest` names that code: the family's file and whatever it imports,
name by name, without comments and docstrings; a part that the family does not use is no part of it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

Status = Literal["certified", "failed", "stale", "none", "closed"]
PACKAGE = Path(__file__).parent.parent.parent
SUMMARY = PACKAGE / "families" / "certificates.json"
ALWAYS = ("weights/names.py",)
"""What no family imports and every one relies on."""


def status(name: str) -> Status:
    """What is known of a family's equality with its reference.

    "certified", or "failed", for the code that is here; "stale" where a certificate speaks of other code; "none" where
    there is none; "closed" where there is nothing to certify, because no architecture was published.
    """
    if not source(name).is_file() or not has_architecture(name):
        return "closed"
    row = summary().get(name)
    if row is None:
        return "none"
    if row["digest"] != digest(name):
        return "stale"
    return "certified" if row["passed"] else "failed"


def summary() -> dict[str, dict[str, Any]]:
    """family → passed, worst (largest |Δ|, null where there is none), mutants [caught, tried], digest, date."""
    return json.loads(SUMMARY.read_text("utf-8")) if SUMMARY.is_file() else {}


def source(name: str) -> Path:
    return PACKAGE / "families" / f"{name}.py"


def has_architecture(name: str) -> bool:
    """Whether the family's file says how to build it: it defines `spec`, or takes it from another."""
    return "spec" in _read(source(name))[2]


@cache
def digest(name: str) -> str:
    """Sixteen hexadecimal digits that change with the code that the family is made of."""
    hashed = hashlib.sha256()
    for path in files(name):
        hashed.update(f"{path.relative_to(PACKAGE).as_posix()}\n{code(path)}\n".encode())
    return hashed.hexdigest()[:16]


def files(name: str) -> list[Path]:
    """The files that a family is made of: its own (`name.py`, `name_….py`), what these import, and ALWAYS; sorted."""
    found: set[Path] = set()
    waiting = [source(name), *source(name).parent.glob(f"{name}_*.py"), *(PACKAGE / each for each in ALWAYS)]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imports(path)
    return sorted(path for path in found if path.name != "__init__.py")


@cache
def code(path: Path) -> str:
    """The source without comments, docstrings and empty lines (the same text on every version of Python)."""
    text, tree, _ = _read(path)
    lines = text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    bare = (re.sub(r"(^|\s)#.*$", "", line).rstrip() for line in lines)
    return "\n".join(line for line in bare if line)


@cache
def _read(path: Path) -> tuple[str, ast.Module, dict[str, str]]:
    """A file's text, its syntax tree, and the names that it has at its top: name → the module it was imported from."""
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    names: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id: "" for target in targets if isinstance(target, ast.Name)}
    return text, tree, names


@cache
def _imports(path: Path) -> list[Path]:
    """The files of the package that a file imports from, at its top or inside."""
    nodes = (node for node in ast.walk(_read(path)[1]) if isinstance(node, ast.ImportFrom) and node.module)
    named = (f"{node.module}.{alias.name}" for node in nodes for alias in node.names)
    return [found for name in named if name.startswith("vitral.") and (found := _file(name))]


def _file(name: str) -> Path | None:
    """Where the name `vitral.nn.Attention` is defined: a module's own file, or the one its package takes it from."""
    parts = name.split(".")[1:]
    for length in (len(parts), len(parts) - 1):
        place = PACKAGE.joinpath(*parts[:length])
        if place.with_suffix(".py").is_file():
            return place.with_suffix(".py")
        package = place / "__init__.py"
        if package.is_file() and length < len(parts):
            origin = _read(package)[2].get(parts[-1])
            return _file(origin) if origin else package
    return None
