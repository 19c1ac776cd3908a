#!/usr/bin/env bash
# Writes constraints.txt: what a clean environment resolves today for the core and every extra.
# `make lock` runs it. Change the torch pin here and nowhere else.
set -euo pipefail
cd "$(dirname "$0")/.."
torch="2.13.0"
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT

"${PYTHON:-python3}" -m venv "$here/venv"
pip="$here/venv/bin/python -m pip --disable-pip-version-check"
$pip install --quiet --upgrade pip
$pip install --quiet "torch==$torch"
$pip install --quiet ".[dev,hub,gguf]"
{
    cat <<'NOTE'
# Exact versions of the core and of every extra, direct and transitive, as one clean environment resolved them.
# Made by `make lock` (scripts/lock.sh): a new venv, torch first, then the package with all its extras, then `pip freeze`.
# A local build tag such as +cpu is dropped: the pin holds for any build of that release.
NOTE
    $pip freeze --all | grep -Ev '^(vitral|wheel)( |=)' | sed -E 's/\+[a-z0-9.]+$//' | LC_ALL=C sort -f
} > "$here/constraints.txt"
mv "$here/constraints.txt" constraints.txt
echo "constraints.txt: $(grep -vc '^#' constraints.txt) pins"
