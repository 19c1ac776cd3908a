"""Smoke alarms: measures of the source that ring before a cut goes wrong. `make check` runs them.

When one rings, mend the cut, not the number. Each alarm is a function of the tree that yields a line for every place
where it rings; tests/test_alarms.py shows for each that it does.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

FILE_LINES, FAMILY_LINES, FUNCTION_LINES, CONSTRUCTOR_ARGUMENTS = 400, 120, 60, 12
PYTHON_ROOMS = ("src", "scripts", "bench", "tests")


def python_files(root: Path, *rooms: str) -> Iterator[tuple[Path, str]]:
    for room in rooms:
        for path in sorted((root / room).rglob("*.py")):
            yield path.relative_to(root), path.read_text("utf-8")


def is_family(path: Path) -> bool:
    """Every file of families/ is a family; what they share lies in its folder common/."""
    return path.parent.name == "families" and path.name != "__init__.py"


def families(root: Path) -> list[str]:
    return [path.stem for path, _ in python_files(root, "src/vitral/families") if is_family(path)]


def long_files(root: Path) -> Iterator[str]:
    """A file that does more than one thing."""
    for path, text in python_files(root, "src", "scripts"):
        ceiling, lines = FAMILY_LINES if is_family(path) else FILE_LINES, text.count("\n")
        if lines > ceiling:
            yield f"{path}: {lines} lines (ceiling {ceiling})"


def long_functions(root: Path) -> Iterator[str]:
    """A function that does more than one thing."""
    for path, text in python_files(root, *PYTHON_ROOMS):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    yield f"{path}:{node.lineno}: {node.name} has {lines} lines (ceiling {FUNCTION_LINES})"


def wide_constructors(root: Path) -> Iterator[str]:
    """A part that knows too much: `__init__` (or the fields of a frozen part under nn/) beyond a dozen."""
    for path, text in python_files(root, "src"):
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ClassDef):
                continue
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    count = len(item.args.posonlyargs + item.args.args + item.args.kwonlyargs) - 1
                    if count > CONSTRUCTOR_ARGUMENTS:
                        yield f"{path}:{item.lineno}: {node.name} takes {count} arguments"
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            if "nn" in path.parts and node.decorator_list and len(fields) > CONSTRUCTOR_ARGUMENTS:
                yield f"{path}:{node.lineno}: {node.name} has {len(fields)} fields"


def named_families(root: Path) -> Iterator[str]:
    """A part that knows a family by name. Families are data; parts must not look."""
    names = set(families(root))
    stems = {stem for name in names if len(stem := re.sub(r"\d+$", "", name)) > 2}  # a bare "t" or "o" names nobody
    words = [re.escape(word) for word in sorted(names - stems)] + [rf"{re.escape(stem)}\d*" for stem in sorted(stems)]
    pattern = re.compile(rf"\b({'|'.join(words)})\b", re.IGNORECASE) if words else None
    for path, text in python_files(root, "src/vitral/nn"):
        for number, line in enumerate(_code_only(text).splitlines(), 1):
            if pattern and (found := pattern.search(line)):
                yield f"{path}:{number}: names the family {found.group()!r}"


def _code_only(text: str) -> str:
    """The source without comments and docstrings: those may say whose idea a part is."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
    return "\n".join(re.sub(r"(^|\s)#.*$", "", line) for line in lines)


def distributed_parts(root: Path) -> Iterator[str]:
    """A part that knows it is split over processes; parallelism is applied from outside."""
    for path, text in python_files(root, "src/vitral/nn", "src/vitral/families"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                names = [ast.unparse(node)]
            else:
                continue
            if any(name.startswith("torch.distributed") for name in names):
                yield f"{path}:{node.lineno}: uses torch.distributed"


def unsafe_loading(root: Path) -> Iterator[str]:
    """A way for a model file to run code."""
    pattern = re.compile(
        r"\b(import (pickle|dill|marshal|shelve)\b|from (pickle|dill) |torch\.load\(|trust_remote_code)"
    )
    for path, text in python_files(root, "src"):
        for number, line in enumerate(_code_only(text).splitlines(), 1):
            if pattern.search(line):
                yield f"{path}:{number}: {line.strip()}"


def unequal_readmes(root: Path) -> Iterator[str]:
    """Two languages, one content: as many headings of each level, the same code blocks and images, in order."""
    readings = {}
    for name in ("README.md", "README.pt-BR.md"):
        if not (root / name).is_file():
            yield f"{name} is missing"
            return
        text = (root / name).read_text("utf-8")
        blocks = re.findall(r"^```.*?^```", text, re.M | re.S)
        prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        commands = [re.sub(r"\s*#.*", "", line) for block in blocks for line in block.splitlines()]
        readings[name] = {
            "headings": [len(level) for level in re.findall(r"^(#+) ", prose, re.M)],
            "code blocks": [line for line in commands if line.startswith(("make ", "vitral ", "import ", "lm", "```"))],
            "images": re.findall(r"!\[[^\]]*\]\(([^)]+)\)", prose),
            "table rows": len(re.findall(r"^\|", prose, re.M)),
        }
    left, right = readings.values()
    for what in left:
        if left[what] != right[what]:
            yield f"README.md and README.pt-BR.md differ in their {what}: {left[what]} and {right[what]}"


def machine_paths(root: Path) -> Iterator[str]:
    """A page or a file that only makes sense on one machine, or that names a registry's host."""
    hosts = r"pypi\.org|pythonhosted\.org|registry\.npmjs|deb\.debian|download\.pytorch"
    pattern = re.compile(rf"(?<![\w.])/(work|tmp|root|home|opt|mnt|srv|Users)/\w|{hosts}")
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "recipes").rglob("*.y*ml")]
    for path in sorted(pages):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if found := pattern.search(line):
                yield f"{path.relative_to(root)}:{number}: {found.group()!r}"


ALARMS: tuple[Callable[[Path], Iterator[str]], ...] = (
    long_files,
    long_functions,
    wide_constructors,
    named_families,
    distributed_parts,
    unsafe_loading,
    unequal_readmes,
    machine_paths,
)


def main(root: Path) -> int:
    """Run every alarm; 1 when any rings."""
    rang = 0
    for alarm in ALARMS:
        for line in alarm(root):
            rang += 1
            print(f"{alarm.__name__}: {line}")
    print(f"smoke alarms: {len(ALARMS)} checked, {rang} ringing")
    return 1 if rang else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent))
