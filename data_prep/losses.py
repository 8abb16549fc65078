"""What a build lost, source by source: drops with their rates, filters that take too much, and inputs set aside by reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

ALARM = 0.5
"""Share of a source's documents above which one step's drops are said at once."""


def by_source(results: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """{source: {"step: reason": documents dropped}} of the results of stages."""
    total: dict[str, dict[str, int]] = {}
    for result in results:
        for reason, counts in result["dropped"].items():
            for source, count in counts.items():
                row = total.setdefault(source, {})
                row[reason] = row.get(reason, 0) + count
    return total


def alarms(read: dict[str, int], dropped: dict[str, dict[str, int]]) -> list[str]:
    """A sentence for each step that dropped more than half of the documents read from a source, with its first reasons."""
    sentences = []
    for source, reasons in dropped.items():
        steps: dict[str, list[tuple[int, str]]] = {}
        for reason, count in reasons.items():
            step, _, why = reason.partition(": ")
            steps.setdefault(step, []).append((count, why))
        for step, whys in steps.items():
            count = sum(number for number, _ in whys)
            if count > ALARM * read.get(source, 0) > 0:
                shown = _and_more([f"{number:,} {why}" for number, why in sorted(whys, key=lambda w: (-w[0], w[1]))], 3)
                share = f"{count / read[source]:.0%} of the {read[source]:,} documents"
                sentences.append(f"{step} dropped {share} of {source}: {'; '.join(shown)}")
    return sentences


def table(read: dict[str, int], dropped: dict[str, dict[str, int]]) -> list[tuple[str, str, int, float]]:
    """(source, "step: reason", documents, share of the documents with text that were read), the largest first per source."""
    rows = []
    for source, reasons in sorted(dropped.items()):
        for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
            rows.append((source, reason, count, count / read[source] if read.get(source) else 0.0))
    return rows


def group_set_aside(entries: Iterable[dict[str, str]]) -> list[tuple[str, list[str]]]:
    """(reason, the inputs set aside for it), the most frequent first; reasons that differ in numbers alone are one."""
    groups: dict[str, tuple[str, list[str]]] = {}
    for entry in entries:
        groups.setdefault(re.sub(r"\d+", "0", entry["reason"]), (entry["reason"], []))[1].append(entry["where"])
    return sorted(groups.values(), key=lambda group: -len(group[1]))


def set_aside_lines(entries: list[dict[str, str]], count: int) -> list[str]:
    """The groups for a person: a line of number and reason each, with the first inputs below it; one alone on one line."""
    lines, groups = [], group_set_aside(entries)
    for reason, places in groups[:10]:
        if len(places) == 1:
            lines.append(f"{places[0]}: {reason}")
        else:
            lines += [f"{len(places):,} x {reason}", *(f"    {place}" for place in _and_more(places, 3))]
    if len(groups) > 10:
        lines.append(f"and {len(groups) - 10:,} more reasons")
    if count > len(entries):
        lines.append(f"{count - len(entries):,} more inputs were counted but not listed")
    return lines


def _and_more(items: list[str], shown: int) -> list[str]:
    return items if len(items) <= shown else [*items[:shown], f"and {len(items) - shown:,} more"]
