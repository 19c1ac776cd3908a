"""Where certificates are kept: docs/certificates/<family>.json, and a line each that travels with the package."""

from __future__ import annotations

import json
from pathlib import Path

from tests.certify.certificate import Certificate, dumps, from_json
from vitral.families import families
from vitral.families.common import certificates

DOCS = Path(__file__).parent.parent.parent / "docs"
FOLDER = DOCS / "certificates"


def keep(certificate: Certificate) -> None:
    """Write it, and its line in the package's summary (one line a family, oldest family first)."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    _file(certificate.family).write_text(dumps(certificate.to_json()) + "\n", "utf-8")
    rows = {**certificates.summary(), certificate.family: certificate.summary()}
    lines = [f'"{name}": {dumps(rows[name], indent=None)}' for name in families() if name in rows]
    certificates.SUMMARY.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def stored(family: str) -> Certificate | None:
    """The certificate of a family; None where there is none."""
    path = _file(family)
    return from_json(json.loads(path.read_text("utf-8"))) if path.is_file() else None


def _file(family: str) -> Path:
    return FOLDER / f"{family}.json"
