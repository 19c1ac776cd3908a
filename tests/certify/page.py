"""docs/families: a page for each family, and the timeline they stand in, from the cards, the presets and the stored
certificates. No check is run here, so that `make check` can say in seconds whether the pages are in step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.certify.certificate import PITFALLS, Certificate, largest, shown
from tests.certify.store import DOCS, stored
from tests.families.published import Closing, closing
from vitral.cli.common import human_count
from vitral.cli.drawing import draw
from vitral.families import families, family, presets, spec
from vitral.families.common.assemble import Card
from vitral.families.common.certificates import has_architecture

FOLDER = DOCS / "families"


def pages() -> dict[Path, str]:
    """Every page under docs/families: path → what it must say."""
    found = {FOLDER / f"{name}.md": page(name, stored(name)) for name in families()}
    return {FOLDER / "README.md": timeline(), **found}


def keep(certificate: Certificate) -> None:
    """Write the page of a family that was just certified, and the timeline."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    name = certificate.family
    (FOLDER / f"{name}.md").write_text(page(name, certificate), "utf-8")
    (FOLDER / "README.md").write_text(timeline(), "utf-8")


# ── the timeline ────────────────────────────────────────────────────────────────────────────────────────────


def timeline() -> str:
    """A row a family, in order of publication, with the sizes its presets really have."""
    lines = [
        "# The families",
        "",
        "Written by `make docs` from `src/vitral/families/` and `docs/certificates/`. Parameters are counted on what",
        "each preset builds. A certificate says how far the worst of all checks is from the reference, and how many of",
        "the known mistakes that were put back in on purpose were found (`vitral certify`).",
        "",
        *table(("year", "family", "from", "kind", "what it brought", "presets", "licence", "certificate"), _rows()),
    ]
    return "\n".join(lines) + "\n"


def _rows() -> Iterator[tuple[str, ...]]:
    for name in families():
        card = family(name).CARD
        sizes = ", ".join(f"`{preset}` ({human_count(closing(name, preset).total)})" for preset in presets(name))
        title = f"[{card.title}]({name}.md) `{name}`"
        yield str(card.year), title, card.org, card.kind, card.idea, sizes or "–", card.licence, verdict(name)


def verdict(name: str) -> str:
    """The certificate in a cell."""
    certificate = stored(name)
    if not has_architecture(name):
        return "nothing to certify"
    if certificate is None:
        return "none yet"
    word = "" if certificate.passed else "failed: "
    return f"{word}≤ {shown(certificate.worst)}, {certificate.caught}/{len(certificate.mutants)}"


# ── the page of a family ────────────────────────────────────────────────────────────────────────────────────


def page(name: str, certificate: Certificate | None) -> str:
    """What the family brought, its drawing, its presets, its certificate, its traps, its sources."""
    card = family(name).CARD
    sections = [[f"# {card.title}", "", f"`{name}`, {card.org} {card.year}. {sentence(card.idea)}"], list(facts(card))]
    if has_architecture(name):
        sections += [list(drawing(name)), list(sizes(name)), list(evidence(certificate))]
    sections += [
        bullets("Traps", card.traps),
        bullets("What was published besides", card.facts),
        bullets("What was not published", [", ".join(card.unpublished)] if card.unpublished else []),
        ["[All families](README.md). Written by `make docs`."],
    ]
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def facts(card: Card) -> Iterator[str]:
    rows = [("kind", card.kind), ("sources", linked(card.source)), ("licence of the weights", card.licence)]
    if card.recipe:
        rows.append(("recipe", card.recipe))
    if card.stand_in:
        stand_in = card.stand_in.partition("/")[0]
        named = f"[`{card.stand_in}`]({stand_in}.md)" if stand_in in families() else card.stand_in
        rows.append(("open stand-in", named))
    return table(("", ""), rows)


def drawing(name: str) -> Iterator[str]:
    """The smallest preset, drawn."""
    path = f"{name}/{min(presets(name), key=lambda preset: closing(name, preset).total)}"
    yield from (f"## The block (`vitral show {path}`)", "", "```text", draw(spec(path)), "```")


