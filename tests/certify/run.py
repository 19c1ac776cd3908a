"""Trying everything there is on a family: the counts of its presets, its rows through every check, its mutants.

    families ─▶ their rows, each once ─▶ processes: examine(row) ─▶ a certificate when the last of its rows is in

A row that speaks for several families is examined once and stands in all their certificates.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path

import torch
import transformers
from torch import Tensor

import vitral
from tests.certify.certificate import Certificate, Checked, Machine, RowResult, Size, Tried
from tests.families.mutants import FOUND, Mutant, gather
from tests.families.parity import TOLERANCE, Check, Reference, Row, answer, round_trip
from tests.families.published import closing
from tests.families.rows import BY_NAME, ROWS
from vitral.families import families, family, presets
from vitral.families.common.certificates import digest

Report = Callable[[RowResult], None]


# ── one row ─────────────────────────────────────────────────────────────────────────────────────────────────


def examine(name: str, quick: bool = False) -> RowResult:
    """Make the row real, and try every check and every mutant on it. Whatever breaks is a fault in the result."""
    row, began = BY_NAME[name], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            ref = row.real(Path(folder) / "reference")
            todo = {check.__name__: (TOLERANCE, partial(checked, check, ref)) for check in row.checks()}
        except Exception as error:
            return broken(name, error)
        todo["round_trip"] = (TOLERANCE, partial(ref.round_trip, Path(folder) / "again"))
        blocks: list[float] = []
        if shows_blocks(ref):
            todo["every_block"] = (TOLERANCE, partial(every_block, ref, blocks))
        checks = tuple(tried(check, allowed, run) for check, (allowed, run) in todo.items())
        mutants = tuple(sown(mutant, ref) for mutant in mutants_of(name, quick))
    return RowResult(
        row=name,
        families=row.families,
        reference=ref.said,
        checks=checks,
        blocks=tuple(blocks),
        mutants=mutants,
        seconds=round(time.perf_counter() - began, 2),
    )


def checked(check: Check, ref: Reference) -> float:
    return check(ref, ref.load())


def tried(check: str, allowed: float, run: Callable[[], float]) -> Checked:
    try:
        return Checked(check=check, deviation=finite(run()), allowed=allowed)
    except Exception as error:
        return Checked(check=check, deviation=None, allowed=allowed, fault=said(error))


def sown(mutant: Mutant, ref: Reference) -> Tried:
    tell = partial(Tried, pitfall=mutant.pitfall, name=mutant.name, row=mutant.row, check=mutant.check.__name__)
    try:
        found = mutant.deviation(ref)
    except Exception as error:  # a mutant that breaks in another way than by refusal proves nothing about the check
        return tell(deviation=None, caught=False, fault=said(error))
    return tell(deviation=finite(found), caught=found > FOUND)


def broken(name: str, error: BaseException) -> RowResult:
    """A row that could not be examined at all."""
    fault = Checked(check="reference", deviation=None, allowed=0.0, fault=said(error))
    return RowResult(
        row=name,
        families=BY_NAME[name].families,
        reference="none",
        checks=(fault,),
        blocks=(),
        mutants=(),
        seconds=0.0,
    )


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:300]


def shows_blocks(ref: Reference) -> bool:
    """Whether transformers shows what each block of the same stack gave; not so where inputs are not ids alone."""
    return isinstance(ref.theirs, transformers.PreTrainedModel) and type(ref).ask is Reference.ask


def every_block(ref: Reference, found: list[float]) -> float:
    """The stream after each block, in units of its standard deviation where that is above 1.

    Nothing within a stack holds the stream's size, as the head and the final norm do for what leaves it. What is found
    for each block (for the last: after the final norm) is added to `found`.
    """
    ours = ref.load()
    mine: list[Tensor] = []
    for block in ours.stack.blocks:
        block.register_forward_hook(lambda module, args, out: mine.append(out))
    mine[-1] = answer(ours, ref.ids, segments=ref.segments)["hidden"]
    options = {} if ref.segments is None else {"token_type_ids": ref.segments}
    with torch.no_grad():
        if ref.row.grows:
            ref.theirs(ref.ids[:, :1])
        theirs = ref.theirs(ref.ids, output_hidden_states=True, **options).hidden_states[1:]
    pairs = zip(theirs, mine, strict=True)
    found += [(a - b).abs().max().item() / max(1.0, a.std().item()) for a, b in pairs]
    return max(found)


# ── which rows, which mutants ───────────────────────────────────────────────────────────────────────────────


def mutants_of(row: str, quick: bool) -> list[Mutant]:
    """All that are sown into a row; of each kind of mistake the first, when it is to be quick."""
    found = [mutant for mutant in gather() if mutant.row == row]
    return list({mutant.pitfall: mutant for mutant in reversed(found)}.values()) if quick else found


def rows_of(family: str, quick: bool = False) -> list[Row]:
    """The rows that speak for a family; when it is to be quick, few of them that need every check between them."""
    rows = [row for row in ROWS if family in row.families]
    if not quick:
        return rows
    kinds = {row.name: {check.__name__ for check in row.checks()} for row in rows}
    left, chosen = set[str]().union(*kinds.values()), list[Row]()
    while left:
        best = max(rows, key=lambda row: (len(kinds[row.name] & left), len(mutants_of(row.name, True))))
        chosen.append(best)
        left -= kinds[best.name]
    sown_into = [row for row in rows if mutants_of(row.name, True)]
    return chosen if any(row in sown_into for row in chosen) else [*chosen, *sown_into[:1]]


# ── a family ────────────────────────────────────────────────────────────────────────────────────────────────


def certify(names: Sequence[str], *, quick: bool, workers: int, report: Report) -> Iterator[Certificate]:
    """The certificate of each family, as soon as its last row is in."""
    for name in families():  # all of the code as it is now, which the digests speak of, whatever happens to the files
        family(name), digest(name)
    wanted = {name: [row.name for row in rows_of(name, quick)] for name in names}
    done: dict[str, RowResult] = {}
    waiting = dict(wanted)
    for result in examined(list(dict.fromkeys(row for rows in wanted.values() for row in rows)), quick, workers):
        done[result.row] = result
        report(result)
        for name in [name for name, rows in waiting.items() if done.keys() >= set(rows)]:
            yield certificate(name, [done[row] for row in waiting.pop(name)], quick)
    for name in waiting:  # the families that no row speaks for
        yield certificate(name, [], quick)


def certificate(name: str, rows: Sequence[RowResult], quick: bool) -> Certificate:
    return Certificate(
        family=name,
        digest=digest(name),
        date=date.today().isoformat(),
        seconds=round(sum(row.seconds for row in rows), 1),
        quick=quick,
        machine=machine(),
        meanings=meanings(rows),
        sizes=tuple(size(name, preset) for preset in presets(name)),
        rows=tuple(rows),
    )


def meanings(rows: Sequence[RowResult]) -> dict[str, str]:
    """check → the first line of what its docstring says, for all checks of these rows."""
    known = {check.__name__: check.__doc__ for row in rows for check in BY_NAME[row.row].checks()}
    known |= {"round_trip": round_trip.__doc__, "every_block": every_block.__doc__}
    done = dict.fromkeys(each.check for row in rows for each in row.checks)
    return {check: (known.get(check) or "").strip().partition("\n")[0] for check in done}


def size(name: str, preset: str) -> Size:
    found = closing(name, preset)
    return Size(preset=preset, **asdict(found), closes=found.closes)


def machine() -> Machine:
    return Machine(
        vitral=vitral.__version__,
        torch=torch.__version__,
        transformers=transformers.__version__,
        python=platform.python_version(),
        threads=torch.get_num_threads(),
    )


# ── processes ───────────────────────────────────────────────────────────────────────────────────────────────


def examined(names: Sequence[str], quick: bool, workers: int) -> Iterator[RowResult]:
    """Each row's result, in the order they come in."""
    if workers <= 1 or len(names) <= 1:
        yield from (examine(name, quick) for name in names)
        return
    # A fork has every import and costs nothing; where there is none, each process imports for itself.
    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    pool = ProcessPoolExecutor(min(workers, len(names)), mp_context=context, initializer=one_thread)
    try:
        waiting = {pool.submit(examine, name, quick): name for name in names}
        for each in as_completed(waiting):
            error = each.exception()
            yield broken(waiting[each], error) if error else each.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def one_thread() -> None:
    """A process has one thread for its numbers, and ends with the process that started it."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
