"""What documents say of themselves, source by source: licence, language, date, URL and encoding, and how each is known."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from data_prep.stage import add_up

ALL = "all sources"
DOUBTFUL = ("not understood", "contradictory")
"""Ways of knowing that a person should look at; an encoding that is assumed is another."""


def lines(summary: dict[str, Any]) -> list[str]:
    """For a person: what is known of each source's documents, the totals at the end, and what is in doubt."""
    known, passed = summary["facts"], summary["passed_over"]
    shown = []
    for source, of in _with_total(known):
        shown.append(f"facts       {source}")
        shown += [f"            {fact + ':':<10}{_listed(hows)}" for fact, hows in of.items()]
    for source, kinds in _with_total(passed):
        shown.append(f"passed over {source}: {sum(kinds.values()):,} records that are no documents: {_listed(kinds)}")
    shown += [f"LOOK AT     {line}" for line in doubts(known)]
    notes = summary["notes"]
    shown += [f"            {note['where']}: {note['note']}" for note in notes[:5]]
    return shown + ([f"            and {len(notes) - 5:,} more files"] if len(notes) > 5 else [])


def doubts(known: dict[str, Any]) -> list[str]:
    """A sentence for each source and fact that was assumed, contradicts itself, or was not understood."""
    said = []
    for source, of in known.items():
        for fact, hows in of.items():
            doubtful = {how: count for how, count in hows.items() if _is_doubtful(how)}
            if doubtful:
                said.append(f"{source}: {fact} of {sum(hows.values()):,} documents: {_listed(doubtful)}")
    return said


def section(summary: dict[str, Any]) -> str:
    """The report's section: a table of facts by source with doubtful ones marked, the notes, and what was passed over."""
    known, passed, notes = summary["facts"], summary["passed_over"], summary["notes"]
    names = list(dict.fromkeys(fact for of in known.values() for fact in of))
    rows = [
        f"<tr><td>{escape(source)}{''.join(f'<td>{_cell(of.get(fact, {}))}' for fact in names)}"
        for source, of in _with_total(known)
    ]
    html = "<h2>What documents say of themselves</h2>"
    html += f"<table><tr><th>source{''.join(f'<th>{escape(name)}' for name in names)}</tr>{''.join(rows)}</table>"
    html += "<p>All documents read, before the filters, by how each fact is known.</p>"
    if notes:
        listed = "<br>".join(f"<code>{escape(note['where'])}</code> {escape(note['note'])}" for note in notes[:50])
        more = f"<br>and {len(notes) - 50:,} more files" if len(notes) > 50 else ""
        html += f"<p class=warn>The first of each file:<br>{listed}{more}</p>"
    if passed:
        rows = [
            f"<tr><td>{escape(source)}<td class=n>{sum(kinds.values()):,}<td>{escape(_listed(kinds, 20))}"
            for source, kinds in _with_total(passed)
        ]
        html += "<h2>Passed over</h2><p>Records that are rightly no documents.</p>"
        html += f"<table><tr><th>source<th class=n>records<th>kinds</tr>{''.join(rows)}</table>"
    return html


def languages_are(summary: dict[str, Any]) -> str:
    """What the counts of languages rest on: the recipe's language step, what documents declare, or nothing."""
    steps = [step for step in summary["clean"] if step["type"] == "language"]
    if any(step["only_sources"] is None for step in steps):
        return "Found in the texts by the recipe's language step."
    if steps:
        judged = sorted({name for step in steps for name in step["only_sources"]})
        return f"Found in the texts of {', '.join(judged)} by the recipe's language step; elsewhere as declared, unchecked."
    hows = add_up(summary["facts"].values()).get("language", {})
    declared = sum(count for how, count in hows.items() if how != "absent")
    return (
        f"No language step ran: no text was looked at. Of {sum(hows.values()):,} documents read, {declared:,} declare a "
        f"language, which nothing has checked. Add a language filter to the recipe to find them."
    )


def _with_total(by_source: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The counts of each source, and of several those of all together."""
    return [*by_source.items(), *([(ALL, add_up(by_source.values()))] if len(by_source) > 1 else [])]


def _is_doubtful(how: str) -> bool:
    return how in DOUBTFUL or how.startswith("assumed ")


def _ordered(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _listed(counts: Mapping[str, int], most: int = 8) -> str:
    """ "12 absent, 3 named by the document", the most frequent first."""
    ordered = _ordered(counts)
    rest = sum(count for _, count in ordered[most:])
    shown = [f"{count:,} {name}" for name, count in ordered[:most]]
    return ", ".join([*shown, f"{rest:,} of {len(ordered) - most:,} other kinds"] if rest else shown)


def _cell(hows: Mapping[str, int]) -> str:
    marked = []
    for how, count in _ordered(hows):
        text = f"{count:,} {escape(how)}"
        marked.append(f"<b class=warn>{text}</b>" if _is_doubtful(how) else text)
    return "<br>".join(marked) or "-"
