"""What every test shares: one thread for torch, and a summary that counts skips by reason."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

# Before torch is imported: tests compare small numbers, and many threads only add noise and time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A skipped check is a hole in the proof; say how many there are and what would close them."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    terminalreporter.section(f"skipped: {len(skipped)}")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:4d} × {reason}")
