"""Pages that come from the code: docs/cli.md (every verb's help) and docs/families/ (every architecture, with what its
certificate says).

`make docs` writes them; `--check` (part of `make check`) only says whether they are still what the code says.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys

from tests.certify.page import FOLDER, pages
from tests.certify.store import DOCS
from vitral import cli

SUB_VERBS = {"tokenizer": ("show", "train")}


def cli_page() -> str:
    """The help of `vitral` and of every verb, as a person reads it in a terminal 100 columns wide."""
    lines = ["# The command line", "", "Written by `make docs` from the verbs themselves.", ""]
    commands = [name + sub for name in cli.VERBS for sub in ("", *(f" {each}" for each in SUB_VERBS.get(name, ())))]
    for command in [[], *map(str.split, commands)]:
        lines += [f"## `{' '.join(['vitral', *command])}`", "", "```text", help_of(command), "```", ""]
    return "\n".join(lines)


def help_of(command: list[str]) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        if cli.run([*command, "--help"]):
            raise SystemExit(f"error: vitral {' '.join(command)} --help failed")
    return "\n".join(line.rstrip() for line in shown.getvalue().strip().splitlines())


def main(arguments: list[str]) -> int:
    os.environ.update(COLUMNS="100", NO_COLOR="1", TERM="dumb")
    wanted = {DOCS / "cli.md": cli_page(), **pages()}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
    lost = [path for path in FOLDER.glob("*.md") if path not in wanted]
    for path in [*stale, *lost]:
        name = path.relative_to(DOCS.parent)
        if "--check" in arguments:
            print(f"{name} is not what the code says: run `make docs`")
        elif path in lost:
            path.unlink()
            print(f"{name} removed: there is no such family")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], "utf-8")
            print(f"{name} written")
    return 1 if "--check" in arguments and (stale or lost) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
