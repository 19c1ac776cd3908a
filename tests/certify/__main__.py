"""`python -m tests.certify [FAMILY …]`: what `vitral certify` runs. Progress goes to stderr, results to stdout.

Exit code 1 when a certificate fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings

from tests.certify.certificate import Certificate, RowResult, dumps, largest, shown

# Before torch is imported: a row is examined by one thread, and rows by several processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MOST_WORKERS = 8


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    began = time.perf_counter()
    warnings.simplefilter("ignore", FutureWarning)  # what transformers will change one day is not examined here
    # Only now: these read torch, transformers and every row.
    from tests.certify import page, run, store
    from vitral.families import families, family
    from vitral.families.common.certificates import has_architecture

    for name in options.families:
        family(name)  # or it says what was meant
    asked = options.families or families()
    names = [name for name in asked if has_architecture(name)]
    for name in asked:
        if name not in names:
            say(f"{name}: nothing to certify, because no architecture was published (see docs/families/{name}.md)")
    rows = {row.name for name in names for row in run.rows_of(name, options.quick)}
    say(f"{len(names)} families, {len(rows)} rows of the parity table, {options.workers} processes")
    found: list[Certificate] = []
    for certificate in run.certify(names, quick=options.quick, workers=options.workers, report=Lines(len(rows))):
        found.append(certificate)
        print(line(certificate), file=sys.stderr if options.json else sys.stdout, flush=True)
        if options.write and not options.quick:
            store.keep(certificate)
            page.keep(certificate)
    found.sort(key=lambda certificate: names.index(certificate.family))
    if options.json:
        print(dumps([certificate.to_json() for certificate in found]))
    bad = [certificate for certificate in found if not certificate.passed]
    for certificate in bad:
        for fault in certificate.faults():
            say(f"failed: {certificate.family}: {fault}")
    say(f"{len(found) - len(bad)} of {len(found)} certified in {time.perf_counter() - began:.0f} s")
    return 1 if bad else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.certify", description=__doc__)
    made.add_argument("families", nargs="*", help="all of them when none is named")
    made.add_argument("--quick", action="store_true", help="a few rows and mutants of every kind; nothing is written")
    made.add_argument("--no-write", dest="write", action="store_false", help="leave docs/ as it is")
    made.add_argument("--json", action="store_true", help="print the certificates as JSON")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    made.add_argument("--workers", type=int, default=min(cores, MOST_WORKERS), help="processes (default: %(default)s)")
    return made


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Lines:
    """A line on stderr for each row that comes in."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def __call__(self, result: RowResult) -> None:
        self.done += 1
        say(f"[{self.done:>{len(str(self.total))}}/{self.total}] {row_line(result)}")
        for fault in result.faults():
            say(f"    {fault}")


def row_line(result: RowResult) -> str:
    passed, caught = sum(each.passed for each in result.checks), sum(each.caught for each in result.mutants)
    worst = shown(largest(each.deviation for each in result.checks))
    mutants = f", {caught}/{len(result.mutants)} mutants" if result.mutants else ""
    return f"{result.row}: {passed}/{len(result.checks)} checks, |Δ| ≤ {worst}{mutants} ({result.seconds:.1f} s)"


def line(certificate: Certificate) -> str:
    """qwen3        certified  6/6 presets close, 4 rows, |Δ| ≤ 5.4e-06, 12/12 mutants, 8 s"""
    verdict = "certified" if certificate.passed else "FAILED"
    closed = sum(size.closes for size in certificate.sizes)
    found = [f"{closed}/{len(certificate.sizes)} presets close", f"{len(certificate.rows)} rows"]
    if certificate.rows:
        found += [f"|Δ| ≤ {shown(certificate.worst)}", f"{certificate.caught}/{len(certificate.mutants)} mutants"]
    return f"{certificate.family:<12} {verdict:<10} {', '.join(found)}, {certificate.seconds:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
