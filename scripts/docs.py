"""Pages that come from the code: docs/cli.md (every verb's help) and docs/families.md (every architecture).

`make docs` writes them; `--check` (part of `make check`) only says whether they are still what the code says.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

from vitral import cli
from vitral.cli.common import human_count
from vitral.families import families, family, presets, spec

DOCS = Path(__file__).parent.parent / "docs"
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


def families_page() -> str:
    """A row a family, with the sizes its presets really have."""
    lines = [
        "# The families",
        "",
        "Written by `make docs` from `src/vitral/families/`; parameters are counted on what each preset builds.",
        "",
        "| family | year | from | kind | what it brought | source | presets |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in families():
        card = family(name).CARD
        counts = {preset: spec(f"{name}/{preset}").count().total for preset in presets(name)}
        sizes = ", ".join(f"`{preset}` ({human_count(total)})" for preset, total in counts.items())
        cells = (f"`{name}` {card.title}", str(card.year), card.org, card.kind, card.idea, card.source, sizes)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    os.environ.update(COLUMNS="100", NO_COLOR="1", TERM="dumb")
    stale = 0
    for name, text in {"cli.md": cli_page(), "families.md": families_page()}.items():
        path = DOCS / name
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        if "--check" in arguments:
            stale += 1
            print(f"docs/{name} is not what the code says: run `make docs`")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            print(f"docs/{name} written")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