def sizes(name: str) -> Iterator[str]:
    """Every preset's count beside the published one."""
    rows: list[Closing] = [closing(name, preset) for preset in presets(name)]
    card, sparse = family(name).CARD, any(row.active != row.total for row in rows)
    head = ["preset", "parameters", *(["active"] if sparse else []), "published", "", "note"]
    head += ["licence"] if card.licences else []
    yield from ("## Presets", "", "Each count equals one that was derived apart from this code.", "")
    body = []
    for preset, row in zip(presets(name), rows, strict=True):
        cells = [f"`{preset}`", f"{row.total:,}", *([f"{row.active:,}"] if sparse else []), *published(row), row.note]
        body.append([*cells, *([card.licence_of(preset)] if card.licences else [])])
    yield from table(head, body, right=("parameters", "active", "published"))


def published(row: Closing) -> tuple[str, str]:
    """The figure that its authors printed, and whether ours rounds to it."""
    printed = (row.published, row.published_active if row.published_active != row.published else None)
    counts = (human_count(n).replace(".0 ", " ") if n else "" for n in printed)
    total, active = counts
    figure = " of ".join(filter(None, (active and f"{active} active", total)))
    verdict = "" if not figure else "closes" if row.rounds else "see note"
    return figure or "–", verdict if row.closes else "**does not close**"


def evidence(certificate: Certificate | None) -> Iterator[str]:
    """What the certificate says."""
    yield from ("## Certificate", "")
    if certificate is None:
        yield "None yet: `vitral certify` has not been run on this family."
        return
    machine, mutants = certificate.machine, certificate.mutants
    verdict = "Passed" if certificate.passed else "**Failed**"
    yield (
        f"{verdict} on {certificate.date}: {len(certificate.rows)} variants in float32, every parameter random, "
        f"against {', '.join(certificate.references)}; {certificate.caught} of {len(mutants)} mistakes put back in "
        f"on purpose were found."
    )
    yield ""
    yield (
        f"vitral {machine.vitral}, torch {machine.torch}, transformers {machine.transformers}, Python "
        f"{machine.python}, one process of {machine.threads} thread{'s' * (machine.threads > 1)} for "
        f"{certificate.seconds:.0f} s; code `{certificate.digest}`. "
        f"[Every number](../certificates/{certificate.family}.json)."
    )
    yield ""
    if not certificate.passed:
        yield from (*(f"- {fault}" for fault in certificate.faults()), "")
    yield from table(("check", "what it compares", "variants", "worst |Δ|", "allowed"), checks(certificate))
    yield ""
    yield from table(("variant", "reference", "worst |Δ|", "worst after a block"), variants(certificate))
    if mutants:
        yield ""
        yield from table(("kind of mistake", "put back in", "variant", "check", "|Δ|"), caught(certificate))


def checks(certificate: Certificate) -> Iterator[tuple[str, ...]]:
    for name, meaning in certificate.meanings.items():
        found = [each for row in certificate.rows for each in row.checks if each.check == name]
        worst = shown(largest(each.deviation for each in found))
        yield f"`{name}`", meaning, str(len(found)), worst, f"{found[0].allowed:g}"


def variants(certificate: Certificate) -> Iterator[tuple[str, ...]]:
    for row in certificate.rows:
        worst = largest(each.deviation for each in row.checks)
        yield f"`{row.row}`", row.reference, shown(worst), shown(max(row.blocks)) if row.blocks else "–"


def caught(certificate: Certificate) -> Iterator[tuple[str, ...]]:
    for each in sorted(certificate.mutants, key=lambda each: each.pitfall):
        found = shown(each.deviation) if each.deviation is not None else "refused, or not finite"
        kind = PITFALLS.get(each.pitfall, f"kind {each.pitfall}")
        yield kind, each.name, f"`{each.row}`", f"`{each.check}`", found if each.caught else f"**not found** ({found})"


# ── Markdown ────────────────────────────────────────────────────────────────────────────────────────────────


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> Iterator[str]:
    yield f"| {' | '.join(map(cell, head))} |"
    yield "|" + "|".join("---:" if title in right else "---" for title in head) + "|"
    for row in rows:
        yield f"| {' | '.join(map(cell, row))} |"


def cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


def bullets(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {linked(line)}" for line in lines)] if lines else []


def sentence(text: str) -> str:
    """With a capital at its start and a stop at its end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def linked(source: str) -> str:
    """arXiv numbers as links."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)
