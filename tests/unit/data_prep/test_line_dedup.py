"""Repeated lines and paragraphs: against a plain count in memory, in any division of the work."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup import external_sort, lines
from data_prep.dedup.lines import RepeatedTextSettings
from data_prep.document import Document, read_documents, read_records, write_documents
from data_prep.stage import Parts, Runner

LINES = [
    "Home page",
    "home  PAGE.",
    "Ümlaut 12 lines",
    "umlaut 99 lines",
    "one of a kind",
    "short",
    "!!!!!!!!!!!",
    "12:30 09:15",
    " ",
    "",
]


def run(folder: Path, texts: list[str], cuts: list[int], choice: RepeatedTextSettings) -> Parts:
    bounds, files = [0, *sorted(cuts), len(texts)], []
    for index, (start, stop) in enumerate(pairwise(bounds)):
        files.append(folder / f"part-{index:05d}.jsonl.zst")
        write_documents(files[-1], [Document(f"d{n}", texts[n], "s", {}) for n in range(start, stop)])
    return lines.run(Runner(1), folder / "out", Parts.of_files(files), choice)


def kept(parts: Parts) -> dict[str, str]:
    return {document.id: document.text for file in parts.files for document in read_documents(file)}


def brute_force(texts: list[str], choice: RepeatedTextSettings) -> dict[str, str]:
    separator = lines.SEPARATORS[choice.unit]
    seen: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        for unit in text.split(separator):
            seen.setdefault(lines.normalise(unit).replace("\n", ""), []).append(number)
    result, passed = {}, set()
    for number, text in enumerate(texts):
        left = []
        for unit in text.split(separator):
            normal = lines.normalise(unit).replace("\n", "")
            judged = normal.strip("0") and len(unit.strip()) >= choice.min_characters
            first = choice.keep_first and normal not in passed
            if judged:
                passed.add(normal)
            if not (judged and len(set(seen[normal])) > choice.max_documents) or first:
                left.append(unit)
        new = separator.join(left)
        if len(left) == len(text.split(separator)):
            result[f"d{number}"] = text
        elif new.strip() and len(new.strip()) >= choice.min_kept * len(text.strip()):
            result[f"d{number}"] = new.strip()
    return result


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from(LINES), max_size=5), max_size=10),
    st.sampled_from(list(lines.SEPARATORS)),
    st.integers(1, 3),
    st.booleans(),
    st.lists(st.integers(0, 10), max_size=2),
    st.integers(200, 3000),
)
def test_against_a_count_in_memory(texts, unit, limit, keep_first, cuts, memory):
    texts = [lines.SEPARATORS[unit].join(text) for text in texts]
    choice = RepeatedTextSettings(unit=unit, min_characters=6, max_documents=limit, keep_first=keep_first, min_kept=0.4)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(RepeatedTextSettings, "memory_bytes", memory)
        patch.setattr(external_sort, "RANGE_PAIRS", 4)
        parts = run(Path(folder), texts, [min(cut, len(texts)) for cut in cuts], choice)
        assert kept(parts) == brute_force(texts, choice)


def test_what_counts_as_the_same_line():
    assert lines.normalise("Posted on 12 March 2009, at 7:05!") == lines.normalise("posted on 21 March 1999 at 1:23")
    assert lines.normalise("Café — crème") == lines.normalise("cafe\u0301 creme")
    assert lines.normalise("a\nb") == "a\nb"
    assert lines.normalise("日本。") == "日本"


def test_counts_and_drops(tmp_path):
    notice = "All rights reserved by the publisher."
    texts = [f"{notice}\nText of document number {'abcdefgh'[n]}, which is long enough to stay." for n in range(8)]
    texts += [notice, f"{notice}\nhm", "Nothing repeated.\n\nAt all."]
    parts = run(tmp_path, texts, [], RepeatedTextSettings(max_documents=5))
    left = kept(parts)
    assert left["d0"] == texts[0] and left["d1"] == texts[1].removeprefix(notice + "\n") and left["d10"] == texts[10]
    assert parts.results[0]["removed_units"] == 7
    assert parts.results[0]["removed_characters"] == 7 * (len(notice) + 1)
    dropped = list(read_records(tmp_path / "out" / "documents" / "part-00000.dropped.jsonl.zst"))
    assert [(record["id"], record["detail"]) for record in dropped] == [
        ("d8", "0 of 37 characters are left without 1 repeated line"),
        ("d9", "2 of 40 characters are left without 1 repeated line"),
    ]
    assert {record["reason"] for record in dropped} == {"mostly repeated lines"}
