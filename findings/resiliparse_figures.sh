#!/usr/bin/env bash
# Resiliparse's extract_plain_text(alt_texts=False) leaves out whole <figure> elements, and the tables within them.
# WordPress puts every table of its block editor into a <figure>. Expected: alt_texts decides on alternative texts alone.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q resiliparse==2.0.1
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

from resiliparse.extract.html2text import extract_plain_text

page = "<body><p>By year:</p><figure><table><tr><td>1901</td><td>twelve sacks</td></tr></table></figure></body>"
print("resiliparse", version("resiliparse"))
found = {flag: "twelve sacks" in extract_plain_text(page, alt_texts=flag) for flag in (True, False)}
print("expected: the table's text with either value")
print("seen:", {f"alt_texts={flag}": "kept" if kept else "lost" for flag, kept in found.items()})
raise SystemExit(0 if found == {True: True, False: False} else 1)
PY
