"""How waiting looks: bars on a terminal, a plain line every few seconds elsewhere (logs, CI, notebooks); on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vitral.cli.common import human_bytes

Report = Callable[[str, int, int | None], None]
"""report(what, bytes done, bytes in all or None)."""
SECONDS = 3.0
"""Between two plain lines."""
SMALL = 1 << 20
"""Files of fewer bytes get no line of their own."""


@contextmanager
def progress(what: str = "") -> Iterator[Report]:
    """A function to report downloads to; each of them gets a bar of its own beside `what` is going on."""
    if sys.stderr.isatty():
        yield from _bars(what)
    else:
        if what:
            print(f"{what} …", file=sys.stderr, flush=True)
        yield _Lines()


def size(done: int, total: int | None) -> str:
    """ "12.0 MiB of 93.8 MiB (12%)"; nothing where there is nothing to count."""
    of = f" of {human_bytes(total)} ({100 * done // total}%)" if total else ""
    return f"{human_bytes(done)}{of}" if done or total else ""


def _bars(what: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[size]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}
        if what:
            bars.add_task(what, total=None, size="")

        def report(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, size="")
            bars.update(tasks[name], completed=done, total=total, size=size(done, total))

        yield report


class _Lines:
    """Plain lines: the first report, one every few seconds, and the last."""

    def __init__(self) -> None:
        self.said: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if total is not None and 0 < total < SMALL:
            return
        now, before = time.monotonic(), self.said.get(what)
        ended = total is not None and done >= total
        if before is None or now - before > SECONDS or (ended and before != float("inf")):
            print(": ".join(filter(None, (what, size(done, total)))), file=sys.stderr, flush=True)
            self.said[what] = float("inf") if ended else now
